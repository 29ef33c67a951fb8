"""The command profile, on this process."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import orjson

from edge_agent.adapters.system_clock import SystemClock
from edge_agent.commands.profile import allocations, commands, sample
from tests.support.commands import asked, host_of


async def profile(folder: Path, text: str = "", **args: object) -> Any:  # noqa: ANN401  # as JSON has it
    """Return the answer."""
    clock: Any = SystemClock()
    return await asked(commands(host_of(folder, text, clock)), "profile", {"seconds": 1, **args})


async def tracing() -> None:
    """Wait until memory is traced."""
    while not tracemalloc.is_tracing():  # noqa: ASYNC110  # another thread's doing
        await asyncio.sleep(0.01)


async def test_the_stacks_are_those_of_all_threads(tmp_path: Path) -> None:
    """Of the loop's, which waits, too; the greatest first, as tools for flame graphs read them."""
    found = await profile(tmp_path)
    assert (found["unit"], found["left_out"]) == ("samples", 0)
    counts = [int(line.rpartition(" ")[2]) for line in found["stacks"]]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == found["total"]
    main = threading.current_thread().name
    assert any(line.startswith(f"{main};") for line in found["stacks"])


async def test_what_is_allocated_and_kept_is_found(tmp_path: Path) -> None:
    """By the line that has it."""
    task = asyncio.get_running_loop().create_task(profile(tmp_path, mode="memory"))
    await tracing()
    kept = [bytes(1000) for _ in range(1000)]
    found = await task
    assert found["unit"] == "bytes"
    stack, _, size = found["stacks"][0].rpartition(" ")
    assert "test_profile.py:" in stack
    assert int(size) > len(kept) * 1000


async def test_it_is_no_larger_than_what_can_be_sent(tmp_path: Path) -> None:
    """And says how much was left out."""
    task = asyncio.get_running_loop().create_task(profile(tmp_path, '[outbox]\nmax_record = "3KiB"\n', mode="memory"))
    await tracing()
    kept: list[bytes] = []
    exec("kept.append(bytes(500))\n" * 200, {"kept": kept})  # noqa: S102  # many lines, each a stack of its own
    found = await task
    assert len(orjson.dumps(found)) < 3072
    assert found["left_out"] > 0


def test_a_thread_is_found_where_it_is() -> None:
    """Under its name, from the outermost frame on; the sampler itself is not."""
    stop, done = threading.Event(), threading.Event()
    waiting = threading.Thread(target=done.wait, name="a-waiting-one", daemon=True)
    waiting.start()
    found = sample(0.1, stop)
    done.set()
    waiting.join()
    (stack,) = (stack for stack in found if stack.startswith("a-waiting-one;"))
    assert stack.split(";")[1] == "threading.Thread._bootstrap"
    assert stack.endswith("threading.Condition.wait")
    assert found[stack] == 10
    assert not any("profile.sample" in stack for stack in found)


def test_it_ends_when_it_is_told_to() -> None:
    """Whatever it was asked for; tracing is off afterwards."""
    stop = threading.Event()
    stop.set()
    assert sample(60, stop) == {}
    allocations(60, stop)
    assert not tracemalloc.is_tracing()
