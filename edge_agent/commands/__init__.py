"""The commands: one module a family, each a function from what it needs of the agent to a list of ``Command``."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edge_agent.command_ports import Command, Registry
from edge_agent.core.config_types import NAME_PATTERN
from edge_agent.core.timebase import to_seconds

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

log = logging.getLogger(__name__)

GROUP: Final = "edge_agent.commands"
"""The entry points of other packages that bring commands."""


def registry(built_in: Iterable[Command]) -> Registry:
    """Return all commands by name: those that are built in, and those that packages bring.

    One that cannot be used, or whose name is taken, is logged and left out.
    """
    found = {command.name: command for command in built_in}
    for point in _brought():
        problem = _take_in(found, point)
        if problem is not None:
            package = point.dist.name if point.dist else point.module
            log.error("command_unusable", extra={"package": package, "entry_point": point.value, "reason": problem})
    return found


def _take_in(found: dict[str, Command], point: EntryPoint) -> str | None:
    """Add what a package brings; return why not."""
    try:
        command = point.load()
    except Exception as error:  # noqa: BLE001  # somebody else's code: whatever it raises is its fault
        return f"it does not load: {type(error).__name__}: {error}; repair or remove the package"
    if not (isinstance(command, Command) and re.fullmatch(NAME_PATTERN, command.name)):
        return "it is no edge_agent.command_ports.Command with a name of 1 to 64 of A-Z a-z 0-9 _ : -"
    if command.name in found:
        return f"the name {command.name} is taken"
    found[command.name] = command
    return None


def _brought() -> Iterator[EntryPoint]:
    """Yield the entry points of our group; what reads them takes 1 MiB, so it is looked first whether there are any."""
    for folder in map(Path, sys.path):
        for file in folder.glob("*-info/entry_points.txt"):
            with suppress(OSError):
                if GROUP.encode() in file.read_bytes():
                    from importlib.metadata import entry_points  # noqa: PLC0415

                    yield from sorted(entry_points(group=GROUP), key=lambda point: point.name)
                    return


def advertised(commands: Registry, allowed: Callable[[str], bool]) -> dict[str, Any]:
    """Return the ``data`` of ``edge.commands.v1``: the commands that are obeyed, and what each takes."""
    return {
        "commands": [
            {
                "name": name,
                "summary": command.summary,
                "args": _without_titles(command.args.model_json_schema()),
                "idempotent": command.idempotent,
                "timeout_s": to_seconds(command.timeout),
                "touches": command.touches,
            }
            for name, command in sorted(commands.items())
            if allowed(name)
        ]
    }


def _without_titles(schema: Any) -> Any:  # noqa: ANN401  # as JSON has it
    """Return a schema without the titles that pydantic makes up of the names."""
    if isinstance(schema, list):
        return [_without_titles(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _without_titles(part) for key, part in schema.items() if key != "title" or isinstance(part, dict)}
