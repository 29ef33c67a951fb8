"""Timers of the kernel (timerfd_create(2)): as descriptors, which Python has from 3.13 on, and as an alarm."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from time import CLOCK_BOOTTIME, clock_gettime_ns
from typing import Final

from edge_agent.core.timebase import NANOSECONDS_PER_SECOND, BootNs, seconds

__all__ = [
    "ABSTIME",
    "CANCEL_ON_SET",
    "NONBLOCK",
    "KernelAlarm",
    "LoopAlarm",
    "make_alarm",
    "timerfd_create",
    "timerfd_settime_ns",
]

ABSTIME: Final = 1
CANCEL_ON_SET: Final = 2
NONBLOCK: Final = os.O_NONBLOCK | os.O_CLOEXEC

if sys.version_info >= (3, 13):
    from os import timerfd_create, timerfd_settime_ns
else:
    import ctypes

    _libc: Final = ctypes.CDLL(None, use_errno=True)

    def timerfd_create(clockid: int, /, *, flags: int) -> int:
        """Return the descriptor of a new timer.

        Raises:
            OSError: there is none to be had.
        """
        return _checked("timerfd_create", _libc.timerfd_create(clockid, flags))

    def timerfd_settime_ns(fd: int, /, *, flags: int, initial: int) -> None:
        """Let a timer expire at an instant, at once if that has passed; 0 = never.

        Raises:
            OSError: the kernel does not know the flags.
        """
        # struct itimerspec: the interval, and when it expires, each in seconds and nanoseconds
        spec = (ctypes.c_long * 4)(0, 0, *divmod(initial, NANOSECONDS_PER_SECOND))
        _checked("timerfd_settime", _libc.timerfd_settime(fd, flags, spec, None))

    def _checked(name: str, result: int) -> int:
        if result < 0:
            raise OSError(ctypes.get_errno(), name)
        return result


def make_alarm(ring: Callable[[], None]) -> KernelAlarm | LoopAlarm:
    """Return the best alarm that can be had; when it rings, it calls ``ring()`` on the running loop."""
    try:
        return KernelAlarm(ring)
    except OSError:
        return LoopAlarm(ring)


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
