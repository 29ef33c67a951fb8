"""The command ``exec``: runs a program that local files name."""

from __future__ import annotations

import asyncio
from typing import Final

import orjson
from pydantic import Field
from typing_extensions import TypedDict

from edge_agent.adapters.program import run_program
from edge_agent.command_ports import Call, Command, CutOff
from edge_agent.commands.agent import Host
from edge_agent.core.command_request import Code, CommandError
from edge_agent.core.config_types import Name, Section
from edge_agent.core.lines import WIDEST
from edge_agent.core.timebase import NANOSECONDS_PER_MILLISECOND, seconds, to_seconds
from edge_agent.core.units import format_duration
from edge_agent.job_ports import Locals

UNLESS_SAID: Final = seconds(600)
"""How long a program may run that has no ``timeout``."""

GRACE: Final = seconds(4)  # less than the command itself has


class Run(Section):
    """Which program."""

    program: Name = Field(description="Name of a table below [programs].")


class Ran(TypedDict):
    """How it ended, and the beginning of what it printed."""

    exit_code: int
    stdout: str
    truncated: bool
    duration_ms: float


def commands(host: Host) -> list[Command]:
    """Return it."""
    clock, folder = host.clock, host.state_dir / "programs"

    async def run(_call: Call, args: Run) -> Ran:
        name = f"programs.{args.program}"
        program = Locals(host.loaded().config.programs, {}, {}).program(args.program)
        limit, begun = program.timeout or UNLESS_SAID, clock.raw()
        try:
            async with asyncio.timeout(to_seconds(limit)):
                ended = await run_program(program, cwd=folder / args.program, grace=GRACE, clock=clock)
        except TimeoutError:
            raise CommandError(Code.TIMEOUT, f"{name} ran longer than {format_duration(limit)}") from None
        if ended.code:
            raise CommandError(Code.FAILED, f"{name} {ended.complaint()}")
        text, room = ended.output.decode(errors="backslashreplace"), host.room()
        cut = text if len(orjson.dumps(text)) <= room else text[: max(room, 0) // WIDEST]
        return {
            "exit_code": ended.code,
            "stdout": cut,
            "truncated": ended.truncated or cut != text,
            "duration_ms": round((clock.raw() - begun) / NANOSECONDS_PER_MILLISECOND, 1),
        }

    return [
        Command(
            "exec",
            "Run a program of the table [programs], and return what it prints.",
            Run,
            Ran,
            run,
            "what the program does",
            timeout=seconds(7 * 86_400),  # its own ends it before
            cut_off=CutOff.INTERRUPTED,
        )
    ]
