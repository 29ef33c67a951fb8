"""Alarms: the kernel's, which rings on time and counts suspend, and the loop's for where there is none."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from time import CLOCK_BOOTTIME, clock_gettime_ns

from edge_agent.adapters.timerfd import ABSTIME, NONBLOCK, timerfd_create, timerfd_settime_ns
from edge_agent.core.timebase import NANOSECONDS_PER_SECOND, BootNs, seconds


def make_alarm(ring: Callable[[], None]) -> KernelAlarm | LoopAlarm:
    """Return the best alarm that this system has; when it rings, it calls ``ring()`` on the running loop."""
    try:
        return KernelAlarm(ring)
    except OSError:
        return LoopAlarm(ring)


class KernelAlarm:
    """``clock_ports.Alarm`` by timerfd on CLOCK_BOOTTIME: the loop's own timers are rounded up to milliseconds."""

    def __init__(self, ring: Callable[[], None]) -> None:
        """Make the timer.

        Raises:
            OSError: the kernel has none.
        """
        self._ring = ring
        self._timer = timerfd_create(CLOCK_BOOTTIME, flags=NONBLOCK)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._timer, self._read)

    def now(self) -> BootNs:
        """Return CLOCK_BOOTTIME."""
        return BootNs(clock_gettime_ns(CLOCK_BOOTTIME))

    def arm(self, at: BootNs) -> None:
        """See ``clock_ports.Alarm``."""
        timerfd_settime_ns(self._timer, flags=ABSTIME, initial=max(at, 1))  # 0 would disarm it

    def close(self) -> None:
        """See ``clock_ports.Alarm``."""
        self._loop.remove_reader(self._timer)
        os.close(self._timer)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):  # armed anew since the loop saw it expire
            os.read(self._timer, 8)
            self._ring()


class LoopAlarm:
    """``clock_ports.Alarm`` by the running loop: it stands still in suspend; who waits has to be told of a resume."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None

    def now(self) -> BootNs:
        """Return the loop's time in place of CLOCK_BOOTTIME."""
        return BootNs(seconds(self._loop.time()))

    def arm(self, at: BootNs) -> None:
        """See ``clock_ports.Alarm``."""
        self.close()
        self._handle = self._loop.call_at(at / NANOSECONDS_PER_SECOND, self._ring)

    def close(self) -> None:
        """See ``clock_ports.Alarm``."""
        if self._handle is not None:
            self._handle.cancel()
