"""The command ``diag``: what somebody far away needs to see, in one piece and without secrets."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import orjson

from edge_agent import __version__
from edge_agent.adapters.config_files import read_secret
from edge_agent.adapters.host import disk, versions
from edge_agent.adapters.logs import RECENT
from edge_agent.command_ports import Call, Command, NoArgs
from edge_agent.commands.agent import Host
from edge_agent.core.config_models import Config
from edge_agent.core.redaction import redact, scrub
from edge_agent.core.timebase import elapsed, later, rfc3339, seconds, to_seconds
from edge_agent.errors import ConfigError, EdgeAgentError
from edge_agent.ports import Clock

ASKED: Final = ("agent-status", "config-get", "clock-status", "queue-stat", "job-list")
MAX_LOCAL: Final = 1 << 20
LAG_SAMPLES: Final = 10
LAG_EVERY: Final = seconds(0.02)
MAX_TASKS: Final = 200


def commands(host: Host, others: Sequence[Command]) -> list[Command]:
    """Return it.

    Args:
        host: the agent.
        others: the commands whose answers are part of it.
    """

    async def diag(call: Call, _args: NoArgs) -> dict[str, Any]:
        config = host.loaded().config
        bundle: dict[str, Any] = {
            "time": rfc3339(host.clock.now().time),
            "versions": {"edge-agent": __version__} | versions(),
            "disk": disk(host.state_dir),
            "loop_lag_ms": await _loop_lag(host.clock),
        }
        for command in others:
            if command.name in ASKED:
                bundle[command.name] = await _answer(command, call)
        bundle |= {"tasks": sorted(map(_where, asyncio.all_tasks()))[:MAX_TASKS], "log": list(map(_parsed, RECENT))}
        limit = MAX_LOCAL if call.local else host.room()
        return fitted(without_secrets(bundle, config, host.environ), limit)

    summary = "Gather what support needs to see, without secrets."
    return [Command("diag", summary, NoArgs, dict[str, Any], diag, at_once=1)]


def without_secrets(bundle: dict[str, Any], config: Config, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return a bundle in which nothing stands that the configuration hides, nor what its secret files hold."""
    secrets = redact(config.model_dump(mode="json"))[1]
    for file in filter(None, (config.mqtt.password_file, config.operator.password_file)):
        with suppress(ConfigError):
            secrets.add(read_secret(file, environ=environ))
    found: dict[str, Any] = scrub(bundle, secrets)
    return found


def fitted(bundle: dict[str, Any], limit: int) -> dict[str, Any]:
    """Return sections that take at most ``limit`` bytes of JSON, if any do; ``cut`` says what is missing of which.

    What is largest is cut first: of a list the first half, again and again; another section as a whole.
    """
    cut: dict[str, str] = {}
    fits = bundle | {"cut": cut}
    while _size(fits) > limit and len(fits) > 1:
        name = max(fits.keys() - {"cut"}, key=lambda name: (_size(fits[name]), name))
        if isinstance(fits[name], list) and len(fits[name]) > 1:
            fits[name] = fits[name][len(fits[name]) // 2 :]
            cut[name] = f"the first {len(bundle[name]) - len(fits[name])} of {len(bundle[name])} entries"
        else:
            del fits[name]
            cut[name] = "all of it"
    return fits


def _size(value: object) -> int:
    return len(orjson.dumps(value, default=str))


async def _answer(command: Command, call: Call) -> object:
    """Return what a command answers, as JSON has it."""
    try:
        return orjson.loads(orjson.dumps(await command.run(call, command.args())))
    except EdgeAgentError as error:
        return {"error": str(error)}


async def _loop_lag(clock: Clock) -> dict[str, float]:
    """Return how late the loop wakes."""
    lags = []
    for _ in range(LAG_SAMPLES):
        due = later(clock.monotonic(), LAG_EVERY)
        await clock.sleep_until(due)
        lags.append(to_seconds(elapsed(due, clock.monotonic())) * 1000)
    return {"mean": round(sum(lags) / LAG_SAMPLES, 3), "max": round(max(lags), 3)}


def _where(task: asyncio.Task[Any]) -> str:
    """Return a task's name, and where it waits: the coroutines that wait for each other, the innermost last."""
    places = list[str]()
    coroutine: Any = task.get_coro()
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        places.append(f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_qualname}:{frame.f_lineno}")
        coroutine = coroutine.cr_await
    return f"{task.get_name()}: {' > '.join(places)}"


def _parsed(line: str) -> object:
    """Return a line of the log as what it says, so that every text in it can be looked at."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return line
