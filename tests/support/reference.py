"""The commented reference of the configuration, key by key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, get_args, get_origin

from edge_agent.core.config_models import Config
from edge_agent.core.config_types import Section
from edge_agent.core.config_words import inner_of

REFERENCE: Final = Path(__file__).parents[2] / "config" / "edge-agent.toml"

Keys: TypeAlias = tuple[str, ...]
"""A key from its section on; ``*`` stands for a name that the user chooses."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of the reference.

    Attributes:
        section: the header that it stands under, as it is written: ``jobs.uptime.retry``.
        key: its name.
        value: as it is written.
        is_default: whether the reference says that this is the default.
        comment: what stands beside it, or else above it, on one line.
    """

    section: str
    key: str
    value: str
    is_default: bool
    comment: str


def uncommented(*markers: str) -> str:
    """Return the reference with the lines of some comment marks made real."""
    lines = REFERENCE.read_text().splitlines()
    for marker in markers:
        lines = [line.removeprefix(marker) for line in lines]
    return "\n".join(lines)


def entries() -> Iterator[Entry]:
    """Yield every key of the reference, in order; keys in a row share the comment above them."""
    section, comment, is_open = "", "", False
    for line in REFERENCE.read_text().splitlines():
        if header := re.fullmatch(r"(?:#: )?\[([^\[\]]+)\]", line):
            section, comment = header[1], ""
        elif key := re.fullmatch(r"(# |#: |##   )([a-z_]+) = (\S.*?)(?: {3,}(\S.*))?", line):
            yield Entry(section, key[2], key[3], key[1] == "# ", key[4] or comment)
            is_open = False
        elif line.startswith("## "):
            comment, is_open = f"{comment if is_open else ''} {line[3:]}".strip(), True
        else:
            is_open = False


def keys_of(entry: Entry) -> Keys:
    """Return where a key stands in the models."""
    parts = entry.section.split(".") if entry.section else []
    named = {"programs": 1, "folders": 1, "endpoints": 1, "jobs": 1, "commands": 2}.get(parts[0] if parts else "", 9)
    return (*("*" if place == named else part for place, part in enumerate(parts)), entry.key)


def fields(model: type[Section] = Config, path: Keys = ()) -> Iterator[tuple[Keys, type[Section]]]:
    """Yield every key of the models that is no table of other keys, and the model that has it."""
    for name, field in model.model_fields.items():
        here, (kind, _) = (*path, name), inner_of(field.annotation)
        inner: Any = get_args(kind)[1] if get_origin(kind) is dict else kind
        if isinstance(inner, type) and issubclass(inner, Section):
            yield from fields(inner, here if inner is kind else (*here, "*"))
        else:
            yield here, model


def default_of(model: type[Section], name: str) -> object:
    """Return a key's default as a file would say it; ``None`` where nothing is said."""
    if model.model_fields[name].is_required():
        return None
    return model.model_construct().model_dump(mode="json", include={name})[name]
