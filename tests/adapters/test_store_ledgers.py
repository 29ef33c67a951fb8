"""The small tables: they stay small, and gaps that follow each other are one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge_agent.adapters.store_ledgers import (
    MAX_DEAD,
    MAX_GAPS,
    MAX_SEEN,
    DeadLetters,
    GapLedger,
    SeenKeys,
    begin_account,
    read_notes,
    write_notes,
)
from edge_agent.adapters.store_rows import to_row
from edge_agent.adapters.store_schema import PAGE_SIZE, connect
from edge_agent.core.batch import Batch, DeadLetter
from edge_agent.core.records import Gap, Record
from edge_agent.core.timebase import UtcNs


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Return an empty store's database."""
    connection = connect(tmp_path / "outbox.db")
    yield connection
    connection.close()


def test_gaps_that_follow_each_other_are_one_until_they_are_announced(db: sqlite3.Connection) -> None:
    """What an event names does not change any more."""
    ledger = GapLedger(db)
    ledger.add(Gap("s", 1, 2, 2, "full"))
    ledger.add(Gap("s", 3, 3, 1, "full"))
    ledger.add(Gap("s", 4, 4, 1, "expired"))
    assert [gap for _, gap in ledger.announce(1)] == [Gap("s", 1, 3, 3, "full")]
    ledger.add(Gap("s", 4, 4, 1, "full"))
    assert [gap for _, gap in ledger.announce(9)] == [Gap("s", 4, 4, 1, "expired"), Gap("s", 4, 4, 1, "full")]
    ledger.forget([1, 2])
    assert [*GapLedger(db).gaps.values()] == [*ledger.gaps.values()] == [Gap("s", 4, 4, 1, "full")]


def test_too_many_gaps_become_coarser_and_none_is_lost(db: sqlite3.Connection) -> None:
    """The count stays exact."""
    ledger = GapLedger(db)
    for number in range(0, 4 * MAX_GAPS, 2):
        ledger.add(Gap("s", number, number, 1, "full"))
    assert len(ledger.gaps) <= MAX_GAPS
    assert sum(gap.count for gap in ledger.gaps.values()) == 2 * MAX_GAPS
    assert [*GapLedger(db).gaps.values()] == [*ledger.gaps.values()]


def test_the_oldest_dead_letters_make_room(db: sqlite3.Connection) -> None:
    """By number and by size."""
    letters = DeadLetters(db)
    for key in range(MAX_DEAD + 5):
        record = Record(key, "data/x", b"{}", 0, UtcNs(0))
        letters.change(Batch(dead=[DeadLetter(0, 0x99, record)]), [to_row(record)])
    assert letters.count == MAX_DEAD
    large = Record(9999, "data/x", bytes(1_000_000), 0, UtcNs(0))
    letters.change(Batch(dead=[DeadLetter(0, 0x99, large)]), [to_row(large)])
    assert letters.size <= 1 << 20
    assert db.execute("SELECT max(key) FROM dead").fetchone() == (9999,)


def test_the_newest_keys_are_remembered(db: sqlite3.Connection) -> None:
    """At least so many of them."""
    seen = SeenKeys(db)
    seen.add([(b"%d" % number, str(number)) for number in range(MAX_SEEN + 1500)])
    assert seen.find([b"0", b"1500", b"21499"]) == {b"1500": "1500", b"21499": "21499"}


def test_a_note_is_as_it_was_written_or_not_there(db: sqlite3.Connection) -> None:
    """Replaced, forgotten, and left out where it is damaged, also under another's name; that is noticed."""
    begin_account(db)
    write_notes(db, {"job/a": b"1", "job/b": b"2", "job/c": b"3", "job/d": b"4"})
    write_notes(db, {"job/a": b"one", "job/b": None})
    assert read_notes(db) == ({"job/a": b"one", "job/c": b"3", "job/d": b"4"}, True)
    db.execute("UPDATE note SET text = x'00' WHERE name = 'job/c'")
    db.execute("UPDATE note SET name = 'job/e' WHERE name = 'job/d'")
    assert read_notes(db) == ({"job/a": b"one"}, False)


def test_a_note_that_is_gone_without_a_trace_is_missed(db: sqlite3.Connection) -> None:
    """An account is kept of them, from when a store is first opened by a version that does."""
    write_notes(db, {"job/a": b"1", "job/b": b"2"})  # nobody keeps it yet
    assert read_notes(db)[1] is False
    begin_account(db)
    begin_account(db)
    write_notes(db, {"job/b": b"two", "job/c": b"3", "job/none": None})
    notes = {"job/a": b"1", "job/b": b"two", "job/c": b"3"}
    assert read_notes(db) == (notes, True)
    db.execute("DELETE FROM note WHERE name = 'job/b'")
    assert read_notes(db) == ({"job/a": b"1", "job/c": b"3"}, False)


def test_notes_are_read_from_both_ends_of_what_cannot_be_read(tmp_path: Path) -> None:
    """One lost page costs what stood on it."""
    store = connect(tmp_path / "outbox.db")
    begin_account(store)
    write_notes(store, {f"job/{number:03}": bytes(200) for number in range(200)})
    store.close()
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as found:
        leaves = [
            row[0] for row in found.execute("SELECT pageno FROM dbstat WHERE name = 'note' AND pagetype = 'leaf'")
        ]
    damaged = (tmp_path / "outbox.db").read_bytes()
    at = (leaves[len(leaves) // 2] - 1) * PAGE_SIZE
    (tmp_path / "outbox.db").write_bytes(damaged[:at] + bytes(PAGE_SIZE) + damaged[at + PAGE_SIZE :])
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as found:
        notes, whole = read_notes(found)
    assert not whole
    assert 180 <= len(notes) < 200
