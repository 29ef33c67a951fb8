"""The file behind the outbox: an SQLite database that one thread owns.

Everything here blocks, and is called from that thread alone. A call either happens whole or raises ``StoreError`` and
has not happened.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from edge_agent.adapters.store_ledgers import DeadLetters, GapLedger, SeenKeys, write_notes
from edge_agent.adapters.store_reader import StoreReader
from edge_agent.adapters.store_rows import AGE, PLACES, WRONG_TYPE, believed, to_row, translated
from edge_agent.adapters.store_schema import PAGE_SIZE, connect, largest_size, set_limit
from edge_agent.core.batch import Batch, Committed, Dropped, Salvaged, StoreFacts
from edge_agent.core.placing import load
from edge_agent.core.records import SEQ_BITS, Gap, Priority, Record, pack, runs, stream_name, unpack

KEEP_SHARE: Final = 0.95
"""Over the limit, records are dropped down to this share of it: not one by one at each put."""

SHED_BYTES: Final = 512 * 1024
"""What is dropped at once for a disk that is full."""

ROWS_AT_ONCE: Final = 64

_DROPPABLE: Final = "key > ? AND key < ? AND key NOT BETWEEN ? AND ?"
_ROW_COST: Final = 64  # bytes that a row takes beside its body, about


class Store(StoreReader):
    """An open store."""

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int,
        name: str,
        reserved: Mapping[Priority, int] | None = None,
        resume: bool = False,
    ) -> None:
        """Open or create it.

        Args:
            path: the file.
            max_bytes: room for records.
            name: the outbox's incarnation, for a store that has none yet.
            reserved: numbers that were used under that name before, by priority.
            resume: whether it is opened again by a process that knows which numbers are in use.

        Raises:
            StoreError: it cannot be used.
        """
        with translated(path):
            super().__init__(path, connect(path))
        self._max_bytes = max_bytes
        self._lease: dict[Priority, tuple[int, int]] = {}
        self._flying: frozenset[int] = frozenset()
        self._full = True  # as ``connect`` has set it
        try:
            with believed(path):
                self._begin(name, reserved or {}, resume=resume)
        except BaseException:
            self._db.close()
            raise

    # -- open and close

    def _begin(self, name: str, reserved: Mapping[Priority, int], *, resume: bool) -> None:
        meta = self._meta()
        if not meta and not any(map(self._bounds, Priority)):
            with self._transaction():
                meta = {"outbox": name, "clean": 1, "base": self._used_pages() - 1}
                meta |= {f"reserved{priority:d}": reserved.get(priority, 0) for priority in Priority}
                meta |= {f"settled{priority:d}": reserved.get(priority, 0) for priority in Priority}
                self._set_meta(meta)
        self.name = str(meta["outbox"])
        self._base_pages = int(meta["base"])
        self._read_ledgers()
        if not meta["clean"] and not resume:
            self._name_unclean_stop(meta)
        bounds = {priority: self._bounds(priority) for priority in Priority}
        # without holes that is exact; the few that there may be are forgotten when the lane is empty
        self._records: dict[int, int] = {
            p: 0 if found is None else found[1] - found[0] + 1 for p, found in bounds.items()
        }
        newest = [row[0] for p in Priority if (row := self._edge(p, "DESC", AGE)) is not None]
        newest += [boot.age or boot.since for boot in load(meta.get("boots"))]
        self.facts = StoreFacts(
            name=self.name,
            used={priority: int(meta[f"reserved{priority:d}"]) for priority in Priority},
            first={priority: None if found is None else found[0] for priority, found in bounds.items()},
            boot=str(meta.get("boot", "")),
            boot_base=int(meta.get("boot_base", 0)),
            boots=load(meta.get("boots")),
            notes=self._notes(),
            age=max([int(meta.get("age", 0)), *newest]),
            state=self._state(()),
        )

    def _read_ledgers(self) -> None:
        self._gaps, self._dead, self._seen = GapLedger(self._db), DeadLetters(self._db), SeenKeys(self._db)

    def close(self, *, meta: Mapping[str, Any] | None = None) -> None:
        """Close it; with ``meta`` say that the stop was a clean one, and where it ended."""
        try:
            if meta is not None:
                with translated(self._path), self._transaction():
                    self._set_meta(meta)
        finally:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()

    def resize(self, max_bytes: int) -> None:
        """Change the room for records."""
        self._max_bytes = max_bytes

    def _stay_in_bounds(self) -> None:
        with contextlib.suppress(OSError):  # SQLite will say it better
            set_limit(self._db, self._max_bytes, most=largest_size(self._path))

    def _name_unclean_stop(self, meta: Mapping[str, Any]) -> None:
        """Name the numbers of which nobody knows whether they were used: those outside of what is stored."""
        with self._transaction():
            for priority in Priority:
                settled, reserved = meta[f"settled{priority:d}"], meta[f"reserved{priority:d}"]
                low, high = self._bounds(priority) or (reserved + 1, reserved)
                for first, last in ((settled + 1, low - 1), (high + 1, reserved)):
                    if first <= last:
                        self._name(priority, first, last, "unclean_stop")
            self._set_meta({"clean": 1})

    # -- what is asked of it

    def commit(self, batch: Batch) -> Committed:
        """Write a batch, all or nothing; make room by dropping if need be.

        Raises:
            StoreError: nothing of it was written.
        """
        for priority, (first, last) in batch.keep.items():
            self._lease[priority] = first, self._leased(priority)[1] if last is None else last
            self._flying = batch.flying
        with translated(self._path):
            self._stay_in_bounds()
            self._synchronous(full=batch.is_durable())
            if batch.shed:
                with contextlib.suppress(sqlite3.Error):  # the log's room is needed
                    self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            with self._change():
                dropped = self._write(batch)
            return self._state(dropped)

    def page(
        self, priority: Priority, after: int, *, rows: int, max_bytes: int
    ) -> tuple[list[Record], list[int], bool]:
        """Return the records that follow a key, the keys of those that are damaged, and whether that is all.

        What was returned is not dropped before a batch says what is to be kept instead.

        Raises:
            StoreError: it cannot be read.
        """
        end = (priority + 1) << SEQ_BITS
        records, damaged, at_end = self._read(after, end, rows=rows, max_bytes=max_bytes)
        if records or damaged:
            first, last = self._leased(priority)
            self._lease[priority] = min(first, after + 1), max(last, *(r.key for r in records[-1:]), *damaged[-1:])
        return records, damaged, at_end

    def announce(self, limit: int) -> list[tuple[int, Gap]]:
        """Return gaps that no event has named yet, by number; from now on they stay as they are."""
        return self._gaps.announce(limit)

    def known(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        """Return which of these keys were accepted before, and the records' ids."""
        with translated(self._path):
            return self._seen.find(keys)

    def expired(self, before: int) -> list[int]:
        """Return keys of the oldest records that were made before an age; a few thousand at a time."""
        keys: list[int] = []
        with translated(self._path):
            for priority in Priority:
                # what a newer one replaced kept its place and got younger: it must not hide what is behind it
                head = self._edge(priority, "ASC", AGE, "AND latest = 0")
                if head is None or head[0] < before:
                    found = self._db.execute(
                        f"SELECT key FROM q WHERE {_DROPPABLE} AND made < ? ORDER BY key LIMIT ?",  # noqa: S608
                        (*self._droppable(priority), before, 1000 + len(self._flying)),
                    )
                    keys += [row[0] for row in found if row[0] not in self._flying]
        return keys

    def take_in(self, salvaged: Salvaged) -> Committed:
        """Take in what was got out of a store that was put aside; records keep their keys."""
        with translated(self._path):
            there = {*self._existing([record.key for record in salvaged.records])}
        missing = [record for record in salvaged.records if record.key not in there]
        return self.commit(Batch(records=missing, gaps=salvaged.gaps, seen=salvaged.seen, dead=salvaged.dead))

    def shrink(self, pages: int) -> bool:
        """Give some free pages back to the disk; return whether there is more to give."""
        with translated(self._path):
            free, total = self._pragma("freelist_count"), self._pragma("page_count")
            if free * 2 < total and free < 256:  # what is free will be used again
                return False
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # what follows takes room in the log
            # not execute(): it takes one step, which frees one page
            self._db.executescript(f"PRAGMA incremental_vacuum({pages})")
            if free <= pages:
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return free > pages

    # -- inside a transaction

    def _synchronous(self, *, full: bool) -> None:
        if full is not self._full:
            self._db.execute(f"PRAGMA synchronous={'FULL' if full else 'NORMAL'}")
            self._full = full

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """Make what is known in memory of the records, gaps, and keys part of the transaction."""
        counts = dict(self._records)
        try:
            with self._transaction():
                yield
        except BaseException:
            self._records = counts
            announced = self._gaps.announced
            with contextlib.suppress(sqlite3.Error, *WRONG_TYPE):
                self._read_ledgers()
                self._gaps.announced = announced
            raise

    def _write(self, batch: Batch) -> tuple[Dropped, ...]:
        if batch.meta:
            self._set_meta(batch.meta)
        self._delete(batch.deletes)
        for at in range(0, len(batch.records), ROWS_AT_ONCE):
            # One statement for many rows: each step of one gives up the interpreter's lock, and may wait long for it.
            some = batch.records[at : at + ROWS_AT_ONCE]
            values = [value for record in some for value in to_row(record)]
            self._db.execute(f"INSERT OR REPLACE INTO q VALUES {','.join([PLACES] * len(some))}", values)  # noqa: S608
        for record in batch.records:
            self._records[record.key >> SEQ_BITS] += 1
        for key in batch.replaces:
            self._records[key >> SEQ_BITS] -= 1
        self._seen.add(batch.seen)
        write_notes(self._db, batch.notes)
        if batch.dead or batch.undead:
            self._dead.change(batch, [to_row(letter.record) for letter in batch.dead])
        self._gaps.forget(batch.gone)
        for gap in batch.gaps:
            self._gaps.add(gap)
        dropped = [one for why, keys in batch.doomed.items() for one in self._drop(self._existing(keys), why)]
        return tuple(dropped + (self._make_room(shed=batch.shed) if batch.may_drop else []))

    def _delete(self, ranges: Sequence[tuple[int, int]]) -> None:
        for first, last in ranges:
            done = self._db.execute("DELETE FROM q WHERE key BETWEEN ? AND ?", (first, last))
            self._records[first >> SEQ_BITS] -= done.rowcount

    def _make_room(self, *, shed: bool = False) -> list[Dropped]:
        """Drop the oldest records of the lowest priority until there is room."""
        dropped: list[Dropped] = []
        limit = min(self._max_bytes, self._used_bytes() - SHED_BYTES) if shed else self._max_bytes
        while (used := self._used_bytes()) > limit:
            excess = used - (limit if shed else int(limit * KEEP_SHARE))
            victims = next((found for p in reversed(Priority) if (found := self._victims(p, excess))), [])
            if not victims:
                break
            dropped += self._drop(victims, "full")
        return dropped

    def _victims(self, priority: Priority, excess: int) -> list[int]:
        keys: list[int] = []
        for key, size in self._db.execute(
            f"SELECT key, length(body) FROM q WHERE {_DROPPABLE} ORDER BY key LIMIT ?",  # noqa: S608  # a constant
            (*self._droppable(priority), 1000 + len(self._flying)),
        ):
            if key in self._flying:
                continue
            keys.append(key)
            excess -= size + _ROW_COST
            if excess <= 0:
                break
        return keys

    def _existing(self, keys: Sequence[int]) -> list[int]:
        return [
            row[0]
            for first, last in runs(keys)
            for row in self._db.execute("SELECT key FROM q WHERE key BETWEEN ? AND ? ORDER BY key", (first, last))
        ]

    def _leased(self, priority: Priority) -> tuple[int, int]:
        return self._lease.get(priority, (priority + 1 << SEQ_BITS, 0))

    def _droppable(self, priority: Priority) -> tuple[int, int, int, int]:
        return pack(priority, 0), priority + 1 << SEQ_BITS, *self._leased(priority)

    def _drop(self, keys: Sequence[int], reason: str) -> list[Dropped]:
        dropped: list[Dropped] = []
        for first, last in runs(keys):
            self._delete([(first, last)])
            priority, low = unpack(first)
            self._name(priority, low, unpack(last)[1], reason)
            dropped.append(Dropped(first, last, reason))
        return dropped

    def _name(self, priority: Priority, first: int, last: int, reason: str) -> None:
        self._gaps.add(Gap(stream_name(self.name, priority), first, last, last - first + 1, reason))

    # -- facts

    def _state(self, dropped: Sequence[Dropped]) -> Committed:
        oldest = {p: row[0] for p in Priority if (row := self._edge(p, "ASC", AGE)) is not None}
        self._records = {p: count if p in oldest else 0 for p, count in self._records.items()}
        return Committed(
            dropped=tuple(dropped),
            records=sum(self._records.values()),
            used=self._used_bytes() if oldest else 0,
            oldest=min(oldest.values(), default=None),
            gaps=tuple(self._gaps.gaps.values()),
            dead=self._dead.count,
        )

    def _bounds(self, priority: Priority) -> tuple[int, int] | None:
        """Return the lowest and the highest number stored of a lane."""
        first, last = (self._edge(priority, order, "key") for order in ("ASC", "DESC"))
        return None if first is None or last is None else (unpack(first[0])[1], unpack(last[0])[1])

    def _used_pages(self) -> int:
        return self._pragma("page_count") - self._pragma("freelist_count")

    def _used_bytes(self) -> int:
        return max((self._used_pages() - self._base_pages) * PAGE_SIZE - self._dead.size - self._seen.size, 0)

    def _meta(self) -> dict[str, Any]:
        return dict(self._db.execute("SELECT k, v FROM meta"))

    def _set_meta(self, meta: Mapping[str, Any]) -> None:
        self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(meta.items()))
