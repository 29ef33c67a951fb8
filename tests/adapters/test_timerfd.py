"""The kernel's timers: really made, really expired."""

from __future__ import annotations

import os
import select
from time import CLOCK_BOOTTIME, CLOCK_REALTIME, clock_gettime_ns

import pytest

from edge_agent.adapters.timerfd import ABSTIME, CANCEL_ON_SET, NONBLOCK, timerfd_create, timerfd_settime_ns


def test_a_timer_expires_at_its_instant_and_not_before() -> None:
    """By the clock that it was made for; reading it tells that it expired once."""
    timer = timerfd_create(CLOCK_BOOTTIME, flags=NONBLOCK)
    try:
        due = clock_gettime_ns(CLOCK_BOOTTIME) + 20_000_000
        timerfd_settime_ns(timer, flags=ABSTIME, initial=due)
        with pytest.raises(BlockingIOError):
            os.read(timer, 8)
        assert select.select([timer], [], [], 10)[0]
        assert clock_gettime_ns(CLOCK_BOOTTIME) >= due
        assert int.from_bytes(os.read(timer, 8), "little") == 1
    finally:
        os.close(timer)


def test_an_instant_that_has_passed_expires_at_once_and_none_never() -> None:
    """Zero takes back what was set."""
    timer = timerfd_create(CLOCK_BOOTTIME, flags=NONBLOCK)
    try:
        timerfd_settime_ns(timer, flags=ABSTIME, initial=1)
        assert select.select([timer], [], [], 10)[0]
        timerfd_settime_ns(timer, flags=ABSTIME, initial=0)
        assert not select.select([timer], [], [], 0.02)[0]
    finally:
        os.close(timer)


def test_what_the_kernel_refuses_is_an_error_of_the_system() -> None:
    """A clock that is none, and flags that are none."""
    with pytest.raises(OSError, match=r"\[Errno 22\]"):
        timerfd_create(12_345, flags=NONBLOCK)
    timer = timerfd_create(CLOCK_REALTIME, flags=NONBLOCK)
    try:
        with pytest.raises(OSError, match=r"\[Errno 22\]"):
            timerfd_settime_ns(timer, flags=ABSTIME | CANCEL_ON_SET | 1 << 10, initial=1)
    finally:
        os.close(timer)
