"""``edge-agent status``: how the running agent is, in one screen."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any, Final

from edge_agent.cli.asking import daemon
from edge_agent.cli.options import ASKING, add
from edge_agent.cli.printing import columns, show
from edge_agent.core.timebase import seconds
from edge_agent.core.units import format_duration

_NOTHING: Final = {"version": None, "state": "applied"}
"""What is said of the cloud's configuration where there is none."""


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options to its parser."""
    parser.description = (
        "Show how the running agent is: connection, clock, outbox, jobs since its start, configuration. "
        "offset: the operating system's clock minus true time, positive = it is fast."
    )
    add(parser, *ASKING)


def run(args: argparse.Namespace) -> int:
    """Show it; return 0."""
    with daemon(args) as agent:
        status = agent.call("agent-status")
    show(status, columns(_rows(status)), as_json=args.json)
    return 0


def _rows(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    agent, clock, outbox, jobs = (status[key] for key in ("agent", "clock", "outbox", "jobs"))
    up = format_duration(seconds(status["uptime_s"]))
    yield "agent", f"edge-agent {agent['version']}, up {up}, process {agent['pid']}, {_bytes(agent['rss_bytes'])}"
    connection = status["connection"]
    if connection is None:
        yield "connection", "offline"
    else:
        broker, protocol, since = (connection[key] for key in ("broker", "protocol", "since"))
        yield "connection", f"connected to {broker}, MQTT {protocol}, since {_second(since)}"
    error = "" if clock["error_ms"] is None else f" ± {clock['error_ms']:g} ms"
    offset = "" if clock["offset_ms"] is None else f", offset {clock['offset_ms']:+g} ms"
    steps = "" if not clock["steps"] else f", stepped {clock['steps']} times"
    yield "clock", f"{clock['state']}{offset}{error}, by {clock['source'] or 'no server'}{steps}"
    age = "" if outbox["oldest_age_s"] is None else f", the oldest {outbox['oldest_age_s']:g} s old"
    sent = f"{_bytes(outbox['bytes_sent'])} sent, {outbox['dropped']} dropped"
    yield "outbox", f"{outbox['records']} records wait, {_bytes(outbox['bytes'])}{age}; {sent}"
    yield "jobs", ", ".join(f"{count} {how}" for how, count in jobs.items())
    change, cloud = status["config_change"], status["config_cloud"]
    by = "" if change is None else f"; last changed {_second(change['time'])} by {change['by']}"
    told = "" if cloud == _NOTHING else f"; cloud version {cloud['version'] or 'none'}, {cloud['state']}"
    yield "config", f"{status['config']['digest']}, in force since {_second(status['config_since'])}{by}{told}"
    if status["config_conditions"]:
        yield "", f"{', '.join(status['config_conditions'])}; see edge-agent config show"


def _second(time: str) -> str:
    return f"{time[:19]}Z"


def _bytes(count: float) -> str:
    """Return a number of bytes as a person reads it."""
    unit, units = "B", iter(("KiB", "MiB", "GiB", "TiB"))
    while count >= 1024:
        count, unit = count / 1024, next(units)
    return f"{count:.1f} {unit}" if unit != "B" else f"{count:g} B"
