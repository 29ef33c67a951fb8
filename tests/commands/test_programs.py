"""The command exec, with real programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_agent.adapters.system_clock import SystemClock
from edge_agent.command_ports import CutOff
from edge_agent.commands.programs import commands
from edge_agent.core.command_request import CommandError
from edge_agent.errors import EdgeAgentError
from tests.support.commands import asked, host_of

TEXT = r"""
outbox = { max_record = "4KiB" }
[programs]
hello = { argv = ["/bin/sh", "-c", "echo hello; pwd"] }
bad = { argv = ["/bin/sh", "-c", "echo out; echo first >&2; echo last words >&2; exit 3"] }
slow = { argv = ["/bin/sleep", "60"], timeout = "200ms" }
gone = { argv = ["/no/such/program"] }
much = { argv = ["/bin/sh", "-c", "head -c 3000 /dev/zero"] }
more = { argv = ["/bin/sh", "-c", "echo 1234567890"], max_output = "4B" }
"""


async def run(folder: Path, program: str) -> Any:  # noqa: ANN401  # as JSON has it
    """Return the answer."""
    clock: Any = SystemClock()
    return await asked(commands(host_of(folder, TEXT, clock)), "exec", {"program": program})


async def test_what_a_program_prints_is_the_answer(tmp_path: Path) -> None:
    """It runs in a folder of its own."""
    found = await run(tmp_path, "hello")
    assert found | {"duration_ms": 0} == {
        "exit_code": 0,
        "stdout": f"hello\n{tmp_path}/programs/hello\n",
        "truncated": False,
        "duration_ms": 0,
    }
    assert 0 < found["duration_ms"] < 10_000


@pytest.mark.parametrize(
    ("program", "words", "code"),
    [
        ("bad", "programs.bad ended with exit code 3: first last words", "failed"),
        ("slow", "programs.slow ran longer than 200ms", "timeout"),
        ("gone", "/no/such/program: cannot be run: No such file or directory", None),
        ("unknown", "no program 'unknown'; add a table [programs.unknown]", None),
    ],
)
async def test_what_does_not_end_well_fails_the_command(
    tmp_path: Path, program: str, words: str, code: str | None
) -> None:
    """With the last that it said."""
    with pytest.raises(EdgeAgentError) as failed:
        await run(tmp_path, program)
    assert words in str(failed.value)
    assert (failed.value.code if isinstance(failed.value, CommandError) else None) == code


async def test_what_is_too_much_is_cut(tmp_path: Path) -> None:
    """At what the program may print, and at what a reply may hold: NULs take six bytes each."""
    assert (await run(tmp_path, "more"))["stdout"] == "1234"
    found = await run(tmp_path, "much")
    assert found["truncated"]
    assert found["stdout"] == "\0" * ((4096 - 2048) // 6)


def test_it_is_not_begun_again_after_a_crash(tmp_path: Path) -> None:
    """Nobody knows how much of it was done."""
    clock: Any = SystemClock()
    (command,) = commands(host_of(tmp_path, TEXT, clock))
    assert (command.cut_off, command.touches) == (CutOff.INTERRUPTED, "what the program does")
