"""The kind ``reach``: how long a server takes to answer a connection. A complete example of a kind of one's own.

[jobs.gateway]
kind = "reach"
every = "1m"
options = { host = "192.0.2.1", port = 502 }
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated

import orjson
from pydantic import Field

from edge_agent.core.config_types import Section, matching
from edge_agent.errors import JobError
from edge_agent.job_ports import Context, Kind


class Options(Section):
    """Whom to reach: what may stand under ``[jobs.NAME.options]``, checked by ``edge-agent check``."""

    host: Annotated[str, matching(r"[A-Za-z0-9.:-]{1,253}", "a host")] = Field(description="Name or address.")
    port: int = Field(ge=1, le=65_535, description="TCP port.")


async def run(ctx: Context, options: Options) -> Mapping[str, object]:
    """Connect once, and publish how long it took.

    Everything that may block is awaited; what has no asynchronous form belongs in a thread. The time comes from the
    context. When the run is cancelled, ``asyncio.CancelledError`` passes through, and nothing is left open.
    """
    began = ctx.clock.monotonic()
    try:
        _, writer = await asyncio.open_connection(options.host, options.port)
    except OSError as error:  # a reason outside: the run fails with it, and nothing else does
        raise JobError(f"{options.host}:{options.port}: {error.strerror or error}") from None
    milliseconds = (ctx.clock.monotonic() - began) / 1e6
    writer.close()
    record = {"host": options.host, "port": options.port, "ms": round(milliseconds, 3)}
    await ctx.publish(orjson.dumps(record))  # goes on once the record is safe
    return record  # kept in the history of the job's runs


KIND = Kind("reach", Options, run)
