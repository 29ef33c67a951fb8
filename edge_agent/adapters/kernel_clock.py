"""What the kernel says of its clock: how well the host keeps it, and when somebody sets it. It is never set here."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class KernelDiscipline:
    """What adjtimex(2) says.

    Attributes:
        state: its return value; 5 = not synchronised.
        status: its flags.
        max_error_us: bound of the clock's error, in microseconds; it grows while nobody corrects the clock.
    """

    state: int
    status: int
    max_error_us: int


def read_discipline() -> KernelDiscipline | None:
    """Return how the host's clock is kept; ``None`` where that must not be asked, or cannot be."""
    timex = _Timex()  # modes = 0: read only
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else KernelDiscipline(state, timex.status, timex.maxerror)


async def wait_for_step() -> None:
    """Return when CLOCK_REALTIME is set; where that cannot be known, never."""
    stepped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    with contextlib.suppress(OSError), _cancelled_on_set() as timer:

        def look() -> None:
            try:
                os.read(timer, 8)  # it succeeds, once, when that far instant is past
            except OSError as error:
                if error.errno == errno.ECANCELED and not stepped.done():
                    stepped.set_result(None)

        loop = asyncio.get_running_loop()
        loop.add_reader(timer, look)
        try:
            await stepped
        finally:
            loop.remove_reader(timer)
    await stepped


@contextlib.contextmanager
def _cancelled_on_set() -> Iterator[int]:
    """Make a timer that is cancelled when the clock is set."""
    timer = timerfd_create(CLOCK_REALTIME, flags=NONBLOCK)
    try:
        timerfd_settime_ns(timer, flags=ABSTIME | CANCEL_ON_SET, initial=_FAR_NS)
        yield timer
    finally:
        os.close(timer)
