"""The kind ``exec``: runs a program of the table ``[programs]`` and publishes what it prints."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, Literal

import orjson
from pydantic import Field

from edge_agent.adapters.program import Ended, run_program
from edge_agent.core.config_kinds import ProgramName
from edge_agent.core.config_types import Section
from edge_agent.core.lines import WIDEST
from edge_agent.core.timebase import DurationNs, to_seconds
from edge_agent.core.units import format_duration, format_size
from edge_agent.errors import JobError
from edge_agent.job_ports import Context, Kind
from edge_agent.jobs.json_value import json_value

AT_ONCE: Final = 256
"""Records that are handed in before the first is safe, which may take a second."""


class Options(Section):
    """What is run, and what is made of its output."""

    program: ProgramName = Field(description="Name of a table below [programs].")
    output: Literal["text", "json", "lines"] = Field(
        "text", description='One record {"text": …}; one record, the JSON that it prints; a record per line of JSON.'
    )


async def run(ctx: Context, options: Options) -> Mapping[str, object]:
    """Run the program to its end, then publish what it has printed; a bad line keeps back none of the others."""
    name, limit = f"programs.{options.program}", format_size(ctx.locals.program(options.program).max_output)
    ended = await _ended(ctx, options.program)
    if options.output == "text":
        text = ended.output.decode(errors="backslashreplace")
        data = orjson.dumps({"text": text} | ({"truncated": True} if ended.truncated else {}))
        if len(data) > ctx.max_record:  # JSON has more bytes for what is no plain text
            data = orjson.dumps({"text": text[: (ctx.max_record - 64) // WIDEST], "truncated": True})
        await ctx.publish(data)
        return {"records": 1}
    wrong: list[str] = []
    values = [ended.output]
    if options.output == "lines":
        whole = ended.output.rpartition(b"\n")[0] if ended.truncated else ended.output
        values = [line for line in whole.split(b"\n") if line.strip()]
    if ended.truncated:
        wrong.append(f"{name} printed more than {limit}, and the rest is lost; raise {name}.max_output")
        values = values if options.output == "lines" else []
    for at in range(0, len(values), AT_ONCE):
        wrong += await _publish(ctx, values[at : at + AT_ONCE], at + 1, name)
    if wrong:
        raise JobError(wrong[0] + (f"; {len(wrong) - 1} more like it" if wrong[1:] else ""))
    return {"records": len(values)}


async def _publish(ctx: Context, values: list[bytes], first: int, name: str) -> list[str]:
    """Publish values at once, in their order; return what is wrong with others."""
    records, wrong = list[bytes](), list[str]()
    for number, value in enumerate(values, start=first):
        try:
            records.append(json_value(value, of=f"value {number} of what {name} printed"))
        except JobError as error:
            wrong.append(str(error))
    for refused in await asyncio.gather(*map(ctx.publish, records), return_exceptions=True):
        if isinstance(refused, BaseException):
            raise refused
    return wrong


async def _ended(ctx: Context, name: str) -> Ended:
    """Run the program to a good end."""
    program = ctx.locals.program(name)
    try:
        async with asyncio.timeout(None if program.timeout is None else to_seconds(program.timeout)):
            ended = await run_program(program, cwd=ctx.folder, grace=DurationNs(ctx.grace_ns), clock=ctx.clock)
    except TimeoutError:
        assert program.timeout is not None, "nothing else times out"
        raise JobError(f"programs.{name} ran longer than its timeout, {format_duration(program.timeout)}") from None
    except JobError as error:
        raise JobError(f"programs.{name}: {error}") from None
    if ended.code:
        raise JobError(f"programs.{name} {ended.complaint()}")
    return ended


KIND: Final = Kind("exec", Options, run)
