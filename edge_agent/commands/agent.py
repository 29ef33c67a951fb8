"""The commands that concern the agent itself: whether it is there, how it is, and what it is to do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from pydantic import Field, create_model
from typing_extensions import TypedDict

from edge_agent.adapters.logs import set_level
from edge_agent.command_ports import Call, Command, CutOff, NoArgs
from edge_agent.core.config import Loaded
from edge_agent.core.config_jobs import Job
from edge_agent.core.config_memory import Entry
from edge_agent.core.config_types import Name, Section, duration
from edge_agent.core.connection import SPOKEN
from edge_agent.core.events import HeartbeatData
from edge_agent.core.job_entry import Origin
from edge_agent.core.timebase import DurationNs, UtcNs, rfc3339, to_seconds
from edge_agent.ports import Clock
from edge_agent.services.session import Session

log = logging.getLogger(__name__)

MAX_SENT: Final = 100 << 10
BESIDE: Final = 2048
"""Bytes of a reply that are not its result, and then some."""

# a field may be called so, though a variable may not
_FIELDS: Final[dict[str, Any]] = {
    "level": (Literal["debug", "info", "warning", "error"], Field(description="Least severity that is written.")),
    "for": (DurationNs, duration("1h", "1s", "1d", "How long, until the configured one counts again")),
}
SetLevel: Final = create_model("SetLevel", __base__=Section, __doc__="A level, for a while.", **_FIELDS)


class OneCommand(Section):
    """Which command."""

    id: Name = Field(description="The command's id.")


class Pong(TypedDict):
    """That it is there, and what time it has."""

    pong: bool
    time: str


class Level(TypedDict):
    """The level, and until when."""

    level: str
    until: str


class Cancelled(TypedDict):
    """Whether there was a command to end."""

    cancelled: bool


class Restarting(TypedDict):
    """That it is about to."""

    restarting: bool


@dataclass(frozen=True, slots=True)
class ConnectionData:
    """The MQTT connection: broker's URL, protocol, and since when."""

    broker: str
    protocol: str
    since: str


class LastChange(TypedDict):
    """A change of the configuration: when, by whom, and to what."""

    time: str
    by: str
    digest: str


class Desired(TypedDict):
    """Of the configuration that the cloud wants: its version, and what became of it."""

    version: int | None
    state: str


@dataclass(frozen=True, slots=True)
class Status(HeartbeatData):
    """The ``data`` of a heartbeat, and what it is sent over.

    Attributes:
        connection: ``None`` while there is none.
        config_since: when the configuration in force was put in force.
        config_change: the last change, which led to it; ``None`` = nothing is remembered.
        config_cloud: what became of the cloud's.
        config_conditions: what of it is less than it should be, as stable words.
    """

    connection: ConnectionData | None = None
    config_since: str | None = None
    config_change: LastChange | None = None
    config_cloud: Desired | None = None
    config_conditions: tuple[str, ...] = ()


class Standing(Protocol):
    """How the configuration stands."""

    def since(self) -> UtcNs:
        """Return when what is in force was put in force."""

    def last(self) -> Entry | None:
        """Return the last change."""

    def said(self) -> Mapping[str, Any]:
        """Return what became of what the cloud wants."""

    def conditions(self) -> list[str]:
        """Return what is less than it should be, as stable words."""


@dataclass(frozen=True, slots=True)
class Host:
    """What commands need of the agent itself.

    Attributes:
        clock: of the device.
        state_dir: where it keeps what outlives it.
        environ: the process's environment.
        loaded: returns the configuration in force.
        jobs: returns the jobs that there are, also those put at run time.
        standing: of the configuration.
        measure: returns the data of a heartbeat.
        session: returns the session that is open, or waits for one.
        reload: reads the configuration again; returns whether it has changed, or raises ``ConfigError``.
        restart: begins to restart.
        cancel: ends a command; returns whether there was one.
    """

    clock: Clock
    state_dir: Path
    environ: Mapping[str, str]
    loaded: Callable[[], Loaded]
    jobs: Callable[[], Mapping[str, tuple[Job, Origin]]]
    standing: Standing
    measure: Callable[[], HeartbeatData]
    session: Callable[[], Awaitable[Session]]
    reload: Callable[[], Awaitable[bool]]
    restart: Callable[[], None]
    cancel: Callable[[str], bool]

    def room(self) -> int:
        """Return how many bytes a result may have that is sent."""
        return min(MAX_SENT, self.loaded().config.outbox.max_record) - BESIDE


def commands(host: Host) -> list[Command]:
    """Return them."""
    reverting: asyncio.TimerHandle | None = None

    async def ping(_call: Call, _args: NoArgs) -> Pong:
        return {"pong": True, "time": rfc3339(host.clock.now().time)}

    async def status(_call: Call, _args: NoArgs) -> Status:
        data, connection = host.measure(), None
        with suppress(TimeoutError):
            async with asyncio.timeout(0):  # it is there at once, or not now
                session = await host.session()
                protocol, since = SPOKEN[session.connection.protocol], rfc3339(session.since)
                connection = ConnectionData(session.broker, protocol, since)
                data = replace(data, session=session.name)
        known = {field.name: getattr(data, field.name) for field in fields(data)}
        last, said = host.standing.last(), host.standing.said()
        return Status(
            **known,
            connection=connection,
            config_since=rfc3339(host.standing.since()),
            config_change=None if last is None else {"time": last.time, "by": last.by, "digest": last.digest},
            config_cloud={"version": said["version"], "state": said["state"]},
            config_conditions=tuple(host.standing.conditions()),
        )

    async def level(_call: Call, args: Section) -> Level:
        nonlocal reverting
        wanted, lasting = (args.model_dump()[name] for name in ("level", "for"))
        if reverting is not None:
            reverting.cancel()
        set_level(wanted)
        reverting = asyncio.get_running_loop().call_later(to_seconds(lasting), revert)
        return {"level": wanted, "until": rfc3339(UtcNs(host.clock.now().time + lasting))}

    def revert() -> None:
        set_level(configured := host.loaded().config.log.level)
        log.info("log_level_reverted", extra={"to": configured})

    async def restart(_call: Call, _args: NoArgs) -> Restarting:
        host.restart()
        return {"restarting": True}

    async def cancel(_call: Call, args: OneCommand) -> Cancelled:
        return {"cancelled": host.cancel(args.id)}

    return [
        Command("ping", "Say that it is there, and what time it has.", NoArgs, Pong, ping, at_once=100),
        Command(
            "agent-status", "Say how the agent is: what a heartbeat says, and the connection.", NoArgs, Status, status
        ),
        Command("log-level", "Log more or less for a while.", SetLevel, Level, level, "log"),
        Command("cancel", "End a command that waits or runs.", OneCommand, Cancelled, cancel, "commands"),
        Command("restart", "Restart the agent.", NoArgs, Restarting, restart, "agent", cut_off=CutOff.DONE, at_once=1),
    ]
