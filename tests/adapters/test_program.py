"""Programs that never end, fork away or flood: real processes, and what is left of them."""

from __future__ import annotations

import asyncio
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from edge_agent.adapters.program import Ended, run_program
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.core.config_jobs import Program
from edge_agent.core.timebase import seconds

WITHIN_S = 30.0


async def ended(folder: Path, *argv: str, grace_s: float = 1, max_output: int = 1 << 16) -> Ended:
    """Run a program; Python code if it is one argument."""
    argv = argv if argv[1:] else (sys.executable, "-c", *argv)
    program = Program(argv=argv).model_copy(update={"max_output": max_output})
    return await run_program(program, cwd=folder, grace=seconds(grace_s), clock=SystemClock())


def in_group(group: int) -> list[int]:
    """Return the processes of a group that live."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = path.read_text().rpartition(") ")[2].split()[:3]
        except OSError:
            continue
        if int(pgrp) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


async def gone(group: int) -> bool:
    """Return whether a group ends."""
    for _ in range(500):
        if not in_group(group):
            return True
        await asyncio.sleep(0.01)
    return False


async def appears(path: Path) -> str:
    """Return what a program writes into a file, by renaming it into place."""
    while not path.exists():  # noqa: ASYNC110  # another process makes it
        await asyncio.sleep(0.01)
    return path.read_text()


def says(path: Path, text: str = "str(os.getpid())") -> str:
    """Return code that says something in a file."""
    return f"import os; open({str(path)!r} + '~', 'w').write({text}); os.rename({str(path)!r} + '~', {str(path)!r});"


async def test_a_program_that_floods_costs_no_memory_and_holds_up_nobody(tmp_path: Path) -> None:
    """A gigabyte goes by; a neighbour on the loop runs on all the time."""
    turns = 0

    async def neighbour() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.001)
            turns += 1

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with asyncio.TaskGroup() as group:
        beside = group.create_task(neighbour())
        code = "import os; block = b'x' * (1 << 20)\nfor _ in range(1024): os.write(1, block)"
        result = await ended(tmp_path, code, max_output=1024)
        beside.cancel()
    assert (result.output, result.truncated) == (b"x" * 1024, True)
    assert turns > 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, "KiB"


# ---------------------------------------------------------------- never ends
async def test_a_deadline_ends_a_program_and_its_children(tmp_path: Path) -> None:
    """Those that hear SIGTERM go at once, long before the grace is over."""
    pid = tmp_path / "pid"
    async with asyncio.TaskGroup() as group:
        task = group.create_task(
            ended(tmp_path, f"{says(pid)} import time; os.fork(); time.sleep(600)", grace_s=WITHIN_S * 10)
        )
        number = int(await appears(pid))
        task.cancel()
        async with asyncio.timeout(WITHIN_S):
            await asyncio.wait((task,))
    assert await gone(number)


async def test_cancelled_it_kills_who_does_not_hear(tmp_path: Path) -> None:
    """After the grace, the whole group."""
    pid = tmp_path / "pid"
    code = f"import signal, time; signal.signal(15, signal.SIG_IGN); {says(pid)} os.fork(); time.sleep(600)"
    async with asyncio.TaskGroup() as group:
        task = group.create_task(ended(tmp_path, code, grace_s=0.3))
        number = int(await appears(pid))
        began = time.monotonic()
        task.cancel()
        await asyncio.wait((task,))
    assert task.cancelled()
    assert time.monotonic() - began >= 0.3
    assert await gone(number)


async def test_cancelled_twice_it_kills_at_once(tmp_path: Path) -> None:
    """Whoever cannot wait for the grace leaves nothing behind either."""
    pid = tmp_path / "pid"
    code = f"import signal, time; signal.signal(15, signal.SIG_IGN); {says(pid)} time.sleep(600)"
    async with asyncio.TaskGroup() as group:
        task = group.create_task(ended(tmp_path, code, grace_s=600))
        number = int(await appears(pid))
        task.cancel()
        await asyncio.sleep(0.1)
        assert in_group(number)
        task.cancel()
        await asyncio.wait((task,))
    assert await gone(number)


async def test_cancelled_while_it_starts_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program whose start took too long is killed as soon as it has begun."""
    begun, go, real = threading.Event(), threading.Event(), subprocess.Popen
    started: list[subprocess.Popen[bytes]] = []

    def slow(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401
        begun.set()
        go.wait(WITHIN_S)
        started.append(real(*args, **kwargs))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", slow)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(ended(tmp_path, "/bin/sleep", "600"))
        while not begun.is_set():  # noqa: ASYNC110  # a thread sets it
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait((task,))
        go.set()
        while not (started and started[0].returncode is not None):  # noqa: ASYNC110  # a thread waits for it
            await asyncio.sleep(0.01)
    assert started[0].returncode == -signal.SIGKILL


# ---------------------------------------------------------------- forks away
async def test_what_it_leaves_behind_is_ended(tmp_path: Path) -> None:
    """A child in the background, with the output still open, neither holds up the run nor lives on."""
    pid = tmp_path / "pid"
    code = f"{says(pid)} import time, sys; print('done', flush=True); os.fork() or time.sleep(600)"
    async with asyncio.timeout(WITHIN_S):
        assert (await ended(tmp_path, code)).output == b"done\n"
    assert await gone(int(pid.read_text()))


async def test_what_has_made_itself_a_session_holds_up_nothing(tmp_path: Path) -> None:
    """It is out of reach, but the run ends, and it can write no more."""
    pid, end = tmp_path / "pid", tmp_path / "end"
    code = (
        "import os, time, sys\nprint('done', flush=True)\nif os.fork() == 0:\n    os.setsid()\n    " + says(pid) + "\n"
        f"    while not os.path.exists({str(end)!r}): time.sleep(0.01)\n    os.write(1, b'late')\n"
        f"while not os.path.exists({str(pid)!r}): time.sleep(0.01)"
    )
    async with asyncio.timeout(WITHIN_S):
        assert (await ended(tmp_path, code)).output == b"done\n"
    end.touch()
    assert await gone(int(pid.read_text()))
