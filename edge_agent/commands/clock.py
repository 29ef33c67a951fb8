"""The commands ``clock-…``: what the agent knows of time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NotRequired, cast

from typing_extensions import TypedDict

from edge_agent.command_ports import Call, Command, NoArgs


class Source(TypedDict):
    """How a source stands; see ``core.peer.SourceFace``."""

    name: str
    standing: str
    used: bool
    reach: int
    offset_ms: float | None
    delay_ms: float | None
    root_ms: float | None
    age_s: float | None
    address: str | None
    next_s: NotRequired[float]
    poll_s: NotRequired[float]


class Report(TypedDict):
    """What is known of time; the clock's part of the heartbeat, and what it rests on."""

    time: str
    state: str
    offset_ms: float | None
    error_ms: float | None
    frequency_ppm: float | None
    source: str | None
    steps: int
    alarm: bool
    restarts: int
    uncertainty_ms: float
    sources: list[Source]


def commands(report: Callable[[], dict[str, Any]], hurry: Callable[[], None]) -> list[Command]:
    """Return them.

    Args:
        report: what is known of time.
        hurry: has the servers asked now.
    """

    async def status(_call: Call, _args: NoArgs) -> Report:
        return cast("Report", report())

    async def sync(_call: Call, _args: NoArgs) -> Report:
        hurry()
        return cast("Report", report())

    return [
        Command("clock-status", "Say what is known of time, from whom, and how well.", NoArgs, Report, status),
        Command("clock-sync", "Ask the time servers now, without waiting for them.", NoArgs, Report, sync, "clock"),
    ]
