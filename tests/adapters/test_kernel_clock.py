"""What the kernel says of its clock: really read, really set by a microsecond, and never set by the agent."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_agent.adapters import kernel_clock
from edge_agent.adapters.kernel_clock import read_discipline, wait_for_step
from tests.support.brokers import missing

ADJ_SETOFFSET, ADJ_NANO = 0x0100, 0x2000
SETTERS = ("clock_settime", "settimeofday", "adjtimex", "clock_adjtime", "stime")


class Adjustment(ctypes.Structure):
    """``struct timex`` with the time in it."""

    _fields_ = (  # type: ignore[mutable-override]
        ("modes", ctypes.c_uint),
        ("numbers", ctypes.c_long * 4),
        ("status", ctypes.c_int),
        ("more", ctypes.c_long * 3),
        ("seconds", ctypes.c_long),
        ("fraction", ctypes.c_long),
        ("rest", ctypes.c_char * 256),
    )


def set_clock_by_a_microsecond(sign: int) -> None:
    """Set CLOCK_REALTIME forward and, with the next call, back."""
    change = Adjustment(modes=ADJ_SETOFFSET | ADJ_NANO)
    change.seconds, change.fraction = (0, 1000) if sign > 0 else (-1, 999_999_000)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.clock_adjtime(0, ctypes.byref(change)) < 0:
        raise OSError(ctypes.get_errno(), "clock_adjtime")


@pytest.mark.root
@pytest.mark.alone
@pytest.mark.parametrize("far", [kernel_clock._FAR_NS, 2 * 10**9])
async def test_a_step_of_the_clock_is_noticed_within_ten_milliseconds(
    far: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a microsecond, forward and back; also when the timer's far instant is past."""
    if os.geteuid() != 0:
        missing("only root may set the clock")
    monkeypatch.setattr(kernel_clock, "_FAR_NS", far)
    for sign in (1, -1):
        waiting = asyncio.get_running_loop().create_task(wait_for_step())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        began = time.monotonic()
        set_clock_by_a_microsecond(sign)
        async with asyncio.timeout(1):
            await waiting
        assert time.monotonic() - began < 0.01


async def test_nothing_is_noticed_when_nothing_happens_and_the_wait_can_be_given_up() -> None:
    """No descriptor is left behind."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await wait_for_step()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_a_clock_beyond_2038_is_not_a_clock_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timer expires, which is nobody's doing."""
    monkeypatch.setattr(kernel_clock, "_FAR_NS", 2 * 10**9)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await wait_for_step()


async def test_where_it_cannot_be_known_the_wait_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """And does no harm."""

    def refuse(*_arguments: object, **_flags: object) -> int:
        raise OSError(errno.ENOSYS, "timerfd_create")

    monkeypatch.setattr(kernel_clock, "timerfd_create", refuse)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await wait_for_step()


def test_the_host_s_discipline_is_what_adjtimex_says() -> None:
    """Read by another program at the same time."""
    found = read_discipline()
    assert found is not None
    state, status, max_error_us = found
    assert 0 <= state <= 5
    assert (state == 5) == bool(status & 0x40 or status & 0x1000 or status & 0x2)
    assert 0 <= max_error_us <= 16_000_000


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
def test_a_forbidden_adjtimex_is_no_discipline(error: str) -> None:
    """As under a filter of the service manager: really refused by the kernel's gate."""
    strace = shutil.which("strace") or missing("strace is not installed")
    script = "from edge_agent.adapters.kernel_clock import read_discipline; print(read_discipline())"
    done = subprocess.run(
        [
            *(str(strace), "-f", "-qq", "-e", "trace=adjtimex,clock_adjtime", "-o", "/dev/null"),
            *("-e", f"inject=adjtimex,clock_adjtime:error={error}", sys.executable, "-c", script),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "None\n"


def test_no_call_that_sets_the_clock_is_ever_made(tmp_path: Path) -> None:
    """By any adapter of the clocks; adjtimex is called to read only."""
    strace = shutil.which("strace") or missing("strace is not installed")
    script = """
import asyncio
from edge_agent.adapters import kernel_clock
from edge_agent.adapters.kernel_clock import read_discipline, wait_for_step
from edge_agent.adapters.network_changes import wait_for_network_change
from edge_agent.adapters.system_clock import SystemClock
async def live():
    clock = SystemClock()
    clock.pair(), clock.slept(), clock.now(), read_discipline()
    for waiting in (wait_for_step(), wait_for_network_change()):
        try:
            async with asyncio.timeout(0.1):
                await waiting
        except TimeoutError:
            pass
asyncio.run(live())
"""
    log = tmp_path / "calls"
    subprocess.run(
        [
            *(str(strace), "-f", "-v", "-e", "trace=" + ",".join(f"?{name}" for name in SETTERS), "-o", str(log)),
            *(sys.executable, "-c", script),
        ],
        check=True,
        timeout=60,
    )
    calls = [line for line in log.read_text().splitlines() if any(name in line for name in SETTERS)]
    assert calls, "the one that reads is seen"
    assert all("modes=0" in call for call in calls), calls
