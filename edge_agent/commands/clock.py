"""The commands ``clock-…``: what the agent knows of time."""

from __future__ import annotations

from collections.abc import Callable

from typing_extensions import TypedDict

from edge_agent.command_ports import Call, Command, NoArgs
from edge_agent.core.peer import SourceFace


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
    sources: list[SourceFace]


def commands(report: Callable[[], object], hurry: Callable[[], None]) -> list[Command]:
    """Return them.

    Args:
        report: what is known of time.
        hurry: has the servers asked now.
    """

    async def status(_call: Call, _args: NoArgs) -> object:
        return report()

    async def sync(_call: Call, _args: NoArgs) -> object:
        hurry()
        return report()

    return [
        Command("clock-status", "Say what is known of time, from whom, and how well.", NoArgs, Report, status),
        Command("clock-sync", "Ask the time servers now, without waiting for them.", NoArgs, Report, sync, "clock"),
    ]
