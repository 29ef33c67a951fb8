"""Timers of the kernel as descriptors (timerfd_create(2)): what Python has in ``os`` from 3.13 on, before that, too."""

from __future__ import annotations

import os
import sys
from typing import Final

__all__ = ["ABSTIME", "CANCEL_ON_SET", "NONBLOCK", "timerfd_create", "timerfd_settime_ns"]

ABSTIME: Final = 1
CANCEL_ON_SET: Final = 2
NONBLOCK: Final = os.O_NONBLOCK | os.O_CLOEXEC

if sys.version_info >= (3, 13):
    from os import timerfd_create, timerfd_settime_ns
else:
    import ctypes

    from edge_agent.core.timebase import NANOSECONDS_PER_SECOND

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
