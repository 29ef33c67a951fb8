"""A device's oscillator, the ways to time servers, and the servers, in simulated time; and a device that lives there.

The truth is the simulation's own time in seconds; the device sees only its counter, and samples.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from edge_agent.core.discipline import Discipline, Happening, Policy, Reading
from edge_agent.core.sample import Sample
from edge_agent.core.saved_clock import SavedClock
from edge_agent.core.timebase import BUILD_EPOCH, DurationNs, RawNs, UtcNs, WallNs, seconds

STEP_S: Final = 10.0
BOOT_NS: Final = 50 * 10**9
HOUR_S: Final = 3600.0

# peak to peak by day and within 45 minutes, in ppm; and the random walk, in ppb per square root of a second
PLACES: Final = {"indoor": (1.5, 0.5, 1.0), "outdoor": (5.0, 1.5, 1.0), "stable": (0.2, 0.05, 0.3)}


class Counter:
    """The device's counter: runs at a rate that nobody knows, and goes on in suspend, badly measured.

    Attributes:
        extra: further changes: (from when, rate in ppm), as when the kernel changes its source.
        jumps: (when, by how many seconds it is off afterwards), as a suspend leaves behind.
    """

    def __init__(self, seed: int, place: str, *, hours: float, ppm: float | None = None) -> None:
        rng = random.Random(seed)  # noqa: S311  # reproducible
        base = rng.choice((-1, 1)) * rng.uniform(50, 500) if ppm is None else ppm
        daily, quick, walk_ppb = PLACES[place]
        phase, quick_phase = rng.uniform(0, 2 * math.pi), rng.uniform(0, 2 * math.pi)
        walk, offset = 0.0, 0.0
        self._offsets = [0.0]
        for step in range(int(hours * HOUR_S / STEP_S) + 2):
            t = step * STEP_S
            warm = (
                daily * math.sin(2 * math.pi * t / 86400 + phase)
                + quick * math.sin(2 * math.pi * t / 2700 + quick_phase)
            ) / 2
            walk += rng.gauss(0, walk_ppb * 1e-3 * math.sqrt(STEP_S))
            offset += (base + warm + walk) * 1e-6 * STEP_S
            self._offsets.append(offset)
        self.extra: list[tuple[float, float]] = []
        self.jumps: list[tuple[float, float]] = []

    def raw(self, t: float) -> RawNs:
        """Return its reading at a true time."""
        step = int(t / STEP_S)
        share = t / STEP_S - step
        offset = self._offsets[step] * (1 - share) + self._offsets[step + 1] * share
        offset += sum((t - since) * ppm * 1e-6 for since, ppm in self.extra if t > since)
        offset += sum(by for when, by in self.jumps if t >= when)
        return RawNs(BOOT_NS + round(t * 1e9) + round(offset * 1e9))


@dataclass
class Path:
    """One way to a server: each exchange takes a delay there and one back."""

    kind: str
    rng: random.Random
    there: float = 0.0
    back: float = 0.0
    busy: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        rng = self.rng
        if self.kind == "lan":
            self.there = self.back = 0.2e-3
        elif self.kind == "wan":
            one_way, asymmetry = rng.uniform(8e-3, 20e-3), rng.uniform(-3e-3, 3e-3)
            self.there, self.back = one_way + asymmetry / 2, one_way - asymmetry / 2
        else:
            one_way, asymmetry = rng.uniform(8e-3, 22e-3), rng.uniform(-2e-3, 6e-3)
            self.there, self.back = one_way + asymmetry / 2, one_way - asymmetry / 2
        if self.kind == "lte-calm":
            return
        self.busy = rng.uniform(0, 10 * HOUR_S), rng.uniform(12 * HOUR_S, 22 * HOUR_S)

    def exchange(self, t: float) -> tuple[float, float] | None:
        """Return the delays of one exchange; ``None`` = a packet was lost."""
        rng = self.rng
        if self.kind == "lan":
            return self.there + abs(rng.gauss(0, 0.05e-3)), self.back + abs(rng.gauss(0, 0.05e-3))
        if self.kind == "wan":
            return self.there + rng.expovariate(1 / 1e-3), self.back + rng.expovariate(1 / 2e-3)
        if rng.random() < 0.05:
            return None
        there, back = self.there + rng.expovariate(1 / 8e-3), self.back + rng.expovariate(1 / 4e-3)
        if rng.random() < 0.05:
            there += rng.uniform(0, 60e-3)
        if any(since <= t % 86400 < since + 2 * HOUR_S for since in self.busy):
            there += rng.uniform(20e-3, 200e-3)
        return there, back


@dataclass
class Server:
    """A server on a path; ``lie`` is what it adds to the truth at a time, in seconds.

    Attributes:
        detours: (since, until, by how many seconds the way there is longer).
    """

    name: str
    path: Path
    lie: Callable[[float], float] = lambda _t: 0.0
    error_s: float = 0.0
    detours: list[tuple[float, float, float]] = field(default_factory=list)

    def ask(self, t: float, counter: Counter) -> Sample | None:
        """Return what an exchange begun at ``t`` brings."""
        delays = self.path.exchange(t)
        if delays is None:
            return None
        there, back = delays
        there += sum(by for since, until, by in self.detours if since <= t < until)
        begun, ended = counter.raw(t), counter.raw(t + there + back)
        middle = t + there + self.error_s + self.lie(t)
        return Sample(
            self.name,
            RawNs((begun + ended) // 2),
            UtcNs(BUILD_EPOCH + round(middle * 1e9)),
            ended - begun,
            round(abs(self.error_s) * 1e9) + 50_000,
        )


def servers(kind: str, seed: int, count: int) -> list[Server]:
    """Return servers, each on a path of its own, each a little wrong and honest about it."""
    rng = random.Random(seed * 1000 + 7)  # noqa: S311  # reproducible
    slight = {"lan": 0.02e-3, "wan": 0.5e-3, "lte": 0.5e-3, "lte-calm": 0.5e-3}[kind]
    return [
        Server(f"s{n}", Path(kind, random.Random(rng.random())), error_s=rng.uniform(-slight, slight))  # noqa: S311
        for n in range(count)
    ]


@dataclass
class Run:
    """What came out: per check the time, the clock's error in seconds, and its reading."""

    errors: list[tuple[float, float]] = field(default_factory=list)
    bounds: list[tuple[float, float]] = field(default_factory=list)
    outside: list[float] = field(default_factory=list)
    states: list[tuple[float, str]] = field(default_factory=list)
    happenings: list[tuple[float, Happening]] = field(default_factory=list)
    rates: tuple[float, float] = (1.0, 1.0)
    checks: int = 0

    def within(self, since_h: float, until_h: float) -> list[float]:
        """Return the sizes of the errors within some hours, sorted, in milliseconds."""
        return sorted(abs(error) * 1e3 for t, error in self.errors if since_h * HOUR_S <= t < until_h * HOUR_S)


class Device:
    """A device that polls servers, and is looked at every ten seconds of the truth."""

    def __init__(
        self,
        counter: Counter,
        among: Sequence[Server],
        *,
        poll_s: float,
        discipline: Discipline | None = None,
        saved: SavedClock | None = None,
        boot: str = "b",
    ) -> None:
        self.counter = counter
        self.servers = list(among)
        self.poll_s = poll_s
        policy = Policy([one.name for one in among], holdover_after_ns=max(seconds(3 * poll_s), seconds(600)))
        self.discipline = discipline or Discipline(policy, saved=saved, boot=boot)
        self.online: Callable[[float], bool] = lambda _t: True
        self.asleep: Callable[[float], bool] = lambda _t: False
        self.run = Run()
        self._next = {one.name: 1.0 + 0.3 * n for n, one in enumerate(among)}
        self._burst = dict.fromkeys(self._next, 8)
        self._burst_until = 16.0
        self._last: tuple[float, RawNs, UtcNs] | None = None

    def burst(self, t: float) -> None:
        """Ask all servers eight times, as after a start."""
        self._burst_until = t + 16
        for n, one in enumerate(self.servers):
            self._next[one.name], self._burst[one.name] = t + 0.3 * n, 8

    def wake(self, t: float, slept_s: float) -> None:
        """Take note that the device slept until now."""
        self.discipline.suspended(DurationNs(seconds(slept_s)))
        self.burst(t)
        self._last = None

    def live(self, since_s: float, until_s: float, *, check_s: float = STEP_S) -> None:
        """Let time pass."""
        looks = [since_s + check_s * n for n in range(1, int((until_s - since_s) / check_s) + 1)]
        for t, server in self._agenda(looks, until_s):
            if self.asleep(t):
                continue
            if server is None:
                self.look(t)
            else:
                sample = server.ask(t, self.counter) if self.online(t) else None
                if sample is None:
                    self.discipline.missed(server.name)
                else:
                    self.discipline.take(sample)
                    if self.discipline.estimate.wants_samples and t > self._burst_until + 64:
                        self.burst(t + 2)

    def _agenda(self, looks: Sequence[float], until_s: float) -> Iterator[tuple[float, Server | None]]:
        at = 0
        while True:
            server = min(self.servers, key=lambda one: self._next[one.name])
            due = self._next[server.name]
            look = looks[at] if at < len(looks) else math.inf
            if min(due, look) > until_s or (due > until_s and look == math.inf):
                return
            if look <= due:
                at += 1
                yield look, None
            else:
                self._burst[server.name] -= 1
                self._next[server.name] = due + (2.0 if self._burst[server.name] > 0 else self.poll_s)
                yield due, server

    def look(self, t: float) -> Reading:
        """Compare the clock with the truth."""
        raw = self.counter.raw(t)
        reading = self.discipline.at(raw, WallNs(0))
        self.run.checks += 1
        truth = BUILD_EPOCH + round(t * 1e9)
        error = (reading.utc - truth) / 1e9
        if reading.error_ns is not None:
            self.run.errors.append((t, error))
            self.run.bounds.append((t, reading.error_ns / 1e9))
            if abs(error) * 1e9 > reading.error_ns:
                self.run.outside.append(t)
        if not self.run.states or self.run.states[-1][1] != reading.state:
            self.run.states.append((t, reading.state))
        if self._last is not None and reading.state not in ("unsynced", "acquiring"):
            rate = (reading.utc - self._last[2]) / max(raw - self._last[1], 1)
            self.run.rates = min(rate, self.run.rates[0]), max(rate, self.run.rates[1])
        self._last = (t, raw, reading.utc) if reading.state not in ("unsynced", "acquiring") else None
        for happening in self.discipline.happenings:
            self.run.happenings.append((t, happening))
            if happening.what == "estimate_restarted":
                self.burst(t)
            if happening.what == "time_stepped":
                self._last = None
        self.discipline.happenings.clear()
        return reading


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return a percentile of sorted numbers."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def first_good(run: Run, within_s: float, since_s: float) -> float:
    """Return how long after ``since_s`` the error was below a limit for the first time."""
    times = [t for t, _ in run.errors]
    at = bisect_right(times, since_s)
    return next((t - since_s for t, error in run.errors[at:] if abs(error) < within_s), math.inf)
