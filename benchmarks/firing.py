"""How late timers fire: ours from the kernel's alarm, on true time, against asyncio's call_at, turn by turn in one run.

``python -m benchmarks.firing`` waits for 1000 deadlines of each, due in 5 to 30 ms, first on the machine as it is, then
beside three programs that want all processors. It prints the median, the 99th percentile, the latest and the earliest
firing in microseconds after the deadline (negative = early), by the clock that the deadline was set on: for ours true
time, which is the raw counter here, for call_at the loop's. Then it counts wake-ups, for 100 timers due one by one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from typing_extensions import override

from benchmarks.footprint import Row, at_most
from benchmarks.workload import report
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.adapters.timerfd import KernelAlarm
from edge_agent.core.timebase import UtcNs, seconds
from edge_agent.services.timers import Timers
from tests.support.clock_simulation import percentile

HOGS: Final = 3
SOON_S, LATE_S = 0.005, 0.03
MAX_MEDIAN_US: Final = 150.0  # plan; idle
MAX_P99_US: Final = 1000.0  # plan; idle
MAX_P99_BUSY_US: Final = 10_000.0  # plan; with three hogs
MAX_WAKES: Final = 1.2  # plan; times the distinct instants at which something is due

CLOCK: Final = SystemClock()


class Counting:
    """Makes alarms, and counts how often they ring."""

    def __init__(self) -> None:
        self.rings = 0

    def __call__(self, ring: Callable[[], None]) -> KernelAlarm:
        """Make one."""

        def counted() -> None:
            self.rings += 1
            ring()

        return KernelAlarm(counted)


def now() -> UtcNs:
    """Return what is true time here: the counter, which runs at another rate than the alarm's clock."""
    return UtcNs(CLOCK.raw())


@dataclass(frozen=True, slots=True)
class Lateness:
    """Of many firings, in microseconds after the deadline."""

    median: float
    p99: float
    latest: float
    earliest: float

    @classmethod
    def of(cls, late_ns: list[int]) -> Lateness:
        """Return the figures of a list of nanoseconds."""
        late = sorted(one / 1000 for one in late_ns)
        return cls(percentile(late, 0.5), percentile(late, 0.99), late[-1], late[0])

    @override
    def __str__(self) -> str:
        return f"p50 {self.median:.0f}, p99 {self.p99:.0f}, max {self.latest:.0f}, earliest {self.earliest:.1f} us"


async def fire(timers: Timers, count: int, draw: random.Random) -> tuple[Lateness, Lateness]:
    """Return how late ours and call_at's are."""
    loop = asyncio.get_running_loop()
    ours: list[int] = []
    theirs: list[int] = []
    for _ in range(count):
        fired = asyncio.Event()
        due = UtcNs(now() + seconds(draw.uniform(SOON_S, LATE_S)))

        def ring(due: int = due, fired: asyncio.Event = fired) -> None:
            ours.append(now() - due)
            fired.set()

        timers.put("due", due, ring)
        await fired.wait()
        fired.clear()
        when = loop.time() + draw.uniform(SOON_S, LATE_S)

        def call(when: float = when, fired: asyncio.Event = fired) -> None:
            theirs.append(round((time.monotonic() - when) * 1e9))
            fired.set()

        loop.call_at(when, call)
        await fired.wait()
    return Lateness.of(ours), Lateness.of(theirs)


async def wakes(timers: Timers, alarm: Counting, apart_s: float, count: int) -> float:
    """Return how often the alarm rang for each of so many timers."""
    done = asyncio.Event()
    begin = alarm.rings
    start = now()
    for number in range(1, count + 1):
        timers.put(str(number), UtcNs(start + seconds(apart_s * number)), done.set if number == count else lambda: None)
    await done.wait()
    return (alarm.rings - begin) / count


@contextlib.contextmanager
def hogs(count: int) -> Iterator[None]:
    """Keep the processors busy."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for hog in running:
            hog.kill()
            hog.wait()


async def measure(args: argparse.Namespace) -> list[Row]:
    """Run all of it."""
    draw = random.Random(13)  # noqa: S311  # the same deadlines in every run
    rows: list[Row] = []
    alarm = Counting()
    timers = Timers(alarm, now)
    run = asyncio.get_running_loop().create_task(timers.run())
    for name, busy in (("idle", 0), (f"{HOGS} hogs", HOGS)):
        with hogs(busy):
            rows += judge(name, *await fire(timers, args.count, draw))
    timers.rearm()
    each = await wakes(timers, alarm, args.apart, 100)
    rows.append(at_most(f"wake-ups, due {args.apart:g} s apart", f"{each:.2f} for each", each, MAX_WAKES, ""))
    run.cancel()
    await asyncio.wait((run,))
    return rows


def judge(name: str, ours: Lateness, theirs: Lateness) -> list[Row]:
    """Return the lines of one load."""
    rows = [Row(f"{name}: call_at", str(theirs), theirs.p99), Row(f"{name}: edge-agent", str(ours), ours.p99)]
    if name == "idle":
        rows.append(at_most(f"{name}: median", f"{ours.median:.0f} us", ours.median, MAX_MEDIAN_US, "us"))
    limit = MAX_P99_US if name == "idle" else MAX_P99_BUSY_US
    rows.append(at_most(f"{name}: 99th percentile", f"{ours.p99:.0f} us", ours.p99, limit, "us"))
    early = max(-ours.earliest, 0.0)
    rows.append(at_most(f"{name}: early by", f"{early:.0f} us", early, 0, "us"))
    ratio = f"{theirs.median / ours.median:.1f} x at the median, {theirs.p99 / ours.p99:.1f} x at the 99th percentile"
    return [*rows, Row(f"{name}: call_at over ours", ratio, theirs.median / ours.median)]


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.firing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000, help="firings of each (default: 1000)")
    parser.add_argument("--apart", type=float, default=0.6, help="seconds between timers that wake (default: 0.6)")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a requirement is missed")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    args = parser.parse_args()
    return report(asyncio.run(measure(args)), args)


if __name__ == "__main__":
    sys.exit(main())
