"""The tables of docs/commands.md, made of the registry: ``python -m tests.support.command_table`` writes them."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from edge_agent.cli.run import make
from edge_agent.command_ports import Command, CutOff, Registry
from edge_agent.core.command_states import TABLE, State
from edge_agent.core.units import format_duration

PAGE: Final = Path(__file__).parents[2] / "docs/commands.md"
_CUT_OFF: Final = {CutOff.INTERRUPTED: "`interrupted`", CutOff.AGAIN: "runs again", CutOff.DONE: "is done"}


def registry_of(folder: Path) -> Registry:
    """Return the registry of an agent that does not run."""
    config = folder / "x.toml"
    config.write_text(f'[state]\ndir = "{folder}"\n')
    return make(str(config), os.environ)._registry


def table(commands: Iterable[Command]) -> str:
    """Return what there is to know of commands, a line each."""
    lines = [
        "| command | does | arguments | result | at most | may change | cut off, it |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *map(_row, sorted(commands, key=lambda command: command.name))]) + "\n"


def _row(command: Command) -> str:
    fields = command.args.model_fields.items()
    arguments = ", ".join(f"`{name}`{'' if field.is_required() else '?'}" for name, field in fields)
    schema = TypeAdapter(command.result).json_schema(mode="serialization")
    result = ", ".join(f"`{name}`" for name in schema.get("properties", ())) or "sections"
    cut_off = _CUT_OFF[command.cut_off] if isinstance(command.cut_off, CutOff) else "as its job's `guarantee` says"
    cells = (command.summary.rstrip("."), arguments, result, format_duration(command.timeout), command.touches, cut_off)
    return f"| `{command.name}` | {' | '.join(cells)} |"


def diagram() -> str:
    """Return the life cycle as a state diagram in Mermaid's language."""
    lines = ["stateDiagram-v2", "    [*] --> received"]
    for state, leads in TABLE.items():
        lines += [f"    {state.value} --> {to.value}: {happened.value}" for happened, to in leads.items()]
    lines += [f"    {state.value} --> [*]" for state in State if state.is_final]
    return "\n".join(lines) + "\n"


def filled(page: str, commands: Iterable[Command]) -> str:
    """Return a page with its generated parts as they should be."""
    parts = {"commands": table(commands), "states": f"```mermaid\n{diagram()}```\n"}
    for name, text in parts.items():
        begin, end = f"<!-- {name}: generated -->\n", f"<!-- {name}: end -->"
        page, count = re.subn(f"{begin}.*?{end}", lambda _, t=begin + text + end: t, page, flags=re.DOTALL)  # type: ignore[misc]
        assert count == 1, f"{name} is not in the page"
    return page


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        PAGE.write_text(filled(PAGE.read_text(), registry_of(Path(folder)).values()))
