"""What a pending timer costs: our heap, a hierarchical timing wheel, the set that uses the heap, and asyncio's call_at.

``python -m benchmarks.timers`` puts 10^3, 10^5 and 10^6 timers with deadlines drawn evenly over an hour, cancels them
all in another order, or lets them all expire; it prints the processor time of each per timer, the memory per timer, and
all of that as multiples of bare ``call_at`` (of cancelling: with a table of its handles by name, as they have to be
found). Callbacks do nothing. The names exist beforehand and are not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Final, Protocol

from typing_extensions import override

from benchmarks.timing_wheel import TimingWheel
from edge_agent.core.timebase import BUILD_EPOCH, BootNs, UtcNs, seconds
from edge_agent.core.timer_queue import TimerQueue
from edge_agent.services.timers import Timers

COUNTS: Final = (1_000, 100_000, 1_000_000)
ROUNDS: Final = 3
HOUR: Final = seconds(3600)
MAX_INSERT: Final = 3.0  # plan; times bare call_at, at 10^6 timers
MAX_MEMORY: Final = 2.0  # plan; the same


def nothing() -> None:
    """Do nothing: the callback of all timers."""


class Contender(Protocol):
    """One way to keep timers."""

    def put(self, name: str, deadline: int) -> None:
        """Add one."""
        ...

    def cancel(self, name: str) -> object:
        """Remove one."""
        ...

    def settle(self) -> None:
        """Do what was put off while timers were cancelled."""
        ...

    def expire(self) -> None:
        """Let an hour pass, and all expire."""
        ...

    def close(self) -> None:
        """Give back what the system lent."""
        ...


class CallAt:
    """asyncio's own, on a loop whose time is set by hand."""

    class Loop(asyncio.SelectorEventLoop):
        """A loop that takes a turn when it is told to."""

        now = 0.0

        @override
        def time(self) -> float:
            return self.now

        def turn(self) -> None:
            """Run what is due."""
            self.call_soon(self.stop)
            self.run_forever()

    def __init__(self) -> None:
        self._loop = self.Loop()
        self._handles: dict[str, asyncio.TimerHandle] = {}

    def put(self, name: str, deadline: int) -> None:
        """See ``Contender``."""
        self._handles[name] = self._loop.call_at(deadline / 1e9, nothing)

    def cancel(self, name: str) -> object:
        """See ``Contender``."""
        handle = self._handles.pop(name)
        handle.cancel()
        return handle

    def settle(self) -> None:
        """See ``Contender``."""
        self._loop.turn()

    def expire(self) -> None:
        """See ``Contender``."""
        self._loop.now = 1e12
        self._loop.turn()

    def close(self) -> None:
        """See ``Contender``."""
        self._loop.close()


class BareCallAt(CallAt):
    """The same without the table: what is put cannot be found any more."""

    @override
    def put(self, name: str, deadline: int) -> None:
        self._loop.call_at(deadline / 1e9, nothing)


class Queue:
    """A queue by itself."""

    def __init__(self, queue: TimerQueue[Callable[[], None]] | TimingWheel[Callable[[], None]]) -> None:
        self._queue = queue
        self.cancel = queue.cancel

    def put(self, name: str, deadline: int) -> None:
        """See ``Contender``."""
        self._queue.put(name, deadline, nothing)

    def settle(self) -> None:
        """See ``Contender``."""

    def expire(self) -> None:
        """See ``Contender``."""
        for callback in self._queue.pop_due(BUILD_EPOCH + HOUR):
            callback()

    def close(self) -> None:
        """See ``Contender``."""


class Set:
    """The set of timers as it is used, running, with an alarm that rings when it is told to."""

    class Alarm:
        """See ``clock_ports.Alarm``."""

        def __init__(self, ring: Callable[[], None]) -> None:
            self.ring = ring

        def now(self) -> BootNs:
            """Stand still."""
            return BootNs(0)

        def arm(self, at: BootNs) -> None:
            """Do nothing."""

        def close(self) -> None:
            """Do nothing."""

    def __init__(self) -> None:
        self._now = BUILD_EPOCH
        self._loop = asyncio.new_event_loop()
        self._timers = Timers(self._make_alarm, lambda: self._now)
        self._run = self._loop.create_task(self._timers.run())
        self._loop.run_until_complete(asyncio.sleep(0))
        self.cancel = self._timers.cancel

    def put(self, name: str, deadline: int) -> None:
        """See ``Contender``."""
        self._timers.put(name, UtcNs(deadline), nothing)

    def settle(self) -> None:
        """See ``Contender``."""

    def expire(self) -> None:
        """See ``Contender``."""
        self._now = UtcNs(BUILD_EPOCH + HOUR)
        self._alarm.ring()

    def _make_alarm(self, ring: Callable[[], None]) -> Alarm:
        self._alarm = self.Alarm(ring)
        return self._alarm

    def close(self) -> None:
        """See ``Contender``."""
        self._run.cancel()
        self._loop.run_until_complete(asyncio.wait((self._run,)))
        self._loop.close()


CONTENDERS: Final[dict[str, Callable[[], Contender]]] = {
    "call_at": BareCallAt,
    "call_at, by name": CallAt,
    "heap": lambda: Queue(TimerQueue()),
    "wheel": lambda: Queue(TimingWheel(BUILD_EPOCH)),
    "Timers (heap)": Set,
}


@dataclass(slots=True)
class Cost:
    """Of one timer: nanoseconds of processor time, and bytes."""

    insert: float = float("inf")
    cancel: float = float("inf")
    expire: float = float("inf")
    memory: float = float("inf")

    def figures(self) -> tuple[float, ...]:
        """Return them in the order of the table."""
        return self.insert, self.cancel, self.expire, self.memory


def clocked(work: Callable[[], object], count: int) -> float:
    """Return the processor time of some work, in nanoseconds for each timer."""
    began = time.process_time_ns()
    work()
    return (time.process_time_ns() - began) / count


def measure(
    make: Callable[[], Contender], timers: Sequence[tuple[str, int]], others: Sequence[str], cost: Cost
) -> None:
    """Run one contender once, and keep what was cheaper than before."""
    count, repeat = len(timers), max(1, 20_000 // len(timers))

    def insert(contender: Contender) -> None:
        put = contender.put
        for name, wait in timers:
            put(name, BUILD_EPOCH + wait)

    def cancel(contender: Contender) -> None:
        remove = contender.cancel
        for name in others:
            remove(name)
        contender.settle()

    for _ in range(repeat):
        gc.collect()
        contender = make()
        cost.insert = min(cost.insert, clocked(partial(insert, contender), count))
        cost.expire = min(cost.expire, clocked(contender.expire, count))
        contender.close()
        if make is not BareCallAt:
            contender = make()
            insert(contender)
            cost.cancel = min(cost.cancel, clocked(partial(cancel, contender), count))
            contender.close()
    if cost.memory == float("inf"):
        contender = make()
        tracemalloc.start()
        insert(contender)
        cost.memory = tracemalloc.get_traced_memory()[0] / count
        tracemalloc.stop()
        contender.close()


def compare(count: int, draw: random.Random) -> dict[str, Cost]:
    """Return what each contender costs with so many timers; the rounds are interleaved."""
    timers = [(f"timer-{number}", draw.randrange(HOUR)) for number in range(count)]
    others = [name for name, _ in timers]
    draw.shuffle(others)
    costs = {name: Cost() for name in CONTENDERS}
    for _ in range(ROUNDS if count < max(COUNTS) else 1):
        for name, make in CONTENDERS.items():
            measure(make, timers, others, costs[name])
    return costs


def check_order(draw: random.Random) -> None:
    """Let heap and wheel live the same history, step by step, and compare what comes up."""
    heap, wheel = TimerQueue[int](), TimingWheel[int](0)
    now = 0
    for number in range(20_000):
        name, deadline = f"timer-{draw.randrange(500)}", now + draw.randrange(1 << draw.randrange(1, 44))
        if draw.random() < 0.8:
            heap.put(name, deadline, number)
            wheel.put(name, deadline, number)
        else:
            assert heap.cancel(name) == wheel.cancel(name)
        if number % 10 == 0:
            now += draw.randrange(1 << draw.randrange(1, 40))
            assert list(heap.pop_due(now)) == list(wheel.pop_due(now))


def show(count: int, costs: dict[str, Cost]) -> None:
    """Print a table."""
    bare = costs["call_at"].figures()[:1] + costs["call_at, by name"].figures()[1:2] + costs["call_at"].figures()[2:]
    print(f"{count:,} timers" + "".join(f"{title:>20}" for title in ("insert ns", "cancel ns", "expire ns", "bytes")))
    for name, cost in costs.items():
        cells = (
            f"{figure:10.0f} ({figure / base:5.2f} x)" if figure < float("inf") else f"{'-':>20}"
            for figure, base in zip(cost.figures(), bare, strict=True)
        )
        print(f"  {name:18}" + " ".join(cells), flush=True)


def main() -> int:
    """Measure; return 1 under ``--check`` if a requirement is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.timers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if a requirement is missed")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the tables")
    args = parser.parse_args()
    draw = random.Random(7)  # noqa: S311  # the same timers in every run
    check_order(draw)
    found = {count: compare(count, draw) for count in COUNTS}
    if args.json:
        print(
            json.dumps({count: {name: asdict(cost) for name, cost in costs.items()} for count, costs in found.items()})
        )
    else:
        for count, costs in found.items():
            show(count, costs)
    most = found[max(found)]
    ours, bare = most["Timers (heap)"], most["call_at"]
    insert, memory = ours.insert / bare.insert, ours.memory / bare.memory
    print(f"at {max(found):,}: insert {insert:.2f} x (<= {MAX_INSERT:g}), memory {memory:.2f} x (<= {MAX_MEMORY:g})")
    return 1 if args.check and (insert > MAX_INSERT or memory > MAX_MEMORY) else 0


if __name__ == "__main__":
    sys.exit(main())
