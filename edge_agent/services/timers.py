"""Timers by name, due at instants of true time; any number of them share one alarm.

    timers = Timers(alarm, lambda: clock.now().utc)
    timers.put("lunch", due, callback)          # add, or replace
    timers.cancel("lunch")

    silence = Timer(timers, "silence", callback)
    silence.start(due)                          # does nothing while it is active
    silence.reset(due)                          # puts it off, or starts it
    silence.stop()

    await timers.run()                          # fires

Callbacks are called on the loop and must not block. True time is not the alarm's clock: it is slewed by up to 5 %, and
stepped. So nothing fires because the alarm rang, only because true time, read then, says so; and how long to wait
follows from how fast true time has lately run by the alarm's clock. What is not known of that makes a wait too short,
never too long: a long wait, and the first one after any change, ends early for one more look.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final, TypeVarTuple, Unpack

from edge_agent.clock_ports import Alarm
from edge_agent.core.timebase import BootNs, UtcNs, seconds
from edge_agent.core.timer_queue import TimerQueue

Ts = TypeVarTuple("Ts")

FASTEST: Final = 1.15
"""True time runs at most so fast by the alarm's clock: 5 % are our slew, 8.3 % the host's of that clock."""

SLOWEST: Final = 0.9999
"""A quartz may make it so slow; when it is slower than that, a slew is under way that may end at any time."""

MEASURED_OVER: Final = seconds(1)
TIGHT: Final = 50_000
"""Nanoseconds between two readings of the alarm's clock that true time in between can be compared with."""

LONG: Final = seconds(64)
"""Whoever waits longer takes another look on the way: the host may change its clock's rate without telling anybody."""

LONGEST: Final = seconds(86_400)

LATE: Final = 10_000
"""Nanoseconds after the deadline that are aimed at: a hair too early would cost another wake-up."""


class Timers:
    """A set of timers by name.

    Its methods are for the loop's thread, where any task may call them at any time; ``call_threadsafe`` is for others.
    """

    def __init__(self, alarm: Alarm, now: Callable[[], UtcNs]) -> None:
        """Prepare; nothing fires before ``run``.

        Args:
            alarm: rings; nobody else may use it.
            now: returns true time.
        """
        self._alarm = alarm
        self._now = now
        self._queue: TimerQueue[Callable[[], object]] = TimerQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._armed_for = -math.inf  # what is due sooner re-arms the alarm: nothing while it will be armed anyway
        self._rate = FASTEST
        self._compared = BootNs(0), UtcNs(0)

    def put(self, name: str, due: UtcNs, callback: Callable[[], object]) -> None:
        """Have ``callback()`` called once at ``due``, at once if that has passed; replaces the timer of that name."""
        self._queue.put(name, due, callback)
        if due < self._armed_for:
            self._arm()

    def cancel(self, name: str) -> bool:
        """Remove a timer; return whether there was one: it is not called any more."""
        return self._queue.cancel(name)

    def due(self, name: str) -> UtcNs | None:
        """Return when a timer is due; ``None`` = there is none of that name."""
        due = self._queue.deadline(name)
        return None if due is None else UtcNs(due)

    def names(self) -> list[str]:
        """Return the names of all timers that wait."""
        return self._queue.names()

    def call_threadsafe(self, method: Callable[[Unpack[Ts]], object], *args: *Ts) -> None:
        """Have a method of this set or of one of its timers called on the loop, soon: for callers on other threads.

        Raises:
            RuntimeError: ``run`` has not begun, or has ended.
        """
        if self._loop is None:
            raise RuntimeError("the timers do not run; await run() first")
        self._loop.call_soon_threadsafe(method, *args)

    def rearm(self) -> None:
        """Look at true time again at once: call it whenever that was stepped or runs at another rate, and on resume."""
        if self._loop is not None:
            self._rate = FASTEST
            self._compared = self._alarm.now(), self._now()
            self._arm()

    async def run(self) -> None:
        """Fire what is due until cancelled.

        Raises:
            ExceptionGroup: what callbacks have raised; all that was due together with them has been called, too.
        """
        self._loop = asyncio.get_running_loop()
        self.rearm()
        try:
            while True:
                await self._alarm.ring()
                self._armed_for = -math.inf
                self._fire(self._look())
                self._arm()
        finally:
            self._armed_for, self._loop = -math.inf, None

    def _look(self) -> UtcNs:
        """Return true time, and learn its rate by the way."""
        before, utc, after = self._alarm.now(), self._now(), self._alarm.now()
        since, then = self._compared
        if before - since >= MEASURED_OVER and after - before <= TIGHT:
            self._rate = min(max((utc - then) / (before - since), SLOWEST), FASTEST)
            self._compared = before, utc
        return utc

    def _fire(self, utc: UtcNs) -> None:
        bugs = []
        for callback in self._queue.pop_due(utc):
            try:
                callback()
            except Exception as bug:  # noqa: BLE001  # raised when the others have had their turn
                bugs.append(bug)
        if bugs:
            raise ExceptionGroup("callbacks of timers failed", bugs)

    def _arm(self) -> None:
        due = self._queue.next_deadline()
        self._armed_for = math.inf if due is None else due
        if due is not None:
            at, left = self._alarm.now(), due - self._now()
            rate = self._rate if left <= LONG else FASTEST
            self._alarm.arm(BootNs(at + math.ceil(min(left, LONGEST) / rate) + LATE))


class Timer:
    """One timer of a set, which can be started, put off and stopped again and again."""

    def __init__(self, timers: Timers, name: str, callback: Callable[[], object]) -> None:
        """Prepare.

        Args:
            timers: the set.
            name: of the timer in it; whoever takes the same name takes the timer.
            callback: called once for each time that it expires; it may start the timer again.
        """
        self._timers = timers
        self._name = name
        self._callback = callback

    @property
    def is_active(self) -> bool:
        """Whether it is going to expire."""
        return self._timers.due(self._name) is not None

    def start(self, due: UtcNs) -> None:
        """Let it expire at ``due``; if it is active, when it was going to: the first start counts."""
        if not self.is_active:
            self.reset(due)

    def reset(self, due: UtcNs) -> None:
        """Let it expire at ``due``, whether it is active or not: the last reset counts."""
        self._timers.put(self._name, due, self._callback)

    def stop(self) -> bool:
        """Let it not expire; return whether it was active."""
        return self._timers.cancel(self._name)
