"""Has a command obeyed, and its result judged by the type that it declares."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jsonschema
import orjson
from pydantic import TypeAdapter

from edge_agent.command_ports import Call, Command
from edge_agent.commands.agent import Host
from edge_agent.core.command_args import parse_args
from edge_agent.core.config import HostFacts, parse
from edge_agent.core.config_document import Source
from edge_agent.core.config_jobs import Job
from edge_agent.core.config_memory import Entry
from edge_agent.core.events import AgentData, ConfigData, HeartbeatData
from edge_agent.core.timebase import UtcNs
from edge_agent.services.session import Session
from tests.fakes import FakeClock


async def asked(commands: Iterable[Command], name: str, params: object = None) -> Any:  # noqa: ANN401  # as JSON has it
    """Return what a command answers to somebody on the device, as JSON has it."""
    command = next(command for command in commands if command.name == name)
    result = await command.run(Call("c-1", local=True), parse_args(command.args, params))
    found = json.loads(orjson.dumps(result))
    fits(command, found)
    return found


def fits(command: Command, result: object) -> None:
    """Raise unless a result has all that its type says, and nothing else."""
    jsonschema.validate(result, closed(TypeAdapter(command.result).json_schema(mode="serialization")))


def closed(schema: Any) -> Any:  # noqa: ANN401  # as JSON has it
    """Return a schema that allows no keys beyond those that it names."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    parts = {key: closed(part) for key, part in schema.items()}
    return parts | ({"additionalProperties": False} if "properties" in parts else {})


class Standing:
    """How the configuration stands that the cloud has changed."""

    def since(self) -> UtcNs:
        """Return when what is in force was put in force."""
        return UtcNs(0)

    def last(self) -> Entry | None:
        """Return the last change."""
        return Entry("1970-01-01T00:00:00.000000Z", "0" * 12, "cloud", 7)

    def said(self) -> Mapping[str, Any]:
        """Return what became of what the cloud wants."""
        return {"version": 7, "state": "applied", "digest": "0" * 12, "errors": [], "ignored": []}

    def conditions(self) -> list[str]:
        """Return what is less than it should be."""
        return ["restart_needed: state.dir"]


PUT: Final = {"kind": "system", "every": "9s", "options": {"token": "s3cret"}}
"""A job that was put at run time."""


def host_of(folder: Path, text: str, clock: FakeClock, *, sessions: Sequence[Session] = (), **environ: str) -> Host:
    """Return an agent as its commands see it, of a configuration in TOML; ``sessions`` has the one that is open."""
    loaded = parse([Source("x.toml", text.encode())], HostFacts(machine_id="0" * 32))

    async def session() -> Session:
        while not sessions:
            await asyncio.Event().wait()
        return sessions[0]

    async def reload() -> bool:
        return False

    beat = HeartbeatData(1, "b", None, 60.0, AgentData("0.1.0", 7, 1 << 20), ConfigData(loaded.digest))
    return Host(
        clock,
        folder,
        environ,
        loaded=lambda: loaded,
        jobs=lambda: {"put": (Job.model_validate(PUT), "runtime")},
        standing=Standing(),
        measure=lambda: beat,
        session=session,
        reload=reload,
        restart=lambda: None,
        cancel=lambda command_id: command_id == "c-1",
    )
