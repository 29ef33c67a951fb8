"""Configuration files as TOML documents, and several of them as one.

Tables merge, everything else replaces. What the models could not work with (depth, numbers beyond 64 bits) is refused
here, so that whatever walks a document afterwards may recurse and print.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from edge_agent.core.toml_findings import plain
from edge_agent.core.units import quoted
from edge_agent.errors import ConfigError, ConfigProblem

MAX_SOURCE_BYTES: Final = 1 << 20
"""The largest configuration file that is read, in bytes."""

_MAX_DEPTH: Final = 16
_MAX_DOTS: Final = 500  # in one line: tomllib's time grows with the square of the parts of a dotted key
_TOO_DEEP: Final = f"found tables or arrays in each other; {_MAX_DEPTH} levels are allowed"
_TOO_LARGE: Final = "found a whole number beyond 64 bits; -2^63 to 2^63-1 is allowed"

Table: TypeAlias = dict[str, Any]
Path: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """One configuration file: its name in messages, and its bytes."""

    name: str
    text: bytes


@dataclass(frozen=True, slots=True)
class Layer:
    """A document that is laid over others: what it is called in messages, and its keys; ``None`` unsets one."""

    name: str
    table: Table


def read_layers(sources: Sequence[Source]) -> list[Layer]:
    """Return the documents that files hold.

    Raises:
        ConfigError: with one problem for each file that is no usable TOML.
    """
    layers, problems = [], []
    for source in sources:
        try:
            layers.append(Layer(source.name, _document(source)))
        except ConfigError as invalid:
            problems += invalid.problems
    if problems:
        raise ConfigError(problems)
    return layers


def merge(layers: Iterable[Layer]) -> tuple[Table, dict[Path, str]]:
    """Return the merged document, and for each key the layer that set it last; what was unset is not in it."""
    merged: Table = {}
    origins: dict[Path, str] = {}
    for layer in layers:
        lay_over(merged, layer.table, origins=origins, name=layer.name)
    return _without_unset(merged), origins


def dotted(path: Path) -> str:
    """Return a key as people write it: ``mqtt.brokers[0]``; unusual names are quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", part) else quoted(part)
            text += f".{name}" if text else name
    return text


def lay_over(
    below: Table, above: Table, *, path: Path = (), origins: dict[Path, str] | None = None, name: str = ""
) -> None:
    """Put one document over another in place, and note ``name`` as the origin of each of its keys."""
    for key, value in above.items():
        here = (*path, key)
        if origins is not None:
            origins[here] = name
        if isinstance(value, dict):
            if not isinstance(below.get(key), dict):
                below[key] = {}
            lay_over(below[key], value, path=here, origins=origins, name=name)
        else:
            below[key] = value


def _without_unset(table: Table) -> Table:
    return {
        key: _without_unset(value) if isinstance(value, dict) else value
        for key, value in table.items()
        if value is not None
    }


def _document(source: Source) -> Table:
    text = _text(source)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as bad:
        raise _error(source, *_place(str(bad), text)) from None
    except RecursionError:
        raise _error(source, _TOO_DEEP) from None
    except ValueError:  # numbers of thousands of digits
        raise _error(source, _TOO_LARGE) from None
    if found := unfit(document):
        raise ConfigError([ConfigProblem(source.name, dotted(found[0]), found[1])])
    return document


def _text(source: Source) -> str:
    if len(source.text) > MAX_SOURCE_BYTES:
        raise _error(source, "larger than 1MiB; is it the right file?")
    try:
        text = source.text.decode("utf-8-sig")
    except UnicodeDecodeError as bad:
        line = source.text.count(b"\n", 0, bad.start) + 1
        raise _error(source, "found bytes that are not UTF-8; save it as UTF-8", line) from None
    for number, row in enumerate(text.split("\n"), start=1):
        if row.count(".") > _MAX_DOTS:
            raise _error(source, f"found {row.count('.')} dots in one line; {_MAX_DOTS} are allowed", number)
    return text


def _error(source: Source, reason: str, line: int | None = None) -> ConfigError:
    return ConfigError([ConfigProblem(source.name, "", reason, line)])


def _place(message: str, text: str) -> tuple[str, int]:
    """Return the reason and the line of what tomllib says."""
    what, _, where = message.rpartition(" (at ")
    position = re.match(r"line ([0-9]+), column ([0-9]+)", where)
    if position is None:
        return f"TOML, at its end: {plain(what)}", text.rstrip("\n").count("\n") + 1
    return f"TOML, column {position[2]}: {plain(what)}", int(position[1])


def unfit(document: object) -> tuple[Path, str] | None:
    """Return where and why a document cannot be worked with, or nothing."""
    waiting: list[tuple[Path, object]] = [((), document)]
    while waiting:
        path, value = waiting.pop()
        if len(path) > _MAX_DEPTH:
            return path, _TOO_DEEP
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            return path, _TOO_LARGE
        if isinstance(value, float) and not math.isfinite(value):
            return path, f"found {value}; a finite number is needed"
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        waiting += [((*path, key), item) for key, item in inner]
    return None
