"""The kernel's timers: really made, really expired; the alarm, and that of the tests; the timers that live by them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import CLOCK_BOOTTIME, CLOCK_REALTIME, clock_gettime_ns
from typing import Final

import pytest

from edge_agent.adapters import timerfd as module
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.adapters.timerfd import (
    ABSTIME,
    CANCEL_ON_SET,
    NONBLOCK,
    KernelAlarm,
    LoopAlarm,
    make_alarm,
    timerfd_create,
    timerfd_settime_ns,
)
from edge_agent.core.timebase import BootNs, UtcNs, seconds
from edge_agent.services.timers import Timers


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


# -- the alarm

both = pytest.mark.parametrize("make", [KernelAlarm, LoopAlarm])
Make = Callable[[Callable[[], None]], KernelAlarm | LoopAlarm]
TICK: Final = 1000
"""The loop's own timers may be so many nanoseconds early."""


@both
async def test_it_rings_at_the_instant_it_was_armed_for(make: Make) -> None:
    """Not before, by the clock that it shows; once, and never in between."""
    rung = asyncio.Event()
    with contextlib.closing(make(rung.set)) as alarm:
        for wait_ms in (0, 0.001, 0.1, 1, 5, 20):
            due = BootNs(alarm.now() + seconds(wait_ms / 1000))
            alarm.arm(due)
            await rung.wait()
            assert alarm.now() >= due - (0 if make is KernelAlarm else TICK)
            rung.clear()


@both
async def test_only_the_last_instant_counts(make: Make) -> None:
    """Put off and brought forward; and then it is quiet."""
    rings: list[int] = []
    with contextlib.closing(make(lambda: rings.append(alarm.now()))) as alarm:
        start = alarm.now()
        for wait_s in (0.01, 3600, 0.05):
            alarm.arm(BootNs(start + seconds(wait_s)))
        await asyncio.sleep(0.2)
    assert len(rings) == 1
    assert rings[0] >= start + seconds(0.05) - TICK


@both
@pytest.mark.parametrize("at", [-(10**18), -1, 0, 1])
async def test_an_instant_that_has_passed_rings_soon(make: Make, at: int) -> None:
    """However long ago; before the boot, too; and not before the loop has turned."""
    rung = asyncio.Event()
    with contextlib.closing(make(rung.set)) as alarm:
        alarm.arm(BootNs(at))
        assert not rung.is_set()
        async with asyncio.timeout(30):
            await rung.wait()


async def test_armed_anew_between_its_expiry_and_the_loop_s_look_it_rings_for_the_new_instant_only() -> None:
    """The loop has seen it expire, and then there is nothing to read any more."""
    rings: list[int] = []
    with contextlib.closing(KernelAlarm(lambda: rings.append(alarm.now()))) as alarm:
        alarm.arm(alarm.now())
        time.sleep(0.001)
        alarm.arm(due := BootNs(alarm.now() + seconds(0.05)))
        alarm._read()
        await asyncio.sleep(0.2)
    assert len(rings) == 1
    assert rings[0] >= due


@both
async def test_a_closed_alarm_is_quiet_and_nothing_is_left_behind(make: Make) -> None:
    """No descriptor; also when it was never armed."""
    rings: list[None] = []
    before = len(list(Path("/proc/self/fd").iterdir()))
    for arm in (False, True):
        with contextlib.closing(make(lambda: rings.append(None))) as alarm:
            if arm:
                alarm.arm(BootNs(alarm.now() + seconds(0.01)))
    await asyncio.sleep(0.05)
    assert rings == []
    assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_without_timers_in_the_kernel_the_loop_s_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """And with them, those."""

    def quiet() -> None:
        """Do nothing: it is not armed."""

    with contextlib.closing(make_alarm(quiet)) as alarm:
        assert isinstance(alarm, KernelAlarm)

    def refuse(*_arguments: object, **_flags: object) -> int:
        raise OSError(errno.ENOSYS, "timerfd_create")

    monkeypatch.setattr(module, "timerfd_create", refuse)
    with contextlib.closing(make_alarm(quiet)) as alarm:
        assert isinstance(alarm, LoopAlarm)


@pytest.mark.parametrize("busy", [0, 3], ids=["idle", "hogs"])
@both
async def test_a_thousand_timers_none_of_them_early(make: Make, busy: int) -> None:
    """By a counter that runs at another rate, in order, with and without programs that want all processors."""
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    now = SystemClock().raw
    early: list[int] = []
    order: list[int] = []
    done = asyncio.Event()
    try:
        timers = Timers(make, lambda: UtcNs(now()))

        def expire(number: int, due: int) -> None:
            early.append(now() - due)
            order.append(number)
            if number == 999:
                done.set()

        start = now()
        for number in range(1000):
            due = start + number * 997_001
            timers.put(str(number), UtcNs(due), partial(expire, number, due))
        run = asyncio.get_running_loop().create_task(timers.run())
        await done.wait()
        run.cancel()
        await asyncio.wait((run,))
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    assert min(early) >= 0
    assert order == list(range(1000))
