"""The commands ``queue-…``: how the outbox stands, and to let go of some of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from typing_extensions import TypedDict

from edge_agent.command_ports import Call, Command, NoArgs
from edge_agent.core.config_types import FromText, Section
from edge_agent.core.records import Priority
from edge_agent.core.submission import parse_channel
from edge_agent.core.timebase import seconds
from edge_agent.errors import SubmissionError
from edge_agent.services.queue_tools import QueueTools


def _channel(text: str) -> str:
    try:
        return parse_channel(text)
    except SubmissionError as error:
        raise ValueError(str(error)) from None


class Purge(Section):
    """Which records; all, if nothing is said."""

    priority: Literal["critical", "normal", "bulk"] | None = Field(None, description="Only those of this priority.")
    channel: Annotated[str, FromText(_channel, "a channel like data/temp")] | None = Field(
        None, description="Only those of this channel, like data/temperature."
    )
    dead: bool = Field(default=False, description="The dead letters instead, all of them.")

    @model_validator(mode="after")
    def _alone(self) -> Self:
        if self.dead and (self.priority or self.channel):
            raise ValueError("dead: all dead letters go at once; leave out priority and channel")
        return self


class Stat(TypedDict):
    """How the outbox stands; the outbox's part of the heartbeat, and more."""

    records: int
    bytes: int
    oldest_age_s: float | None
    dropped: int
    settled: dict[str, int]
    bytes_sent: int
    name: str
    max_bytes: int
    online: bool
    conditions: list[str]
    dropped_by_reason: dict[str, int]
    dead: int
    gaps: list[dict[str, Any]]
    streams: dict[str, dict[str, Any]]


class Purged(TypedDict):
    """How many were dropped."""

    purged: int


def commands(tools: QueueTools) -> list[Command]:
    """Return them."""

    async def stat(_call: Call, _args: NoArgs) -> object:
        return tools.stat()

    async def purge(_call: Call, args: Purge) -> Purged:
        if args.dead:
            return {"purged": await tools.purge_dead()}
        priority = None if args.priority is None else Priority[args.priority.upper()]
        return {"purged": await tools.purge(priority, args.channel)}

    return [
        Command("queue-stat", "Say how the outbox stands: records, streams, what was dropped.", NoArgs, Stat, stat),
        Command(
            "queue-purge",
            "Drop records, each named as a gap.",
            Purge,
            Purged,
            purge,
            "outbox",
            timeout=seconds(600),
        ),
    ]
