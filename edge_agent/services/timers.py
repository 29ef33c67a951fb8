"""Timers by name, due at instants of true time; any number of them share one alarm.

    timers = Timers(make_alarm, lambda: clock.now().time)   # make_alarm of edge_agent.adapters.timerfd
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
import contextlib
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

LATE: Final = 1_000
"""Nanoseconds after the deadline that are aimed at: a hair too early would cost another wake-up."""

APART: Final = 4_000_000
"""Nanoseconds between two firings, at least: what is due more densely is fired together."""


class Timers:
    """A set of timers by name.

    Its methods are for the loop's thread, where any task may call them at any time; ``call_threadsafe`` is for others.

    Attributes:
        time: true time by which what fires is due, while it fires.
    """

    def __init__(self, make_alarm: Callable[[Callable[[], None]], Alarm], now: Callable[[], UtcNs]) -> None:
        """Prepare; nothing fires before ``run``.

        Args:
            make_alarm: returns an alarm that calls what it is given, on the running loop, when it rings.
            now: returns true time.
        """
        self._make_alarm = make_alarm
        self._now = now
        self.time = UtcNs(0)
        self._queue: TimerQueue[Callable[[], object]] = TimerQueue()
        self._running: tuple[Alarm, asyncio.Future[None]] | None = None
        self._armed_for = math.inf  # what is due sooner arms the alarm again
        self._fired = BootNs(-APART)
        self._rate = FASTEST
        self._compared: tuple[BootNs, UtcNs] | None = None

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
        if self._running is None:
            raise RuntimeError("the timers do not run; await run() first")
        self._running[1].get_loop().call_soon_threadsafe(method, *args)

    def rearm(self) -> None:
        """Look at true time again at once: call it whenever that was stepped or runs at another rate, and on resume."""
        self._rate, self._compared = FASTEST, None
        self._arm()

    async def run(self) -> None:
        """Fire what is due until cancelled.

        Raises:
            ExceptionGroup: what callbacks have raised; all that was due together with them has been called, too.
        """
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with contextlib.closing(self._make_alarm(self._ring)) as alarm:
            self._running = alarm, failed
            try:
                self.rearm()
                await failed
            finally:
                self._running = None

    def _ring(self) -> None:
        assert self._running is not None, "the alarm is open"
        alarm, failed = self._running
        self._armed_for = -math.inf  # it is armed when all have been called, whatever they put
        bugs = []
        now, self.time = self._look(alarm)
        for callback in self._queue.pop_due(self.time):
            self._fired = now
            try:
                callback()
            except (Exception, asyncio.CancelledError) as bug:  # noqa: BLE001  # raised when all have been called
                bugs.append(bug)
        if not bugs:
            self._arm()
        elif not failed.done():
            failed.set_exception(BaseExceptionGroup("callbacks of timers failed", bugs))

    def _look(self, alarm: Alarm) -> tuple[BootNs, UtcNs]:
        """Return the alarm's clock and true time, and learn the rate of one by the other."""
        before, utc, after = alarm.now(), self._now(), alarm.now()
        if self._compared is None:
            self._compared = before, utc
        elif before - self._compared[0] >= MEASURED_OVER and after - before <= TIGHT:
            rate = (utc - self._compared[1]) / (before - self._compared[0])
            self._rate = min(max(rate, SLOWEST), FASTEST)
            self._compared = before, utc
        return before, utc

    def _arm(self) -> None:
        due = self._queue.next_deadline()
        self._armed_for = math.inf if due is None else due
        if due is not None and self._running is not None:
            alarm = self._running[0]
            at, utc = self._look(alarm)
            left = min(due - utc, LONGEST)
            rate = self._rate if left <= LONG else FASTEST
            alarm.arm(BootNs(max(at + math.ceil(left / rate) + LATE, self._fired + APART)))


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
