"""What is different between two configurations, as changes that turn the one into the other."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import reduce
from typing import Final, Literal, TypeAlias

from pydantic import JsonValue

from edge_agent.core.config_document import Table, lay_over
from edge_agent.core.config_models import Config

Keys: TypeAlias = tuple[str, ...]


class _Absence(Enum):
    MISSING = "missing"


MISSING: Final = _Absence.MISSING
"""Stands where there is no such key."""

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
    old, new = dict(_leaves(before)), dict(_leaves(after))
    pairs = ((path, old.get(path, MISSING), new.get(path, MISSING)) for path in sorted(old.keys() | new.keys()))
    return [Change(*pair) for pair in pairs if not _same(*pair[1:])]


def apply(table: Table, changes: Iterable[Change]) -> Table:
    """Return a table as it is after some changes, whatever stood in their places; the one given stays as it is."""
    leaves = dict(_leaves(table))
    for change in changes:
        leaves.pop(change.path, None)
        if change.after is not MISSING:
            leaves[change.path] = change.after
    changed: Table = {}
    for (*above, key), value in leaves.items():
        lay_over(changed, reduce(lambda inner, name: {name: inner}, reversed(above), {key: value}))
    return changed


def _leaves(table: Table, path: Keys = ()) -> Iterator[tuple[Keys, JsonValue]]:
    for key, value in table.items():
        here = (*path, key)
        if isinstance(value, dict) and value:
            yield from _leaves(value, here)
        else:
            yield here, value


def _same(one: JsonValue | Missing, other: JsonValue | Missing) -> bool:
    """Whether two values are equal and of one type; to Python, 1, 1.0 and true are equal."""
    if one is MISSING or other is MISSING:
        return False
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
