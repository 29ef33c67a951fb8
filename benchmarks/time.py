"""The estimate of true time against simpler ones, on the same simulated oscillators, paths and samples.

``python -m benchmarks.time`` lets devices live through a day online, one server every 64 s. For each network and place
it prints how far each estimator is off: the median and the 99th percentile from the sixth hour on, and the median of
how far off it would be one and twelve hours later if the network went at a full hour; the last row is ours over the
best. Then it prints what a sample and a reading cost, as multiples of one plain reading of the clock.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable
from statistics import median
from typing import Final, TypeAlias

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
OFFLINE_H: Final = (1.0, 12.0)
FROM_H: Final = 6.0
OURS: Final = "edge-agent"
CLOSE: Final = 1.15
"""Ours may be so many times the best of a cell."""

COST_LOOPS: Final = 20_000


Cell: TypeAlias = dict[float, list[float]]
"""Errors of one estimator in one network and place, in milliseconds, by how many hours ago the network went."""


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


PEERS: Final[dict[str, Callable[[], LastOffset | Regression]]] = {
    "last offset": LastOffset,
    "shortest of 8": ShortestOfEight,
    "regression": Regression,
}


def live(network: str, place: str, seed: int, cells: dict[str, Cell]) -> None:
    """Let one device live, all estimators on the same samples."""
    counter = Counter(seed, place, hours=ONLINE_H + max(OFFLINE_H) + 1)
    device = Device(counter, servers(network, seed, 1), poll_s=POLL_S)
    peers = {name: make() for name, make in PEERS.items()}
    take = device.discipline.take

    def taking(sample: Sample) -> str:
        for peer in peers.values():
            peer.take(sample)
        return take(sample)

    device.discipline.take = taking  # type: ignore[method-assign]
    for look in range(1, int(ONLINE_H * HOUR_S / STEP_S) + 1):
        t = look * STEP_S
        device.live(t - STEP_S, t)
        if t < FROM_H * HOUR_S:
            continue
        ahead = (0.0, *OFFLINE_H) if t % HOUR_S == 0 else (0.0,)
        for hours in ahead:
            then = t + hours * HOUR_S
            raw, truth = counter.raw(then), BUILD_EPOCH + round(then * 1e9)
            known = device.discipline.true_time(raw)
            assert known is not None, "it is synchronised"
            shown: dict[str, float] = {OURS: known[0] if hours else device.discipline.at(raw, WallNs(0)).utc}
            for name, utc in (shown | {name: peer.at(raw) for name, peer in peers.items()}).items():
                cells[name][hours].append(abs(utc - truth) / 1e6)


def _figures(cell: Cell) -> list[float]:
    """Return the median and the 99th percentile online, and the medians offline."""
    online = sorted(cell[0.0])
    return [percentile(online, 0.5), percentile(online, 0.99), *(median(cell[hours]) for hours in OFFLINE_H)]


def compare(seeds: int) -> bool:
    """Print the table; return whether ours is the best, or nearly, in every cell."""
    titles = ("p50 online", "p99 online", "1 h offline", "12 h offline")
    print(f"errors in ms, {seeds} devices each; one server every {POLL_S:.0f} s")
    print(f"{'':24}" + "".join(f"{title:>14}" for title in titles))
    close = True
    for network in NETWORKS:
        for place in PLACES:
            cells: dict[str, Cell] = {name: defaultdict(list) for name in (OURS, *PEERS)}
            for seed in range(seeds):
                live(network, place, seed, cells)
            figures = {name: _figures(cell) for name, cell in cells.items()}
            for name, row in figures.items():
                print(f"{network + ' ' + place:10} {name:13}" + "".join(f"{value:14.3f}" for value in row))
            best = [min(row[n] for row in figures.values()) for n in range(len(titles))]
            ratios = [ours / least for ours, least in zip(figures[OURS], best, strict=True)]
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
