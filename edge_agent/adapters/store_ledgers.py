"""The small tables beside the records: gaps, dead letters, keys that were seen, and the notes of other parts."""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from edge_agent.core.batch import Batch
from edge_agent.core.records import Gap

MAX_GAPS: Final = 1000
MAX_DEAD: Final = 1000
MAX_DEAD_BYTES: Final = 1 << 20
MAX_SEEN: Final = 20_000

_ONE: Final = 1 << 32
"""What a note counts in the account beside its checksum: damage may take away rows without a trace."""


def gap_from_row(row: Sequence[Any]) -> Gap:
    """Return a row as a gap.

    Raises:
        TypeError, ValueError, OverflowError: it is damaged.
    """
    stream, first, last, count, reason = row
    return Gap(str(stream), int(first), int(last), int(count), str(reason))


class GapLedger:
    """Gaps that no event has delivered yet; a copy of the table is kept in memory.

    Attributes:
        gaps: by their number, the oldest first.
        announced: the numbers of those whose event is on its way: they stay as they are.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.gaps = {row[0]: gap_from_row(row[1:]) for row in db.execute("SELECT * FROM gap ORDER BY id")}
        self.announced: set[int] = set()
        self._next = max(self.gaps, default=0) + 1

    def add(self, gap: Gap) -> None:
        """Name numbers; what continues a gap that is not announced yet becomes part of it."""
        crowded = len(self.gaps) >= MAX_GAPS
        for number, last in reversed(self.gaps.items()):
            mergeable = number not in self.announced and (last.stream, last.reason) == (gap.stream, gap.reason)
            if mergeable and (last.last + 1 == gap.first or (crowded and last.last < gap.first)):
                wider = Gap(last.stream, last.first, gap.last, last.count + gap.count, last.reason)
                self.gaps[number] = wider
                self._db.execute("UPDATE gap SET last = ?, count = ? WHERE id = ?", (wider.last, wider.count, number))
                return
        self.gaps[self._next] = gap
        self._db.execute(
            "INSERT INTO gap VALUES (?,?,?,?,?,?)", (self._next, gap.stream, gap.first, gap.last, gap.count, gap.reason)
        )
        self._next += 1

    def forget(self, numbers: Sequence[int]) -> None:
        """Forget gaps whose event was delivered."""
        self._db.executemany("DELETE FROM gap WHERE id = ?", [(number,) for number in numbers])
        for number in numbers:
            self.gaps.pop(number, None)
            self.announced.discard(number)

    def announce(self, limit: int) -> list[tuple[int, Gap]]:
        """Return some that are not announced yet, which they then are."""
        found = [(number, gap) for number, gap in self.gaps.items() if number not in self.announced][:limit]
        self.announced.update(number for number, _ in found)
        return found


class DeadLetters:
    """Records that no broker takes; the oldest make room for new ones.

    Attributes:
        count: how many there are.
        size: bytes that they take on disk, about.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.count, self.size, _ = self._measure()

    def change(self, batch: Batch, rows: Sequence[tuple[Any, ...]]) -> None:
        """Add the batch's dead letters, of which ``rows`` are the stored forms, and take out those that return."""
        for letter, row in zip(batch.dead, rows, strict=True):
            self._db.execute(
                "INSERT INTO dead(reason, key, channel, body, made, time, time_state, error_ms, latest, extra, crc) "
                "VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                (letter.reason, *row),
            )
        self._db.executemany("DELETE FROM dead WHERE id = ?", [(number,) for number in batch.undead])
        while True:
            self.count, self.size, first = self._measure()
            if self.count <= MAX_DEAD and self.size <= MAX_DEAD_BYTES:
                break
            self._db.execute("DELETE FROM dead WHERE id = ?", (first,))

    def _measure(self) -> tuple[int, int, int | None]:
        found: tuple[int, int, int | None] = self._db.execute(
            "SELECT count(*), coalesce(sum(length(body) + 128), 0), min(id) FROM dead"
        ).fetchone()
        return found


class SeenKeys:
    """Keys under which programs have handed in records, the newest ``MAX_SEEN`` of them."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        (last,) = db.execute("SELECT max(n) FROM seen").fetchone()
        self._last = int(last or 0)

    @property
    def size(self) -> int:
        """Bytes that they take on disk, about."""
        return min(self._last, MAX_SEEN) * 96

    def add(self, seen: Sequence[tuple[bytes, str]]) -> None:
        """Remember keys and the ids of their records."""
        for key, record in seen:
            self._last += 1
            self._db.execute("INSERT OR REPLACE INTO seen VALUES (?,?,?)", (key, self._last, record))
            if self._last % 1000 == 0:
                self._db.execute("DELETE FROM seen WHERE n <= ?", (self._last - MAX_SEEN,))

    def find(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        """Return those that are known, with the ids."""
        found = {}
        for key in keys:
            row = self._db.execute("SELECT record FROM seen WHERE key = ?", (key,)).fetchone()
            if row is not None:
                found[key] = row[0]
        return found


def write_notes(db: sqlite3.Connection, notes: Mapping[str, bytes | None]) -> None:
    """Replace notes, or forget them, and keep the account of them."""
    change = 0
    for name, text in notes.items():
        for (crc,) in db.execute("SELECT CAST(crc AS INTEGER) FROM note WHERE name = ?", (name,)):
            change -= _ONE + crc
        if text is None:
            db.execute("DELETE FROM note WHERE name = ?", (name,))
        else:
            crc = _checksum(name, text)
            db.execute("INSERT OR REPLACE INTO note VALUES (?,?,?)", (name, text, crc))
            change += _ONE + crc
    if change:
        db.execute("UPDATE meta SET v = v + ? WHERE k = 'notes'", (change,))


def begin_account(db: sqlite3.Connection) -> None:
    """Begin to keep account of the notes, for a store in which nobody has."""
    account = f"SELECT 'notes', coalesce(sum(CAST(crc AS INTEGER) + {_ONE}), 0) FROM note"  # noqa: S608  # a constant
    db.execute(f"INSERT OR IGNORE INTO meta {account}")


def read_notes(db: sqlite3.Connection) -> tuple[dict[str, bytes], bool]:
    """Return the notes that are as they were written, as far as they can be read, and whether these are all of them."""
    rows: dict[object, Sequence[Any]] = {}
    account: object = None
    for order in ("ASC", "DESC"):  # from both ends up to what cannot be read
        try:
            rows.update((row[0], row) for row in db.execute(f"SELECT name, text, crc FROM note ORDER BY name {order}"))  # noqa: S608
            break
        except sqlite3.Error:
            continue
    with contextlib.suppress(sqlite3.Error):
        (account,) = db.execute("SELECT v FROM meta WHERE k = 'notes'").fetchone() or (None,)
    notes = {
        name: text
        for name, text, crc in rows.values()
        if isinstance(name, str) and isinstance(text, bytes) and crc == _checksum(name, text)
    }
    return notes, account == sum(_ONE + _checksum(name, text) for name, text in notes.items())


def _checksum(name: str, text: bytes) -> int:
    return zlib.crc32(text, zlib.crc32(name.encode(errors="replace")))
