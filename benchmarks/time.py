"""The estimate of true time against simpler ones, on the same simulated oscillators, paths and samples.

``python -m benchmarks.time`` lets devices live through a day online, one server every 64 s, and half a day offline, and
prints for each network and place how far each estimator is off: the median and the 99th percentile online (from the
sixth hour on), and the median of the devices after one and after twelve hours offline. The last column is ours over the
best of all. Then it prints what a sample and a reading cost, as multiples of one plain reading of the clock.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from typing_extensions import override

from edge_agent.adapters.system_clock import SystemClock
from edge_agent.core.discipline import Discipline, Policy
from edge_agent.core.sample import Sample
from edge_agent.core.timebase import BUILD_EPOCH, RawNs, WallNs
from tests.support.clock_simulation import HOUR_S, STEP_S, Counter, Device, percentile, servers

NETWORKS: Final = ("lan", "wan", "lte")
PLACES: Final = ("indoor", "outdoor")
POLL_S: Final = 64.0
ONLINE_H: Final = 24.0
OFFLINE_H: Final = 12.0
FROM_H: Final = 6.0
CLOSE: Final = 1.15
"""Ours may be so many times the best of a cell."""

COST_LOOPS: Final = 20_000


class LastOffset:
    """What hobby code does: the offset of the last sample."""

    def __init__(self) -> None:
        self._offset = 0

    def take(self, sample: Sample) -> None:
        """Learn from a sample."""
        self._offset = sample.utc - sample.raw

    def at(self, raw: int) -> float:
        """Return true time at a reading of the counter."""
        return raw + self._offset


class ShortestOfEight(LastOffset):
    """The offset of the quickest of the last eight samples: the clock filter of NTP without its discipline."""

    def __init__(self) -> None:
        super().__init__()
        self._recent: deque[Sample] = deque(maxlen=8)

    @override
    def take(self, sample: Sample) -> None:
        self._recent.append(sample)
        super().take(min(self._recent, key=lambda one: one.delay_ns))


class Regression:
    """A line through the last 64 samples, each with the less weight the longer it took beyond the shortest."""

    def __init__(self) -> None:
        self._recent: deque[Sample] = deque(maxlen=64)
        self._base = self._since = 0
        self._offset = self._slope = 0.0

    def take(self, sample: Sample) -> None:
        """Learn from a sample."""
        self._recent.append(sample)
        self._base, self._since = sample.utc - sample.raw, sample.raw
        shortest = min(one.delay_ns for one in self._recent)
        points = [
            (
                float(one.raw - self._since),
                float(one.utc - one.raw - self._base),
                1 / (30_000 + one.delay_ns - shortest) ** 2,
            )
            for one in self._recent
        ]
        total = sum(weight for *_, weight in points)
        mean_x = sum(x * weight for x, _, weight in points) / total
        mean_y = sum(y * weight for _, y, weight in points) / total
        spread = sum(weight * (x - mean_x) ** 2 for x, _, weight in points)
        product = sum(weight * (x - mean_x) * (y - mean_y) for x, y, weight in points)
        self._slope = product / spread if spread else 0.0
        self._offset = mean_y - self._slope * mean_x

    def at(self, raw: int) -> float:
        """Return true time at a reading of the counter."""
        return raw + self._base + self._offset + self._slope * (raw - self._since)


@dataclass
class Cell:
    """Errors of one estimator in one network and place, in milliseconds."""

    online: list[float] = field(default_factory=list)
    after_1h: list[float] = field(default_factory=list)
    after_12h: list[float] = field(default_factory=list)

    def figures(self) -> tuple[float, float, float, float]:
        """Return the median and the 99th percentile online, and the medians offline."""
        online = sorted(self.online)
        return (
            percentile(online, 0.5),
            percentile(online, 0.99),
            percentile(sorted(self.after_1h), 0.5),
            percentile(sorted(self.after_12h), 0.5),
        )


PEERS: Final[dict[str, Callable[[], LastOffset | Regression]]] = {
    "last offset": LastOffset,
    "shortest of 8": ShortestOfEight,
    "regression": Regression,
}


def live(network: str, place: str, seed: int, cells: dict[str, Cell]) -> None:
    """Let one device live, all estimators on the same samples."""
    counter = Counter(seed, place, hours=ONLINE_H + OFFLINE_H + 1)
    device = Device(counter, servers(network, seed, 1), poll_s=POLL_S)
    device.online = lambda t: t < ONLINE_H * HOUR_S
    peers = {name: make() for name, make in PEERS.items()}
    take = device.discipline.take

    def taking(sample: Sample) -> str:
        for peer in peers.values():
            peer.take(sample)
        return take(sample)

    device.discipline.take = taking  # type: ignore[method-assign]
    end = ONLINE_H * HOUR_S
    for look in range(1, int((ONLINE_H + OFFLINE_H) * HOUR_S / STEP_S) + 1):
        t = look * STEP_S
        device.live(t - STEP_S, t)
        if t < FROM_H * HOUR_S or (t >= end and t not in (end + HOUR_S, end + OFFLINE_H * HOUR_S)):
            continue
        raw, truth = counter.raw(t), BUILD_EPOCH + round(t * 1e9)
        shown: dict[str, float] = {"edge-agent": device.discipline.at(raw, WallNs(0)).utc}
        shown |= {name: peer.at(raw) for name, peer in peers.items()}
        for name, utc in shown.items():
            error = abs(utc - truth) / 1e6
            cell = cells[name]
            where = cell.online if t < end else cell.after_1h if t == end + HOUR_S else cell.after_12h
            where.append(error)


def compare(seeds: int) -> bool:
    """Print the table; return whether ours is the best, or nearly, in every cell."""
    titles = ("p50 online", "p99 online", "1 h offline", "12 h offline")
    print(f"errors in ms, {seeds} devices each; one server every {POLL_S:.0f} s")
    print(f"{'':24}" + "".join(f"{title:>14}" for title in titles))
    close = True
    for network in NETWORKS:
        for place in PLACES:
            cells = {name: Cell() for name in ("edge-agent", *PEERS)}
            for seed in range(seeds):
                live(network, place, seed, cells)
            figures = {name: cell.figures() for name, cell in cells.items()}
            for name, row in figures.items():
                print(f"{network + ' ' + place:10} {name:13}" + "".join(f"{value:14.3f}" for value in row))
            best = [min(row[n] for row in figures.values()) for n in range(len(titles))]
            ratios = [ours / least for ours, least in zip(figures["edge-agent"], best, strict=True)]
            print(f"{'':10} {'over the best':13}" + "".join(f"{ratio:14.2f}" for ratio in ratios), flush=True)
            close = close and max(ratios) <= CLOSE
    return close


def cost() -> None:
    """Print what a sample and a reading cost, over one plain reading of the clock in the same run."""
    clock = SystemClock()
    counter, discipline = Counter(1, "indoor", hours=40), Discipline(Policy(("s0",)))
    server = servers("wan", 1, 1)[0]
    samples = [one for n in range(2000) if (one := server.ask(n * 64.0, counter)) is not None]
    plain = _each(lambda _n: time.time_ns(), COST_LOOPS)
    learned = _each(lambda n: discipline.take(samples[n]), len(samples))
    start = samples[-1].raw
    read = _each(lambda n: discipline.at(RawNs(start + n * 1000), WallNs(0)), COST_LOOPS)
    both = _each(lambda _n: discipline.at(clock.raw(), clock.wall()), COST_LOOPS)
    print(f"time.time_ns()            {plain * 1e6:8.2f} us")
    for name, each in (("a sample", learned), ("a reading", read), ("clocks and a reading", both)):
        print(f"{name:25} {each * 1e6:8.2f} us {each / plain:10.1f} x")


def _each(call: Callable[[int], object], count: int) -> float:
    """Return the seconds of processor time of one call, the best of three rounds; the first rounds warm up."""
    rounds = []
    for _ in range(3):
        began = time.process_time()
        for n in range(count):
            call(n)
        rounds.append((time.process_time() - began) / count)
    return min(rounds)


def main() -> int:
    """Measure; return 1 if another estimator is better by more than 15 % in a cell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.time", description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=8, help="devices per cell; default: 8")
    close = compare(parser.parse_args().seeds)
    cost()
    print(
        "best, or within 15 % of the best, in every cell" if close else "another is better by more than 15 % in a cell"
    )
    return 0 if close else 1


if __name__ == "__main__":
    sys.exit(main())
