"""The clocks of this machine, and waiting by them."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import time

import pytest

from edge_agent.adapters import system_clock
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.core.timebase import MonotonicNs, later, seconds

CLOCK = SystemClock()


@pytest.mark.parametrize("wait_s", [0.000_001, 0.000_9, 0.001, 0.001_7, 0.005, 0.02, 0.05])
async def test_a_sleep_never_ends_early(wait_s: float) -> None:
    """The loop's timers have a tick; the deadline is met or passed all the same, and not by much."""
    late = []
    for _ in range(10):
        deadline = later(CLOCK.monotonic(), seconds(wait_s))
        await CLOCK.sleep_until(deadline)
        late.append(time.monotonic_ns() - deadline)
    assert min(late) >= 0
    assert sorted(late)[len(late) // 2] < seconds(0.05)


async def test_sleepers_side_by_side_are_never_early() -> None:
    """A hundred with deadlines a fraction of a tick apart, each at its own, in order."""
    start = CLOCK.monotonic()
    deadlines = [later(start, seconds(0.02 + number * 0.000_3)) for number in range(100)]
    woken: list[tuple[MonotonicNs, MonotonicNs]] = []

    async def sleeper(deadline: MonotonicNs) -> None:
        await CLOCK.sleep_until(deadline)
        woken.append((deadline, CLOCK.monotonic()))

    await asyncio.gather(*map(sleeper, deadlines))
    assert all(at >= deadline for deadline, at in woken)


async def test_a_deadline_that_has_passed_returns_at_once() -> None:
    """Without giving way to anybody: no timer is made, no other task runs meanwhile."""
    ran: list[bool] = []
    other = asyncio.get_running_loop().create_task(asyncio.sleep(0))
    other.add_done_callback(lambda _task: ran.append(True))
    now = CLOCK.monotonic()
    for deadline in (now, MonotonicNs(now - 1), MonotonicNs(0), MonotonicNs(-(10**30))):
        await CLOCK.sleep_until(deadline)
    assert ran == []
    assert CLOCK.monotonic() - now < seconds(0.05)
    await other


async def test_a_deadline_in_a_thousand_years_can_be_slept_for_and_cancelled() -> None:
    """The loop takes the number."""
    sleeper = asyncio.get_running_loop().create_task(CLOCK.sleep_until(MonotonicNs(1000 * 365 * 86400 * 10**9)))
    await asyncio.sleep(0.02)
    assert not sleeper.done()
    sleeper.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeper


def test_the_wall_clock_is_that_of_the_operating_system() -> None:
    """Between two readings of it."""
    before = time.time_ns()
    assert before <= CLOCK.wall() <= time.time_ns()


def test_monotonic_is_steady_and_never_goes_back() -> None:
    """Ten thousand readings, and between two of the operating system's own."""
    before = time.monotonic_ns()
    readings = [CLOCK.monotonic() for _ in range(10_000)]
    assert before <= readings[0]
    assert readings[-1] <= time.monotonic_ns()
    assert all(one <= other for one, other in itertools.pairwise(readings))


def test_the_counter_never_goes_back_however_busy_the_machine_is() -> None:
    """Beside programs that want all processors, so that this one is often interrupted in the middle of a reading."""
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        end, readings = time.monotonic() + 2, [CLOCK.raw()]
        while time.monotonic() < end:
            readings += [CLOCK.raw() for _ in range(1000)]
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    assert all(one <= other for one, other in itertools.pairwise(readings))


def test_an_interruption_between_two_readings_does_not_shorten_what_was_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it lengthen it; a suspend does."""
    kernel = {"slept": 5 * 10**9, "time": 10**12, "interruption": 0}

    def read(clock: int) -> int:
        kernel["time"] += kernel["interruption"]
        return kernel["time"] + (kernel["slept"] if clock == time.CLOCK_BOOTTIME else 0)

    monkeypatch.setattr(system_clock, "clock_gettime_ns", read)
    clock = SystemClock()
    found = []
    for slept_s, interruption in ((5, 0), (5, 10**7), (65, 10**7), (65, 0), (65, 10**7)):
        kernel |= {"slept": slept_s * 10**9, "interruption": interruption}
        found.append(clock.slept())
    assert found == [5 * 10**9, 5 * 10**9, 65 * 10**9 - 10**7, 65 * 10**9, 65 * 10**9]
