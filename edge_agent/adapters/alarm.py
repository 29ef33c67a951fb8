"""Alarms: the kernel's, which rings on time and counts suspend, and the loop's for where there is none."""

from __future__ import annotations

import asyncio
import contextlib
import os
from time import CLOCK_BOOTTIME, clock_gettime_ns

from edge_agent.adapters.timerfd import ABSTIME, NONBLOCK, timerfd_create, timerfd_settime_ns
from edge_agent.core.timebase import NANOSECONDS_PER_SECOND, BootNs, seconds


def make_alarm() -> KernelAlarm | LoopAlarm:
    """Return the best alarm that this system has; it can be armed and waited for on a running loop."""
    try:
        return KernelAlarm()
    except OSError:
        return LoopAlarm()


class KernelAlarm:
    """``clock_ports.Alarm`` by timerfd on CLOCK_BOOTTIME: the loop's own timers are rounded up to milliseconds."""

    def __init__(self) -> None:
        """Make the timer.

        Raises:
            OSError: the kernel has none.
        """
        self._timer = timerfd_create(CLOCK_BOOTTIME, flags=NONBLOCK)
        self._rung = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def now(self) -> BootNs:
        """Return CLOCK_BOOTTIME."""
        return BootNs(clock_gettime_ns(CLOCK_BOOTTIME))

    def arm(self, at: BootNs) -> None:
        """See ``clock_ports.Alarm``."""
        timerfd_settime_ns(self._timer, flags=ABSTIME, initial=max(at, 1))  # 0 would disarm it

    async def ring(self) -> None:
        """See ``clock_ports.Alarm``."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._timer, self._read)
        await self._rung.wait()
        self._rung.clear()

    def close(self) -> None:
        """Give the timer back."""
        if self._loop is not None:
            self._loop.remove_reader(self._timer)
        os.close(self._timer)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):  # armed anew since the loop saw it
            os.read(self._timer, 8)
        self._rung.set()


class LoopAlarm:
    """``clock_ports.Alarm`` by the running loop: it stands still in suspend; who waits has to be told of a resume."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self._handle: asyncio.TimerHandle | None = None

    def now(self) -> BootNs:
        """Return the loop's time in place of CLOCK_BOOTTIME."""
        return BootNs(seconds(asyncio.get_running_loop().time()))

    def arm(self, at: BootNs) -> None:
        """See ``clock_ports.Alarm``."""
        self.close()
        self._handle = asyncio.get_running_loop().call_at(at / NANOSECONDS_PER_SECOND, self._rung.set)

    async def ring(self) -> None:
        """See ``clock_ports.Alarm``."""
        await self._rung.wait()
        self._rung.clear()

    def close(self) -> None:
        """Let it not ring any more."""
        if self._handle is not None:
            self._handle.cancel()
