"""Has a command obeyed, and its result judged by the type that it declares."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import jsonschema
import orjson
from pydantic import TypeAdapter

from edge_agent.command_ports import Call, Command
from edge_agent.core.command_args import parse_args


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
