"""What is different between two configurations, as changes that turn the one into the other."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import reduce
from typing import Final, Literal, TypeAlias

from pydantic import JsonValue

from edge_agent.core.config_document import Table, dotted, lay_over
from edge_agent.core.config_models import Config
from edge_agent.core.redaction import redact

Keys: TypeAlias = tuple[str, ...]


class _Absence(Enum):
    MISSING = "missing"


MISSING: Final = _Absence.MISSING
"""Stands where there is no such key."""

MAX_TOLD: Final = 50
MAX_VALUE: Final = 500
"""Characters of the longest value that is told, as JSON."""

Missing: TypeAlias = Literal[_Absence.MISSING]


@dataclass(frozen=True, slots=True)
class Change:
    """A value that came, went or became another: no table, but for an empty one.

    Attributes:
        path: its keys, from the outermost on.
        before: what stood there; ``MISSING`` = nothing.
        after: what stands there now; ``MISSING`` = nothing.
    """

    path: Keys
    before: JsonValue | Missing
    after: JsonValue | Missing


def dump(config: Config) -> Table:
    """Return a configuration as a file would say it, defaults included; what is open is left out."""
    return config.model_dump(mode="json", exclude_none=True)


def diff(before: Table, after: Table) -> list[Change]:
    """Return what is different, sorted by path.

    Tables are compared key by key, and come and go key by key; everything else is compared whole, with its type.
    """
    old, new = dict(leaves(before)), dict(leaves(after))
    pairs = ((path, old.get(path, MISSING), new.get(path, MISSING)) for path in sorted(old.keys() | new.keys()))
    return [Change(*pair) for pair in pairs if not _same(*pair[1:])]


def apply(table: Table, changes: Iterable[Change]) -> Table:
    """Return a table as it is after some changes, whatever stood in their places; the one given stays as it is."""
    values = dict(leaves(table))
    for change in changes:
        values.pop(change.path, None)
        if change.after is not MISSING:
            values[change.path] = change.after
    changed: Table = {}
    for (*above, key), value in values.items():
        lay_over(changed, reduce(lambda inner, name: {name: inner}, reversed(above), {key: value}))
    return changed


def shown(before: Config, after: Config) -> list[dict[str, JsonValue]]:
    """Return what is different as it may be told: ``{"key", "before", "after"}``, without secrets, nothing too long."""
    found = diff(dump(before), dump(after))
    # a table that is empty on one side is told by what it holds on the other
    then = [*found[1:], Change((), MISSING, MISSING)]
    changes = [one for one, after in zip(found, then, strict=False) if after.path[: len(one.path)] != one.path]
    some = changes[:MAX_TOLD]  # what is not told costs nothing
    old = redact(apply({}, (Change(change.path, change.after, change.before) for change in some)))[0]
    new = redact(apply({}, some))[0]
    told: list[dict[str, JsonValue]] = [
        {
            "key": dotted(change.path),
            "before": None if change.before is MISSING else _at(old, change.path),
            "after": None if change.after is MISSING else _at(new, change.path),
        }
        for change in some
    ]
    if (more := len(changes) - MAX_TOLD) > 0:
        told.append({"key": f"{more} more", "before": None, "after": None})
    return told


def _at(table: Table, path: Keys) -> JsonValue:
    """Return a value; in the place of a long one, how long it is."""
    value: JsonValue = table
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    size = len(json.dumps(value))
    return value if size <= MAX_VALUE else f"{size} characters"


def leaves(table: Table, path: Keys = ()) -> Iterator[tuple[Keys, JsonValue]]:
    """Yield the paths and values of a table, those of the tables in it, and the empty ones of these."""
    for key, value in table.items():
        here = (*path, key)
        if isinstance(value, dict) and value:
            yield from leaves(value, here)
        else:
            yield here, value


def _same(one: JsonValue | Missing, other: JsonValue | Missing) -> bool:
    """Whether two values are equal and of one type; to Python, 1, 1.0 and true are equal."""
    if one is MISSING or other is MISSING:
        return False
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
