"""The kernel's alarm, which rings on time and counts suspend."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from time import CLOCK_BOOTTIME, clock_gettime_ns

from edge_agent.adapters.timerfd import ABSTIME, NONBLOCK, timerfd_create, timerfd_settime_ns
from edge_agent.core.timebase import BootNs


class KernelAlarm:
    """``clock_ports.Alarm`` by timerfd on CLOCK_BOOTTIME: the loop's own timers are rounded up to milliseconds."""

    def __init__(self, ring: Callable[[], None]) -> None:
        """Make the timer; when it rings, it calls ``ring()`` on the running loop."""
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
