"""How verbs print: JSON for programs, columns for people, and on a terminal with colour."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

import orjson

Item = TypeVar("Item")

COUNT_EVERY: Final = 1000
_GREEN: Final = ("ok", "online", "synced", "selected", "connected", "succeeded")
_YELLOW: Final = (
    "warn",
    "silent",
    "unsynced",
    "acquiring",
    "degraded",
    "note:",
    "paused",
    "awaits_time",
    "accepted",
    "running",
)
_RED: Final = (
    "fail",
    "failed",
    "timed_out",
    "rejected",
    "expired",
    "interrupted",
    "cancelled",
    "offline",
    "missing:",
    "damaged",
    "lost:",
    "NOT OK:",
    "cannot",
)
_COLOURS: Final = dict.fromkeys(_GREEN, 32) | dict.fromkeys(_YELLOW, 33) | dict.fromkeys(_RED, 31)
_STATE: Final = re.compile(rf"(?<![^ ])(?:{'|'.join(_COLOURS)})(?![^ :;,])")


def say(*lines: str) -> None:
    """Print lines at once; on a terminal the words for states have their colour."""
    sys.stdout.write("".join(f"{painted(line)}\n" for line in lines))
    sys.stdout.flush()


def painted(line: str) -> str:
    """Return a line as it is printed."""
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        return line
    return _STATE.sub(lambda state: f"\033[{_COLOURS[state[0]]}m{state[0]}\033[0m", line)


def show(found: object, lines: Iterable[str], *, as_json: bool) -> None:
    """Print what was found: as JSON, or the lines that say it."""
    if as_json:
        say_json(found)
    else:
        say(*lines)


def say_json(value: object) -> None:
    """Print a value: in one line for programs, indented on a terminal."""
    option = orjson.OPT_INDENT_2 if sys.stdout.isatty() else None
    sys.stdout.write(orjson.dumps(value, option=option).decode() + "\n")
    sys.stdout.flush()


def shown(value: object) -> str:
    """Return a value from JSON as a person reads it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "-"
    if isinstance(value, dict):
        return orjson.dumps(value).decode() if value else "-"
    return "-" if value is None else str(value)


def printable(text: str) -> str:
    """Return a text without what could control a terminal: devices and programs may say anything."""
    return "".join(character for character in text if character.isprintable())


def toml(value: object) -> str:
    """Return a value from JSON as TOML writes it, on one line."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_key(key)} = {toml(inner)}' for key, inner in value.items())} }}" if value else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    # both escape alike, but that TOML knows no surrogates, and has delete escaped; the others could control a terminal
    text = json.dumps(value, ensure_ascii=False)
    return "".join(one if one.isprintable() else f"\\U{ord(one):08x}" for one in text)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml(name)


def columns(rows: Iterable[Sequence[object]]) -> list[str]:
    """Return rows as lines whose columns stand below each other."""
    cells = [[printable(shown(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]


def facts(found: Mapping[str, object], keys: Iterable[str]) -> list[str]:
    """Return what is found under the keys, a line each."""
    return columns((_title(key), found[key]) for key in keys if key in found)


def table(keys: Sequence[str], rows: Iterable[Mapping[str, object]]) -> list[str]:
    """Return what rows have under the keys, as lines below a header."""
    return columns([[_title(key) for key in keys], *([row.get(key) for key in keys] for row in rows)])


def _title(key: str) -> str:
    return key.replace("_", " ")


def progress(text: str) -> None:
    """Show on a terminal's stderr what goes on, in place of what was shown before; nothing of it stays after ``""``."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


def counted(items: Iterable[Item], what: str) -> Iterator[Item]:
    """Pass items on, and count them on a terminal's stderr."""
    for count, item in enumerate(items, 1):
        if count % COUNT_EVERY == 0:
            progress(f"{what} {count:,}")
        yield item
    progress("")
