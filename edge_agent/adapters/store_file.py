"""The place of the store on disk: opening it, putting aside what cannot be used, and getting records back out of it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from edge_agent.adapters.store import Store
from edge_agent.adapters.store_ledgers import gap_from_row, read_notes
from edge_agent.adapters.store_rows import COLUMNS, WRONG_TYPE, from_row, lenient
from edge_agent.adapters.store_schema import BALLAST_BYTES, MIGRATIONS
from edge_agent.core.batch import DeadLetter, Identity, Salvaged
from edge_agent.core.notes import LOST
from edge_agent.core.records import SEQ_MASK, Gap, Priority, Record, pack
from edge_agent.errors import StoreError, StoreFault

log = logging.getLogger(__name__)

ROWS_AT_ONCE: Final = 500
MAX_FAILED_READS: Final = 20_000
"""Reads of damaged parts before the rest of a store is given up."""

_FILES: Final = ("outbox.db", "outbox.db-wal", "outbox.db-journal")
_NAME: Final = "outbox"
_NOTES: Final = "notes"
_TAKEN: Final = "taken"
_KEPT: Final = "kept"
"""By the store of a newer version: it is known that they cannot be read."""


class StoreFile:
    """The folder in which the store lives.

    ``outbox.db`` is the store, ``outbox.reserve`` a ballast that is thrown off when the disk is full: SQLite needs
    room even for deleting. ``quarantine`` holds a damaged store, ``newer`` one that a newer version has written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ballast = folder / "outbox.reserve"
        self._quarantine = folder / "quarantine"
        self._newer = folder / "newer"
        self._read: list[Path] = []  # marks of stores that were put aside and read to their end
        self._notes_read: dict[Path, str] = {}  # what is to be said of their notes, by folder

    def open(
        self, *, max_bytes: int, name: str, reserved: Mapping[Priority, int] | None = None, resume: bool = False
    ) -> Store:
        """Open the store; the arguments are those of ``Store``.

        Raises:
            StoreError: it cannot be used as it is.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o750)
            if _is_marked(self._quarantine) and not (self._folder / _FILES[0]).exists():
                self._move_to(self._quarantine)  # the rest of what a power cut has interrupted
            store = Store(self._folder / _FILES[0], max_bytes=max_bytes, name=name, reserved=reserved, resume=resume)
        except OSError as error:
            raise StoreError(
                StoreFault.IO, f"{self._folder}: {error.strerror}; make it writable for the agent"
            ) from None
        self.lay_ballast()
        return store

    def lay_ballast(self) -> bool:
        """Make the ballast if it is not there; return whether it is."""
        if self._ballast.exists():
            return True
        new = self._ballast.with_suffix(".new")
        try:
            new.write_bytes(bytes(BALLAST_BYTES))
            _sync(new)
            new.rename(self._ballast)
        except OSError:
            with contextlib.suppress(OSError):
                new.unlink()
            return False
        return True

    def is_writable(self) -> bool:
        """Return whether something can be written there now."""
        probe = self._folder / "outbox.probe"
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o750)
            probe.write_bytes(bytes(64 << 10))
            _sync(probe)
        except OSError:
            return False
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()
        return True

    def throw_ballast(self) -> bool:
        """Give the ballast's room to the disk; return whether there was any."""
        try:
            self._ballast.unlink()
        except OSError:
            return False
        return True

    def identity(self) -> Identity | None:
        """Return what a damaged store still says of itself; ``None`` when it does not."""
        with contextlib.suppress(sqlite3.Error, *WRONG_TYPE), _reading(self._folder / _FILES[0]) as db:
            return _identity(_read_meta(db))
        return None

    def put_aside(self) -> Identity | None:
        """Return which store was put aside as damaged and not salvaged to its end."""
        with contextlib.suppress(OSError, *WRONG_TYPE):
            if (self._quarantine / _FILES[0]).exists():
                return _identity(_read_mark(self._quarantine))
        return None

    def set_aside(self, fault: StoreFault, *, known: Identity | None) -> None:
        """Move the closed store out of the way; of damaged ones the newest is kept.

        Args:
            fault: why.
            known: what the store was, as far as it is known.

        Raises:
            StoreError: it cannot be moved.
        """
        target = self._newer if fault is StoreFault.NEWER else self._quarantine
        try:
            target.mkdir(exist_ok=True)
            for old in target.iterdir():
                old.unlink()
            _mark(target, _meta(known))
            self._move_to(target)
        except OSError as error:
            raise StoreError(StoreFault.IO, f"{target}: {error.strerror}; make room there") from None

    def _move_to(self, target: Path) -> None:
        for file in _FILES:  # the store itself first: while it is there, it is the one that is used
            with contextlib.suppress(FileNotFoundError):
                (self._folder / file).rename(target / file)
        for folder in (target, self._folder):
            _sync(folder)

    def notes(self) -> dict[str, bytes]:
        """Return the notes of stores that were put aside, if nobody has taken them yet.

        ``LOST`` is among them where others may be missing.
        """
        found: dict[str, bytes] = {}
        for folder in (self._newer, self._quarantine):
            mark = _read_mark(folder)
            if not _is_marked(folder) or mark.get(_NOTES) == _TAKEN:
                continue
            notes, whole = _notes_of(folder)
            if whole is None and mark.get(_NOTES) == _KEPT:
                continue
            found = {**notes, **found} if whole else {**notes, **found, LOST: b""}
            self._notes_read[folder] = _KEPT if whole is None else _TAKEN
        return found

    def notes_taken(self) -> None:
        """Take note that all of them are safe in the store in use, and what it has forgotten since is not to come back.

        Raises:
            StoreError: that cannot be noted.
        """
        for folder, word in ({self._quarantine: _TAKEN} | self._notes_read).items():
            mark = _read_mark(folder)
            if _is_marked(folder) and mark.get(_NOTES) != word:
                try:
                    _mark(folder, mark | {_NOTES: word})
                except OSError as error:
                    raise StoreError(StoreFault.IO, f"{folder}: {error.strerror}; make room there") from None
        self._notes_read.clear()

    def salvage(self) -> Iterator[Salvaged]:
        """Read what can be read of stores that were put aside, in pieces; ends at once if there is none.

        What cannot be read, or was written by a version newer than this one, is left where it is.
        """
        self._read = []
        for folder in (self._newer, self._quarantine):
            name = folder / _NAME  # is there for as long as there is something to do
            if name.exists():
                try:
                    known = str(_read_mark(folder).get("outbox", ""))
                    with _reading(folder / _FILES[0]) as db:
                        if db.execute("PRAGMA user_version").fetchone()[0] > len(MIGRATIONS) + 1:
                            continue
                        with contextlib.suppress(sqlite3.Error, *WRONG_TYPE):
                            known = _identity(_read_meta(db)).name
                        rescue = _Rescue(db)
                        for records in rescue.records():
                            yield Salvaged(known, records)
                        yield rescue.ledgers(known)  # last: what is broken off before, is not repeated
                except (OSError, sqlite3.Error) as error:
                    log.warning("salvage_failed", extra={"file": str(folder), "error": str(error)})
                self._read.append(name)

    def salvaged(self) -> None:
        """Take note that what ``salvage`` has read is safe elsewhere: it is not read again."""
        while self._read:
            with contextlib.suppress(OSError):
                self._read.pop().unlink()


class _Rescue:
    """Reads around the damaged parts of a store."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._failed_reads = 0

    def ledgers(self, outbox: str) -> Salvaged:
        """Return the small tables as far as they can be read."""
        gaps: list[Gap] = []
        for row in self._table("SELECT stream, first, last, count, reason FROM gap ORDER BY id"):
            with contextlib.suppress(*WRONG_TYPE):
                gaps.append(gap_from_row(row))
        seen = [(row[0], row[1]) for row in self._table("SELECT key, record FROM seen ORDER BY n")]
        letters = self._table(f"SELECT id, reason, {COLUMNS} FROM dead ORDER BY id")  # noqa: S608
        dead = [DeadLetter(row[0], row[1], record) for row in letters if (record := from_row(row[2:])) is not None]
        return Salvaged(outbox, gaps=gaps, seen=seen, dead=dead)

    def _table(self, query: str) -> list[Any]:
        rows: list[Any] = []
        with contextlib.suppress(sqlite3.Error):
            rows.extend(self._db.execute(query))
        return rows

    def records(self) -> Iterator[list[Record]]:
        """Return the intact records in order of key, a few hundred at a time."""
        for priority in Priority:
            low, high = pack(priority, 0), pack(priority, SEQ_MASK)
            while low <= high and self._failed_reads < MAX_FAILED_READS:
                rows, failed = self._read(low, high)
                yield [record for row in rows if (record := from_row(row)) is not None]
                if failed:
                    low = self._beyond(rows[-1][0] + 1 if rows else low, high)
                elif len(rows) < ROWS_AT_ONCE:
                    break
                else:
                    low = rows[-1][0] + 1

    def _read(self, low: int, high: int) -> tuple[list[Any], bool]:
        """Return rows from a key on, and whether a damaged part came in between."""
        rows: list[Any] = []
        try:
            rows.extend(
                self._db.execute(
                    f"SELECT {COLUMNS} FROM q WHERE key BETWEEN ? AND ? ORDER BY key LIMIT {ROWS_AT_ONCE}",  # noqa: S608
                    (low, high),
                )
            )
        except sqlite3.Error:
            self._failed_reads += 1
            return rows, True
        return rows, False

    def _beyond(self, unreadable: int, high: int) -> int:
        """Return the first key after an unreadable one from which on can be read: doubling steps, then halving ones."""
        step = 1
        while self._fails(unreadable + step) and self._failed_reads < MAX_FAILED_READS:
            if unreadable + step > high:
                return high + 1
            step *= 2
        bad, good = unreadable + step // 2, unreadable + step
        while good - bad > 1:
            middle = (bad + good) // 2
            bad, good = (middle, good) if self._fails(middle) else (bad, middle)
        return good

    def _fails(self, key: int) -> bool:
        try:
            self._db.execute(f"SELECT {COLUMNS} FROM q WHERE key >= ? ORDER BY key LIMIT 1", (key,)).fetchone()  # noqa: S608
        except sqlite3.Error:
            self._failed_reads += 1
            return True
        return False


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[sqlite3.Connection]:
    """Open a store that nobody else uses, also one that was not closed."""
    if not file.exists():
        raise sqlite3.OperationalError(f"{file} is missing")
    db = sqlite3.connect(file, isolation_level=None)
    db.text_factory = lenient
    try:
        db.execute("PRAGMA locking_mode=EXCLUSIVE")  # no -shm file is needed then
        yield db
    finally:
        db.close()


def _notes_of(folder: Path) -> tuple[dict[str, bytes], bool | None]:
    """Return the notes of a store that was put aside, and whether that is all; ``None`` = a newer version has them."""
    with contextlib.suppress(sqlite3.Error), _reading(folder / _FILES[0]) as db:
        if db.execute("PRAGMA user_version").fetchone()[0] > len(MIGRATIONS) + 1:
            return {}, None
        return read_notes(db)
    return {}, False


def _is_marked(folder: Path) -> bool:
    """Return whether there is a store that has not been read to its end."""
    return (folder / _NAME).exists() and (folder / _FILES[0]).exists()


def _mark(folder: Path, what: Mapping[str, object]) -> None:
    new = folder / f"{_NAME}.new"
    new.write_text(json.dumps(what))
    _sync(new)
    new.rename(folder / _NAME)
    _sync(folder)


def _read_mark(folder: Path) -> dict[str, Any]:
    """Return what the mark beside a store says; nothing if a power cut or damage has left nothing of it."""
    with contextlib.suppress(OSError, ValueError):
        mark = json.loads((folder / _NAME).read_bytes())
        return mark if isinstance(mark, dict) else {}
    return {}


def _read_meta(db: sqlite3.Connection) -> dict[str, Any]:
    return dict(db.execute("SELECT k, v FROM meta"))


def _meta(known: Identity | None) -> dict[str, object]:
    """Return an identity under the names that it has in a store."""
    if known is None:
        return {}
    numbers = {"reserved": known.reserved, "settled": known.settled}
    return {"outbox": known.name} | {f"{k}{p:d}": n for k, of in numbers.items() for p, n in of.items()}


def _identity(meta: Mapping[str, Any]) -> Identity:
    return Identity(
        str(meta["outbox"]),
        {priority: int(meta[f"reserved{priority:d}"]) for priority in Priority},
        {priority: int(meta[f"settled{priority:d}"]) for priority in Priority},
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
