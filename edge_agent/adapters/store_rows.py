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
from edge_agent.core.timebase import UtcNs
from edge_agent.errors import StoreError, StoreFault

COLUMNS: Final = "key,channel,body,made,time,time_state,error_ms,latest,extra,crc"
_NUMBERS: Final = struct.Struct("<qqqqq?").pack
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


def checksum(record: Record) -> int:
    """Return the CRC-32 of all that is stored of a record."""
    error = record.error_ms
    numbers = _NUMBERS(
        record.key, record.made, record.time, record.time_state, -1 if error is None else error, record.latest
    )
    start = zlib.crc32(numbers, 0 if record.extra is None else zlib.crc32(record.extra.encode()))
    return zlib.crc32(record.body, zlib.crc32(record.channel.encode(), start))


def from_row(row: Sequence[Any]) -> Record | None:
    """Return a row as a record; ``None`` when it is not what was written."""
    key, channel, body, made, time, time_state, error_ms, latest, extra, crc = row
    record = Record(key, channel, body, made, UtcNs(time), time_state, error_ms, latest == 1, extra)
    try:
        return record if checksum(record) == crc else None
    except (TypeError, ValueError, AttributeError, struct.error):  # damage may change a column's type
        return None


def to_row(record: Record) -> tuple[Any, ...]:
    """Return a record as it is stored, in the order of ``COLUMNS``."""
    return (
        record.key,
        record.channel,
        record.body,
        record.made,
        record.time,
        record.time_state,
        record.error_ms,
        record.latest,
        record.extra,
        checksum(record),
    )
