"""What the kernel says of its clock: how well the host keeps it, and when somebody sets it. It is never set here."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
from time import CLOCK_REALTIME
from typing import Final

from edge_agent.adapters.timerfd import ABSTIME, CANCEL_ON_SET, NONBLOCK, timerfd_create, timerfd_settime_ns
from edge_agent.core.timebase import NANOSECONDS_PER_SECOND

_FAR_NS: Final = ((1 << 31) - 1) * NANOSECONDS_PER_SECOND
"""An instant of 2038 that a 32-bit kernel still knows: what matters is the setting, not the timer."""


class _Timex(ctypes.Structure):
    """``struct timex`` of adjtimex(2), as far as it is read."""

    _fields_ = (  # type: ignore[mutable-override]  # as ctypes takes it, too
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


def read_discipline() -> tuple[int, int, int] | None:
    """Return what adjtimex(2) says of the host's clock; ``None`` where that must not be asked, or cannot be.

    That is its return value, its flags, and the bound of the clock's error in microseconds.
    """
    timex = _Timex()  # modes = 0: read only
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else (state, timex.status, timex.maxerror)


async def wait_for_step() -> None:
    """Return when CLOCK_REALTIME is set; where that cannot be known, never."""
    loop = asyncio.get_running_loop()
    stepped: asyncio.Future[None] = loop.create_future()

    def look() -> None:
        try:
            os.read(timer, 8)  # it succeeds, once, when that far instant is past
        except OSError as error:
            if error.errno == errno.ECANCELED and not stepped.done():
                stepped.set_result(None)

    with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
        timer = timerfd_create(CLOCK_REALTIME, flags=NONBLOCK)
        opened.callback(os.close, timer)
        timerfd_settime_ns(timer, flags=ABSTIME | CANCEL_ON_SET, initial=_FAR_NS)
        loop.add_reader(timer, look)
        opened.callback(loop.remove_reader, timer)
        await stepped
    await stepped
