"""Records as rows of the store, and SQLite's errors as the agent's own."""

from __future__ import annotations

import contextlib
import sqlite3
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from edge_agent.core.records import Record
from edge_agent.errors import StoreError, StoreFault

COLUMNS: Final = "key,channel,body,made,time,time_state,error_ms,latest,extra,crc"
_NUMBERS: Final = struct.Struct("<qqqqqb").pack
AGE: Final = "CAST(made AS INTEGER)"
"""Damage may have made it something else, which is found when the record is read."""

WRONG_TYPE: Final = (KeyError, TypeError, ValueError, OverflowError)
"""What comes of a fact that damage has taken away or made something else."""

PLACES: Final = "(?,?,?,?,?,?,?,?,?,?)"
_FAULTS: Final = {
    sqlite3.SQLITE_FULL: StoreFault.FULL,
    sqlite3.SQLITE_READONLY: StoreFault.READ_ONLY,
    sqlite3.SQLITE_CORRUPT: StoreFault.DAMAGED,
    sqlite3.SQLITE_NOTADB: StoreFault.DAMAGED,
    sqlite3.SQLITE_FORMAT: StoreFault.DAMAGED,
}


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Translate what SQLite raises."""
    try:
        yield
    except sqlite3.Error as error:
        fault = _FAULTS.get(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF, StoreFault.IO)
        raise StoreError(fault, f"{path}: {error}") from error


@contextlib.contextmanager
def believed(path: Path) -> Iterator[None]:
    """Translate also what comes of facts that damage has taken away or made something else."""
    try:
        with translated(path):
            yield
    except WRONG_TYPE as error:
        raise StoreError(StoreFault.DAMAGED, f"{path}: its facts are damaged ({type(error).__name__})") from error


def lenient(text: bytes) -> str:
    """Return text that damage may have made no UTF-8; its checksum will tell."""
    return text.decode(errors="replace")


def to_row(record: Record) -> tuple[Any, ...]:
    """Return a record as it is stored, in the order of ``COLUMNS``.

    All of it is ``int``, ``str`` or ``bytearray``. For anything else, ``bytes`` and ``None`` too, sqlite3 looks for an
    adapter each time, which takes as long as SQLite takes to store the row.
    """
    key, channel, body, made, time = record.key, record.channel, record.body, record.made, record.time
    time_state, latest, extra = record.time_state, int(record.latest), record.extra or ""
    error_ms = -1 if record.error_ms is None else record.error_ms
    crc = _checksum(key, channel, body, made, time, time_state, error_ms, latest, extra)
    return key, channel, bytearray(body), made, time, time_state, error_ms, latest, extra, crc


def from_row(row: Sequence[Any]) -> Record | None:
    """Return a row as a record; ``None`` when it is not what was written."""
    key, channel, body, made, time, time_state, error_ms, latest, extra, crc = row
    try:
        if _checksum(key, channel, body, made, time, time_state, error_ms, latest, extra) != crc:
            return None
    except (TypeError, ValueError, AttributeError, struct.error):  # damage may change a column's type
        return None
    known = None if error_ms == -1 else error_ms
    return Record(key, channel, body, made, time, time_state, known, latest == 1, extra or None)


def _checksum(  # noqa: PLR0913, PLR0917  # a row
    key: int,
    channel: str,
    body: bytes,
    made: int,
    time: int,
    time_state: int,
    error_ms: int,
    latest: int,
    extra: str,
) -> int:
    """Return the CRC-32 of all that is stored of a record."""
    start = zlib.crc32(_NUMBERS(key, made, time, time_state, error_ms, latest), zlib.crc32(extra.encode()))
    return zlib.crc32(body, zlib.crc32(channel.encode(), start))
