"""The kind ``http``: asks an HTTP endpoint and publishes the JSON that it answers with. Needs the extra ``http``."""

from __future__ import annotations

import asyncio
import logging
import ssl
from importlib.util import find_spec
from typing import Final

from pydantic import Field

from edge_agent.core.config_kinds import EndpointName
from edge_agent.core.config_types import Section, duration, size
from edge_agent.core.timebase import DurationNs, to_seconds
from edge_agent.core.units import format_duration, format_size
from edge_agent.errors import JobError
from edge_agent.job_ports import Context, Kind
from edge_agent.jobs.json_value import json_value
from edge_agent.jobs.off_loop import off_loop

if find_spec("httpx") is None:
    raise JobError('the kind http needs the extra "http": pip install "edge-agent[http]"')


class Options(Section):
    """Whom to ask, and how much of an answer is waited for."""

    endpoint: EndpointName = Field(description="Name of a table below [endpoints], or a URL.")
    timeout: DurationNs = duration("10s", "100ms", "5m", "Longest wait for the whole answer")
    max_bytes: int = size("64KiB", "1B", "16MiB", "Largest answer")


async def run(ctx: Context, options: Options) -> None:
    """Ask once."""
    url = ctx.locals.url(options.endpoint)
    name = "the endpoint" if "://" in options.endpoint else f"endpoints.{options.endpoint}"  # a URL may hold a secret
    # the library would load certificates on the loop, also where none are needed
    trust = await off_loop(ctx, ssl.create_default_context) if url.startswith("https:") else False
    try:
        async with asyncio.timeout(to_seconds(options.timeout)):
            answer = await _ask(url, trust, options.max_bytes)
    except TimeoutError:
        raise JobError(f"{name} did not answer within {format_duration(options.timeout)}") from None
    except JobError as error:
        raise JobError(f"{name} {error}") from None
    await ctx.publish(json_value(answer, of=f"what {name} answered"))


async def _ask(url: str, trust: ssl.SSLContext | bool, max_bytes: int) -> bytes:  # noqa: FBT001  # as httpx has it
    import httpx  # noqa: PLC0415  # 16 MiB that only jobs of this kind need

    logging.getLogger("httpx").setLevel(logging.WARNING)  # below that it logs each URL, with what is secret in it
    headers = {"accept": "application/json", "accept-encoding": "identity"}  # what is packed may grow a thousandfold
    answer = bytearray()
    try:
        async with (
            httpx.AsyncClient(verify=trust, trust_env=False, timeout=None, headers=headers) as client,  # noqa: S113  # the caller's
            client.stream("GET", url) as response,
        ):
            if not response.is_success:
                raise JobError(f"answered {response.status_code} {response.reason_phrase}".rstrip())
            async for chunk in response.aiter_raw():
                answer += chunk
                if len(answer) > max_bytes:
                    raise JobError(f"answered with more than {format_size(max_bytes)}; raise max_bytes")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise JobError(f"cannot be asked: {str(error) or type(error).__name__}") from None
    return bytes(answer)


KIND: Final = Kind("http", Options, run)
