"""Both alarms on a real loop; the timers that live by them, too."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from edge_agent.adapters import alarm as module
from edge_agent.adapters.alarm import KernelAlarm, LoopAlarm, make_alarm
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.core.timebase import BootNs, UtcNs, seconds
from edge_agent.services.timers import Timers

both = pytest.mark.parametrize("make", [KernelAlarm, LoopAlarm])
Make = Callable[[], KernelAlarm | LoopAlarm]


@pytest.mark.parametrize(("make", "early_ns"), [(KernelAlarm, 0), (LoopAlarm, 1000)])
async def test_it_rings_at_the_instant_it_was_armed_for(make: Make, early_ns: int) -> None:
    """Never before, by the clock that it shows; the loop's own timers may be a tick of that clock early."""
    with contextlib.closing(make()) as alarm:
        for wait_ms in (0, 0.001, 0.1, 1, 5, 20):
            due = BootNs(alarm.now() + seconds(wait_ms / 1000))
            alarm.arm(due)
            await alarm.ring()
            assert alarm.now() >= due - early_ns


@both
async def test_it_rings_once_for_the_last_instant_only(make: Make) -> None:
    """Put off and brought forward; and then it is quiet."""
    with contextlib.closing(make()) as alarm:
        start = alarm.now()
        for wait_s in (0.01, 3600, 0.05):
            alarm.arm(BootNs(start + seconds(wait_s)))
        await alarm.ring()
        assert alarm.now() >= start + seconds(0.05) - 1000
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await alarm.ring()


@both
@pytest.mark.parametrize("at", [-(10**18), -1, 0, 1])
async def test_an_instant_that_has_passed_rings_at_once(make: Make, at: int) -> None:
    """However long ago; before the boot, too."""
    with contextlib.closing(make()) as alarm:
        alarm.arm(BootNs(at))
        async with asyncio.timeout(10):
            await alarm.ring()


@both
async def test_a_ring_that_nobody_waited_for_is_not_lost(make: Make) -> None:
    """It rang while its owner was busy."""
    with contextlib.closing(make()) as alarm:
        alarm.arm(alarm.now())
        time.sleep(0.01)
        await asyncio.sleep(0.01)
        async with asyncio.timeout(10):
            await alarm.ring()


async def test_armed_anew_between_the_expiry_and_the_loop_s_look_it_still_rings_for_the_new_instant() -> None:
    """The loop has seen a descriptor in which there is nothing to read any more."""
    with contextlib.closing(KernelAlarm()) as alarm:
        waiting = asyncio.get_running_loop().create_task(alarm.ring())
        await asyncio.sleep(0)
        alarm.arm(alarm.now())
        time.sleep(0.001)
        asyncio.get_running_loop().call_soon(alarm.arm, BootNs(alarm.now() + seconds(0.05)))
        await waiting
        alarm._read()
        await alarm.ring()


async def test_no_descriptor_is_left_behind() -> None:
    """Whether it was waited for or not."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        KernelAlarm().close()
        with contextlib.closing(KernelAlarm()) as alarm:
            alarm.arm(alarm.now())
            await alarm.ring()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_without_timers_in_the_kernel_the_loop_s_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """And with them, those."""
    with contextlib.closing(make_alarm()) as alarm:
        assert isinstance(alarm, KernelAlarm)

    def refuse(*_arguments: object, **_flags: object) -> int:
        raise OSError(errno.ENOSYS, "timerfd_create")

    monkeypatch.setattr(module, "timerfd_create", refuse)
    with contextlib.closing(make_alarm()) as alarm:
        assert isinstance(alarm, LoopAlarm)


def test_an_alarm_can_be_made_before_there_is_a_loop() -> None:
    """The parts of a program are built before it runs."""

    async def wait() -> None:
        alarm.arm(alarm.now())
        await alarm.ring()

    with contextlib.closing(make_alarm()) as alarm:
        asyncio.run(wait())


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
        with contextlib.closing(make()) as alarm:
            timers = Timers(alarm, lambda: UtcNs(now()))

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
