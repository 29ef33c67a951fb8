"""A job of every minute on a device whose clocks misbehave: ours beside three loops as people write them.

``python -m benchmarks.schedule_simulation`` lets a device live for twenty simulated days: its counter runs 50 to 500
ppm wrong, time comes over LTE every 64 s, someone sets the wall clock an hour forward or back eight times a day, and
three times a day it sleeps for 1 to 60 minutes, after which its counter is up to 0.9 s off. Printed are, per day: slots
that nobody ran although the device was awake, slots that ran more than once, and runs more than 30 s from their slot;
and how far runs are from their slots.

A loop's slot is the minute that it believes in; of the loop that only sleeps, which believes in none, the nearest.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from bisect import bisect_right
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from edge_agent.core.slots import Misfire, decide
from edge_agent.core.timebase import BUILD_EPOCH, UtcNs, WallNs, seconds
from edge_agent.core.triggers import Every
from tests.support.clock_simulation import HOUR_S, Counter, Device, Server, percentile, servers

DAYS: Final = 20
DAY_S: Final = 24 * HOUR_S
PERIOD_S: Final = 60
SETTLED_S: Final = 600.0
"""The first minutes are not judged: time is not known yet."""

STEPS_A_DAY, SLEEPS_A_DAY = 8, 3
POLL_S: Final = 64.0
LOOK_AT_LEAST_S: Final = 30.0
FAR_S: Final = 30.0
LATE_S: Final = 0.5e-3
EDGE_S: Final = 1.0
"""Slots so close to falling asleep or waking up are nobody's: which side they are on is what nobody can know."""

Run = tuple[int, float]
"""The number of a slot, and when it ran, in true seconds."""


class World:
    """What happens to a device, in true seconds.

    Attributes:
        until: when it ends.
        counter: the device's counter.
        sleeps: when it falls asleep and wakes up.
    """

    def __init__(self, seed: int, days: float) -> None:
        """Draw what happens."""
        rng = random.Random(seed)  # noqa: S311  # reproducible
        self.until = days * DAY_S
        self.counter = Counter(seed, "indoor", hours=days * 24 + 1)
        self.sleeps: list[tuple[float, float]] = []
        share = DAY_S / SLEEPS_A_DAY
        for number in range(int(days * SLEEPS_A_DAY)):
            begin = share * number + rng.uniform(SETTLED_S, share - HOUR_S - SETTLED_S)
            self.sleeps.append((begin, begin + rng.uniform(60, HOUR_S)))
            self.counter.jumps.append((self.sleeps[-1][1], rng.uniform(-0.9, 0.9)))
        self._steps = sorted(rng.uniform(SETTLED_S, self.until) for _ in range(int(days * STEPS_A_DAY)))
        self._by, by = [0.0], 0.0
        for _ in self._steps:
            by += rng.choice((-HOUR_S, HOUR_S)) if abs(by) < HOUR_S else -math.copysign(HOUR_S, by)
            self._by.append(by)

    def stepped_s(self, t: float) -> float:
        """Return how far the wall clock was set away by people until ``t``."""
        return self._by[bisect_right(self._steps, t)]

    def since_start_s(self, t: float) -> float:
        """Return what the device's counter says, in seconds since the start."""
        return (self.counter.raw(t) - self.counter.raw(0.0)) / 1e9

    def wall_s(self, t: float) -> float:
        """Return what the wall clock says, in seconds since the start: it was right then."""
        return self.since_start_s(t) + self.stepped_s(t)

    def next_sleep(self, t: float) -> tuple[float, float]:
        """Return the first sleep that ends later."""
        at = bisect_right(self.sleeps, t, key=lambda sleep: sleep[1])
        return self.sleeps[at] if at < len(self.sleeps) else (math.inf, math.inf)

    def pause(self, t: float, for_s: float) -> float:
        """Return when a pause ends that is measured by CLOCK_MONOTONIC: it stops while the device sleeps."""
        while t + for_s > self.next_sleep(t)[0]:
            begin, end = self.next_sleep(t)
            for_s -= self.since_start_s(begin) - self.since_start_s(t)
            t = end
        return self.elapse(t, for_s)

    def elapse(self, t: float, for_s: float) -> float:
        """Return when the counter has gone on by so much, and a loop notices: about half a millisecond later."""
        return t + 2 * for_s - (self.since_start_s(t + for_s) - self.since_start_s(t)) + LATE_S

    def is_awake(self, t: float) -> bool:
        """Whether the device is awake then, and is not about to sleep, or just awake."""
        begin, end = self.next_sleep(t - EDGE_S)
        return not begin - EDGE_S <= t <= end + EDGE_S


# ---------------------------------------------------------------- loops
def sleeping(world: World) -> Iterator[Run]:
    """``await asyncio.sleep(60)`` after each run."""
    t = 0.0
    while (t := world.pause(t, PERIOD_S)) < world.until:
        yield round(t / PERIOD_S), t


def by_the_wall(world: World) -> Iterator[Run]:
    """Sleep until the next full minute of ``time.time()``."""
    t = 0.0
    while t < world.until:
        now = world.wall_s(t)
        slot = now // PERIOD_S + 1
        t = world.pause(t, slot * PERIOD_S - now)
        yield int(slot), t


def by_the_last_offset(world: World) -> Iterator[Run]:
    """At each minute of ``time.time()`` plus the offset of the last NTP answer, looked at each second at least."""
    server = servers("lte", 1, 1)[0]
    t, asked, offset, slot = 0.0, -math.inf, 0.0, 0
    while t < world.until:
        if t >= asked + POLL_S:
            asked, offset = t, _offset(world, server, t, offset)
        now = world.wall_s(t) + offset
        if now // PERIOD_S != slot:
            slot = int(now // PERIOD_S)
            yield slot, t
        t = world.pause(t, min(1.0, (slot + 1) * PERIOD_S - now))


def _offset(world: World, server: Server, t: float, before: float) -> float:
    sample = server.ask(t, world.counter)
    if sample is None:
        return before
    return (sample.utc - BUILD_EPOCH) / 1e9 - (sample.raw - world.counter.raw(0.0)) / 1e9 - world.stepped_s(t)


def ours(world: World) -> Iterator[Run]:
    """True time from the counter, slots from true time, and what was decided is kept."""
    device = Device(world.counter, servers("lte", 1, 1), poll_s=POLL_S)
    every = Every(seconds(PERIOD_S), seconds(0))
    misfire = Misfire("skip", window=seconds(DAY_S), tolerance=seconds(1), limit=0)
    t, last = 0.0, UtcNs(0)
    while t < world.until:
        reading = device.discipline.at(world.counter.raw(t), WallNs(0))
        if reading.state in ("unsynced", "acquiring"):
            last, pause_s = reading.utc, 1.0
        else:
            decision = decide(every, misfire, last=last, now=reading.utc)
            yield from (((slot - BUILD_EPOCH) // seconds(PERIOD_S), t) for slot in decision.run)
            last, pause_s = decision.last, LOOK_AT_LEAST_S
            if decision.next is not None:
                pause_s = min((decision.next - reading.utc) / 1e9, LOOK_AT_LEAST_S)
        fast = 1 + (device.discipline.frequency_ppm or 0.0) / 1e6  # the timer runs on the counter
        t = _live(world, device, t, world.elapse(t, pause_s * fast))


def _live(world: World, device: Device, since: float, until: float) -> float:
    """Let the device poll until a timer of CLOCK_BOOTTIME ends, or it wakes up; return when."""
    begin, end = world.next_sleep(since)
    device.live(since, min(until, begin), check_s=math.inf)
    if until < begin:
        return until
    device.wake(end, end - begin)
    return end


LOOPS: Final[dict[str, Callable[[World], Iterator[Run]]]] = {
    "asyncio.sleep(60)": sleeping,
    "time.time()": by_the_wall,
    "time.time() + last offset": by_the_last_offset,
    "edge-agent": ours,
}


@dataclass(frozen=True)
class Score:
    """What a loop did: counts, and how far its runs were from their slots, in seconds."""

    missed: int
    twice: int
    far: int
    median_s: float
    p99_s: float


def judge(world: World, runs: Sequence[Run]) -> Score:
    """Compare what ran with the slots there were."""
    ran = Tally(slot for slot, t in runs if t >= SETTLED_S)
    slots = range(int(SETTLED_S) // PERIOD_S + 1, int(world.until) // PERIOD_S - 1)
    distances = sorted(abs(t - slot * PERIOD_S) for slot, t in runs if t >= SETTLED_S)
    return Score(
        missed=sum(world.is_awake(slot * PERIOD_S) and slot not in ran for slot in slots),
        twice=sum(count - 1 for count in ran.values()),
        far=sum(distance > FAR_S for distance in distances),
        median_s=percentile(distances, 0.5),
        p99_s=percentile(distances, 0.99),
    )


def main() -> int:
    """Print the table; return 1 if ours missed a slot, or ran one twice or far from its time."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.schedule_simulation", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--days", type=float, default=DAYS, help=f"simulated days; default: {DAYS}")
    parser.add_argument("--seed", type=int, default=1, help="of what happens; default: 1")
    arguments = parser.parse_args()
    world, days = World(arguments.seed, arguments.days), arguments.days
    print(f"{'per day':26}{'missed awake':>14}{'twice':>10}{'> 30 s off':>12}{'p50 off, s':>12}{'p99 off, s':>12}")
    score = None
    for name, loop in LOOPS.items():
        score = judge(world, list(loop(world)))
        counts = f"{score.missed / days:14.2f}{score.twice / days:10.2f}{score.far / days:12.2f}"
        print(f"{name:26}{counts}{score.median_s:12.4f}{score.p99_s:12.4f}", flush=True)
    return int(score is None or (score.missed, score.twice, score.far) != (0, 0, 0))


if __name__ == "__main__":
    sys.exit(main())
