"""One blocking call in a thread that nobody has to wait for."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from edge_agent.adapters.threads import in_daemon_thread

WITHIN_S = 30.0


def never() -> None:
    """Fail: nothing was late."""
    raise AssertionError("late was called")


def child(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own; a thread that holds up its exit is a failure."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=WITHIN_S, check=False)


async def test_what_the_work_returns_is_returned() -> None:
    """It ran in another thread, a daemon, under the name that was asked for."""
    mine = threading.get_ident()

    def work() -> tuple[bool, str, bool]:
        thread = threading.current_thread()
        return thread.ident == mine, thread.name, thread.daemon

    assert await in_daemon_thread(work, name="worker", late=never) == (False, "worker", True)


async def test_what_the_work_raises_is_raised() -> None:
    """The very exception, with the place where it was raised."""
    error = OSError(5, "broken")

    def work() -> None:
        raise error

    with pytest.raises(OSError, match="broken") as caught:
        await in_daemon_thread(work, name="worker", late=never)
    assert caught.value is error
    assert any(entry.name == "work" for entry in caught.traceback)


async def test_the_loop_turns_while_the_work_blocks() -> None:
    """Ten calls that all wait for the last one to have been made end together."""
    barrier = threading.Barrier(10, timeout=WITHIN_S)
    arrived = await asyncio.gather(*(in_daemon_thread(barrier.wait, name="worker", late=never) for _ in range(10)))
    assert sorted(arrived) == list(range(10))


@pytest.mark.parametrize("fails", [pytest.param(False, id="returns"), pytest.param(True, id="raises")])
async def test_a_cancelled_caller_goes_at_once_and_what_comes_late_is_cleaned_up(fails: bool) -> None:  # noqa: FBT001
    """The cleanup runs once, in the loop's thread, when the work has ended, however it did."""
    loop = asyncio.get_running_loop()
    begun, go, cleaned = asyncio.Event(), threading.Event(), asyncio.Event()
    cleaners: list[int] = []

    def work() -> str:
        loop.call_soon_threadsafe(begun.set)
        assert go.wait(WITHIN_S)
        if fails:
            raise OSError("too late")
        return "too late"

    def late() -> None:
        cleaners.append(threading.get_ident())
        cleaned.set()

    caller = loop.create_task(in_daemon_thread(work, name="worker", late=late))
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert cleaners == []
    go.set()
    async with asyncio.timeout(WITHIN_S):
        await cleaned.wait()
    for _ in range(3):
        await asyncio.sleep(0)
    assert cleaners == [threading.get_ident()]


async def test_a_deadline_may_be_put_around_it() -> None:
    """The caller sees the time-out, not the work."""
    go, cleaned = threading.Event(), asyncio.Event()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await in_daemon_thread(lambda: go.wait(WITHIN_S), name="worker", late=cleaned.set)
    go.set()
    async with asyncio.timeout(WITHIN_S):
        await cleaned.wait()


def test_a_loop_that_is_closed_meanwhile_makes_no_noise(capfd: pytest.CaptureFixture[str]) -> None:
    """The work ends long after its loop: nobody is told, nothing is written, the thread is gone."""
    go, ended = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def work() -> None:
        threads.append(threading.current_thread())
        assert go.wait(WITHIN_S)
        ended.set()

    async def main() -> None:
        caller = asyncio.get_running_loop().create_task(in_daemon_thread(work, name="worker", late=never))
        while not threads:  # noqa: ASYNC110  # a thread's doing
            await asyncio.sleep(0.001)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller

    asyncio.run(main())
    go.set()
    assert ended.wait(WITHIN_S)
    threads[0].join(WITHIN_S)
    assert not threads[0].is_alive()
    assert capfd.readouterr() == ("", "")


_HANGS = """
import asyncio, sys, threading
from edge_agent.adapters.threads import in_daemon_thread

begun = threading.Event()

def work():
    begun.set()
    threading.Event().wait()   # a resolver that hangs

async def main():
    caller = asyncio.create_task(in_daemon_thread(work, name="hangs", late=lambda: None))
    while not begun.is_set():
        await asyncio.sleep(0.001)
    caller.cancel()

asyncio.run(main())
print("left")
"""


def test_work_that_hangs_does_not_hold_up_the_exit() -> None:
    """A real interpreter, with a thread that never ends, is gone at once, with code 0 and without a word."""
    begun = time.monotonic()
    done = child(_HANGS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "left\n", "")
    assert time.monotonic() - begun < WITHIN_S


_ENDS_DURING_EXIT = """
import asyncio, threading, time
from edge_agent.adapters.threads import in_daemon_thread

def work():
    time.sleep({delay})
    {end}

async def main():
    caller = asyncio.create_task(in_daemon_thread(work, name="late", late=lambda: None))
    await asyncio.sleep(0.01)
    caller.cancel()

asyncio.run(main())
"""


@pytest.mark.parametrize("end", ["return 1", "raise OSError('late')"])
def test_work_that_ends_while_the_interpreter_does_makes_no_noise(end: str) -> None:
    """Just before, during and after: stderr stays empty."""
    for delay in (0.01, 0.015, 0.02, 0.03):
        done = child(_ENDS_DURING_EXIT.format(delay=delay, end=end))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_a_bug_in_the_work_is_the_callers() -> None:
    """An assertion of ours is not swallowed in the thread."""
    work: Callable[[], None] = never
    with pytest.raises(AssertionError, match="late was called"):
        await in_daemon_thread(work, name="worker", late=never)
