"""What may be asked of an open store without changing it."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any, Final

from edge_agent.adapters.store_ledgers import begin_account, read_notes
from edge_agent.adapters.store_rows import COLUMNS, from_row, translated
from edge_agent.core.batch import DeadLetter
from edge_agent.core.records import SEQ_BITS, Priority, Record, pack
from edge_agent.errors import StoreError, StoreFault

PEEK_BYTES: Final = 1 << 20
_BEYOND: Final = 1 << 62  # all keys


class StoreReader:
    """Reads; every method raises ``StoreError`` if that cannot be done."""

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self._path = path
        self._db = db

    def peek(self, after: int, *, rows: int) -> tuple[list[Record], list[int], int | None]:
        """Return records beyond a key, of all priorities; the keys of damaged ones; and where to go on, if anywhere."""
        records, damaged, at_end = self._read(after, _BEYOND, rows=rows, max_bytes=PEEK_BYTES)
        return records, damaged, None if at_end else max([*(record.key for record in records[-1:]), *damaged[-1:]])

    def _read(self, after: int, end: int, *, rows: int, max_bytes: int) -> tuple[list[Record], list[int], bool]:
        """Return records of the keys between two, the keys of those that are damaged, and whether that is all."""
        records: list[Record] = []
        damaged: list[int] = []
        with translated(self._path), contextlib.closing(self._db.cursor()) as cursor:
            cursor.execute(
                f"SELECT {COLUMNS} FROM q WHERE key > ? AND key < ? ORDER BY key LIMIT ?",  # noqa: S608  # constants
                (after, end, rows),
            )
            for row in cursor:
                if (record := from_row(row)) is None:
                    damaged.append(row[0])
                    continue
                records.append(record)
                max_bytes -= len(record.body)
                if max_bytes <= 0:
                    break
        return records, damaged, max_bytes > 0 and len(records) + len(damaged) < rows

    def choose(self, priority: Priority | None, channel: str | None) -> list[int]:
        """Return the keys of all records of a priority and a channel; ``None`` = any."""
        low = 0 if priority is None else pack(priority, 0)
        high = _BEYOND if priority is None else (priority + 1) << SEQ_BITS
        with translated(self._path):
            found = self._db.execute(
                "SELECT key FROM q WHERE key BETWEEN ? AND ? AND (?3 IS NULL OR channel = ?3) ORDER BY key",
                (low, high, channel),
            )
            return [row[0] for row in found]

    def structure(self) -> str:
        """Return what SQLite finds wrong with the file; ``ok`` = nothing."""
        with translated(self._path):
            return str(self._db.execute("PRAGMA quick_check(1)").fetchone()[0])

    def dead_letters(self) -> list[DeadLetter]:
        """Return the dead letters, the oldest first; damaged ones are left out."""
        with translated(self._path):
            rows = self._db.execute(f"SELECT id, reason, {COLUMNS} FROM dead ORDER BY id").fetchall()  # noqa: S608
        return [DeadLetter(row[0], row[1], record) for row in rows if (record := from_row(row[2:])) is not None]

    def _notes(self) -> dict[str, bytes]:
        begin_account(self._db)
        notes, whole = read_notes(self._db)
        if not whole:  # what they are in may be in pieces as well: nothing is written into that any more
            raise StoreError(StoreFault.DAMAGED, f"{self._path}: some of its notes are damaged or missing")
        return notes

    def _edge(self, priority: Priority, order: str, columns: str, which: str = "") -> tuple[Any, ...] | None:
        found: tuple[Any, ...] | None = self._db.execute(
            f"SELECT {columns} FROM q WHERE key > ? AND key < ? {which} ORDER BY key {order} LIMIT 1",  # noqa: S608  # constants
            (pack(priority, 0), (priority + 1) << SEQ_BITS),
        ).fetchone()
        return found

    def _pragma(self, name: str) -> int:
        (value,) = self._db.execute(f"PRAGMA {name}").fetchone()
        return int(value)
