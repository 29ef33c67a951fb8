"""The tables of the store, as a numbered list of migrations, and the settings without which it would not be durable.

A version reads what the one before and the one after it have written: a migration only adds tables, or columns that
have a default.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Final

from edge_agent.adapters.store_rows import lenient
from edge_agent.errors import StoreError, StoreFault

PAGE_SIZE: Final = 4096
OTHERS_BYTES: Final = 4 << 20
"""What is kept beside the records: gaps, dead letters, keys seen, and the journals of other parts."""

LOG_ROOM: Final = 1 << 20
"""Room on the disk that is left to the write-ahead log."""

BALLAST_BYTES: Final = 1 << 20
"""What is kept beside the store for when somebody else fills the disk."""

MIGRATIONS: Final = (
    # A record's key is priority << 48 | number, so that one table without a second index is in sending order.
    """
    CREATE TABLE meta(k TEXT PRIMARY KEY, v) WITHOUT ROWID;
    CREATE TABLE q(
        key INTEGER PRIMARY KEY, channel TEXT NOT NULL, body BLOB NOT NULL, made INTEGER NOT NULL,
        time INTEGER NOT NULL, time_state INTEGER NOT NULL, error_ms INTEGER NOT NULL, latest INTEGER NOT NULL,
        extra TEXT NOT NULL, crc INTEGER NOT NULL);
    CREATE TABLE gap(
        id INTEGER PRIMARY KEY, stream TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
        count INTEGER NOT NULL, reason TEXT NOT NULL);
    CREATE TABLE dead(
        id INTEGER PRIMARY KEY, reason INTEGER NOT NULL, key INTEGER NOT NULL, channel TEXT NOT NULL,
        body BLOB NOT NULL, made INTEGER NOT NULL, time INTEGER NOT NULL, time_state INTEGER NOT NULL,
        error_ms INTEGER NOT NULL, latest INTEGER NOT NULL, extra TEXT NOT NULL, crc INTEGER NOT NULL);
    CREATE TABLE seen(key BLOB PRIMARY KEY, n INTEGER NOT NULL, record TEXT NOT NULL) WITHOUT ROWID;
    """,
    "CREATE TABLE note(name TEXT PRIMARY KEY, text BLOB NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID",
)

_SETTINGS: Final = (
    ("locking_mode", "EXCLUSIVE", "exclusive"),  # no -shm file, and no second program in here
    ("journal_mode", "WAL", "wal"),
    ("synchronous", "FULL", 2),
    ("wal_autocheckpoint", "200", 200),
    ("journal_size_limit", str(1 << 20), 1 << 20),
    ("cache_size", "-512", -512),
    ("temp_store", "MEMORY", 2),
)


def connect(path: Path) -> sqlite3.Connection:
    """Open or create a store for the only process that writes to it.

    Args:
        path: the file.

    Raises:
        StoreError: a setting is not to be had, or the file is from a version that this one cannot read.
        sqlite3.Error: it cannot be opened.
    """
    connection = sqlite3.connect(path, isolation_level=None, cached_statements=256, timeout=0)
    connection.text_factory = lenient
    try:
        connection.execute(f"PRAGMA page_size={PAGE_SIZE}")
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # heeded only by a file that has no page yet
        for name, value, expected in _SETTINGS:
            connection.execute(f"PRAGMA {name}={value}")
            _expect(connection, path, name, expected)
        _migrate(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _expect(connection: sqlite3.Connection, path: Path, name: str, expected: object) -> None:
    (found,) = connection.execute(f"PRAGMA {name}").fetchone()
    if found != expected:
        raise StoreError(StoreFault.IO, f"{path}: {name} is {found!r}, and {expected!r} is needed")


def set_limit(connection: sqlite3.Connection, max_bytes: int, *, most: int) -> None:
    """Set how far the file may grow.

    Args:
        connection: the store.
        max_bytes: room for records; the file takes no more than 1.25 times that and what is kept beside them.
        most: bytes that it takes at the utmost.
    """
    pages = min(max_bytes + max_bytes // 4 + OTHERS_BYTES, most) // PAGE_SIZE
    connection.execute(f"PRAGMA max_page_count={pages}")  # never less than it has


def largest_size(path: Path) -> int:
    """Return up to which size the log has room beside the file: without any not even a deletion would be possible."""
    disk, size, ballast = os.statvfs(path), path.stat().st_size, path.with_suffix(".reserve")
    room = disk.f_bavail * disk.f_frsize - (LOG_ROOM if ballast.exists() else LOG_ROOM + BALLAST_BYTES)
    return max(size + room, PAGE_SIZE)


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS) + 1:
        text = f"{path} is from a newer version (schema {version}, this one knows {len(MIGRATIONS)})"
        raise StoreError(StoreFault.DAMAGED, text)
    for number, script in enumerate(MIGRATIONS[version:], version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in script.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={number}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
