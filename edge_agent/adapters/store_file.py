"""The place of the store on disk: opening it, putting aside what cannot be used, and getting records back out of it."""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from edge_agent.adapters.durable_file import put_file, sync
from edge_agent.adapters.store import Store
from edge_agent.adapters.store_ledgers import gap_from_row, read_notes
from edge_agent.adapters.store_rows import COLUMNS, WRONG_TYPE, from_row, lenient
from edge_agent.adapters.store_schema import BALLAST_BYTES
from edge_agent.core.batch import DeadLetter, Identity, Salvaged
from edge_agent.core.notes import LOST
from edge_agent.core.records import SEQ_MASK, Gap, Priority, Record, pack
from edge_agent.errors import EdgeAgentError, StoreError, StoreFault

log = logging.getLogger(__name__)

ROWS_AT_ONCE: Final = 500
MAX_FAILED_READS: Final = 20_000
"""Reads of damaged parts before the rest of a store is given up."""

_FILES: Final = ("outbox.db", "outbox.db-wal", "outbox.db-journal")
_NAME: Final = "outbox"
_NOTES: Final = "notes"
_TAKEN: Final = "taken"
_ANY_SIZE: Final = 1 << 40


class StoreFile:
    """The folder in which the store lives.

    ``outbox.db`` is the store, ``outbox.reserve`` a ballast that is thrown off when the disk is full: SQLite needs
    room even for deleting. ``quarantine`` holds a store that could not be used: what can be read of it is got back.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ballast = folder / "outbox.reserve"
        self._quarantine = folder / "quarantine"

    def open(
        self, *, max_bytes: int, name: str, reserved: Mapping[Priority, int] | None = None, resume: bool = False
    ) -> Store:
        """Open the store; the arguments are those of ``Store``.

        Raises:
            StoreError: it cannot be used as it is.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o750)
            if self._is_marked() and not (self._folder / _FILES[0]).exists():
                self._move_aside()  # the rest of what a power cut has interrupted
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
        try:
            put_file(self._ballast, bytes(BALLAST_BYTES))
        except OSError:
            return False
        return True

    def is_writable(self) -> bool:
        """Return whether something can be written there now."""
        probe = self._folder / "outbox.probe"
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o750)
            put_file(probe, bytes(64 << 10))
            probe.unlink()
        except OSError:
            return False
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
        """Return which store was put aside and not salvaged to its end."""
        with contextlib.suppress(OSError, *WRONG_TYPE):
            if (self._quarantine / _FILES[0]).exists():
                return _identity(self._read_mark())
        return None

    def set_aside(self, *, known: Identity | None) -> None:
        """Move the closed store out of the way; the newest of these is kept.

        Args:
            known: what the store was, as far as it is known.

        Raises:
            StoreError: it cannot be moved.
        """
        with _in_words(self._quarantine):
            self._quarantine.mkdir(exist_ok=True)
            for old in self._quarantine.iterdir():
                old.unlink()
            self._mark(_meta(known))
            self._move_aside()

    def _move_aside(self) -> None:
        for file in _FILES:  # the store itself first: while it is there, it is the one that is used
            with contextlib.suppress(FileNotFoundError):
                (self._folder / file).rename(self._quarantine / file)
        for folder in (self._quarantine, self._folder):
            sync(folder)

    def notes(self) -> dict[str, bytes]:
        """Return the notes of a store that was put aside, if nobody has taken them yet.

        ``LOST`` is among them where others may be missing.
        """
        if not self._is_marked() or self._read_mark().get(_NOTES) == _TAKEN:
            return {}
        with contextlib.suppress(sqlite3.Error), _reading(self._quarantine / _FILES[0]) as db:
            notes, whole = read_notes(db)
            return notes if whole else {**notes, LOST: b""}
        return {LOST: b""}

    def notes_taken(self) -> None:
        """Take note that all of them are safe in the store in use, and what it has forgotten since is not to come back.

        Raises:
            StoreError: that cannot be noted.
        """
        mark = self._read_mark()
        if self._is_marked() and mark.get(_NOTES) != _TAKEN:
            with _in_words(self._quarantine):
                self._mark(mark | {_NOTES: _TAKEN})

    def salvage(self) -> Iterator[Salvaged]:
        """Read what can be read of a store that was put aside, in pieces; ends at once if there is none."""
        if not (self._quarantine / _NAME).exists():
            return
        try:
            known = str(self._read_mark().get("outbox", ""))
            with _reading(self._quarantine / _FILES[0]) as db:
                with contextlib.suppress(sqlite3.Error, *WRONG_TYPE):
                    known = _identity(_read_meta(db)).name
                rescue = _Rescue(db)
                for records in rescue.records():
                    yield Salvaged(known, records)
                yield rescue.ledgers(known)  # last: what is broken off before, is not repeated
        except (OSError, sqlite3.Error) as error:
            log.warning("salvage_failed", extra={"file": str(self._quarantine), "error": str(error)})

    def salvaged(self) -> None:
        """Take note that what ``salvage`` has read is safe elsewhere: it is not read again."""
        with contextlib.suppress(OSError):
            (self._quarantine / _NAME).unlink()

    # -- the mark beside a store that was put aside: there for as long as there is something to do

    def _is_marked(self) -> bool:
        return (self._quarantine / _NAME).exists() and (self._quarantine / _FILES[0]).exists()

    def _mark(self, what: Mapping[str, object]) -> None:
        put_file(self._quarantine / _NAME, json.dumps(what).encode())

    def _read_mark(self) -> dict[str, Any]:
        """Return what it says; nothing if a power cut or damage has left nothing of it."""
        with contextlib.suppress(OSError, ValueError):
            mark = json.loads((self._quarantine / _NAME).read_bytes())
            return mark if isinstance(mark, dict) else {}
        return {}


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
    db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)  # who breaks off closes it, too
    db.text_factory = lenient
    try:
        db.execute("PRAGMA locking_mode=EXCLUSIVE")  # no -shm file is needed then
        yield db
    finally:
        db.close()


@contextlib.contextmanager
def _in_words(folder: Path) -> Iterator[None]:
    """Translate what the operating system raises."""
    try:
        yield
    except OSError as error:
        raise StoreError(StoreFault.IO, f"{folder}: {error.strerror}; make room there") from None


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


@contextlib.contextmanager
def opened_copy(folder: Path) -> Iterator[Store]:
    """Copy the store of an agent that does not run to a temporary place, and open it there.

    Raises:
        EdgeAgentError: there is none, or it cannot be read.
        StoreError: it is damaged beyond opening, or from a newer version.
    """
    import shutil  # noqa: PLC0415  # the agent needs neither of these
    import tempfile  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="edge-agent-queue-") as place:
        try:
            shutil.copyfile(folder / _FILES[0], Path(place, _FILES[0]))
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(folder / _FILES[1], Path(place, _FILES[1]))
        except OSError as error:
            why = f"{error.strerror}; is state.dir right, and may you read it?"
            raise EdgeAgentError(f"the agent cannot be asked, and {folder / _FILES[0]} cannot be read: {why}") from None
        store = Store(Path(place, _FILES[0]), max_bytes=_ANY_SIZE, name="unknown", resume=True)
        try:
            yield store
        finally:
            store.close()
