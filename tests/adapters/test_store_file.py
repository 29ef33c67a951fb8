"""The place of the store: damage is found, put aside and read around; a stopped agent's is read from a copy."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from edge_agent.adapters.store import Store
from edge_agent.adapters.store_file import StoreFile, opened_copy
from edge_agent.adapters.store_schema import BALLAST_BYTES, MIGRATIONS
from edge_agent.core.batch import Batch, Identity
from edge_agent.core.records import Gap, Priority, Record, pack
from edge_agent.core.timebase import UtcNs
from edge_agent.errors import EdgeAgentError, StoreError, StoreFault
from tests.support import bit_rot
from tests.support.outbox_worker import body

RECORDS: Final = 5000
MAX_BYTES: Final = 64 << 20
KNOWN: Final = Identity("a", dict.fromkeys(Priority, RECORDS), dict.fromkeys(Priority, 0))


def record(number: int) -> Record:
    """Return record n of the normal stream."""
    return Record(pack(Priority.NORMAL, number), f"data/c{number % 3}", body(number), number, UtcNs(number))


def opened(folder: Path, name: str = "a") -> Store:
    """Open a store."""
    return StoreFile(folder).open(max_bytes=MAX_BYTES, name=name)


def pages(store: Store) -> Iterator[Record]:
    """Return all that is delivered from a store, as the outbox reads it."""
    for priority in Priority:
        after, at_end = pack(priority, 0), False
        while not at_end:
            records, damaged, at_end = store.page(priority, after, rows=500, max_bytes=1 << 18)
            yield from records
            after = max([after, *(one.key for one in records), *damaged])


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of 5,000 records that was closed."""
    folder = tmp_path_factory.mktemp("stored")
    store = opened(folder)
    for first in range(1, RECORDS + 1, 500):
        store.commit(Batch(records=[record(number) for number in range(first, first + 500)]))
    store.close()
    return folder


def got_out(folder: Path) -> tuple[dict[int, bytes], float]:
    """Return what a store of which anything may be damaged gives, and how long the fresh one took that replaced it."""
    file, found, took = StoreFile(folder), dict[int, bytes](), 0.0
    store: Store | None = None
    try:
        store = file.open(max_bytes=MAX_BYTES, name="a")
        found |= {one.seq: one.body for one in pages(store)}
        store.close()
    except StoreError as error:
        assert error.fault is StoreFault.DAMAGED, error  # noqa: PT017  # most trials find no error
        began = time.process_time()
        if store is not None:
            store.close()
        file.set_aside(known=KNOWN)
        store = file.open(max_bytes=MAX_BYTES, name="a", reserved=KNOWN.reserved)
        took = time.process_time() - began
        for piece in file.salvage():
            store.take_in(piece)
        file.salvaged()
        found |= {one.seq: one.body for one in pages(store)}
        store.close()
    return found, took


def trials(stored: Path, tmp_path: Path, rot: Callable[[Path, random.Random], int], count: int) -> list[float]:
    """Damage a copy of a store many times; return the shares that were lost, ascending. No body may be wrong."""
    rng, shares = random.Random(1), list[float]()  # noqa: S311  # reproducible
    original = {number: body(number) for number in range(1, RECORDS + 1)}
    for trial in range(count):
        folder = tmp_path / "state"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(stored, folder)
        rot(folder / "outbox.db", rng)
        found, took = got_out(folder)
        assert found.items() <= original.items(), f"trial {trial} has delivered damage"
        assert took < 1
        shares.append(1 - len(found) / RECORDS)
    print(f"{rot.__name__}: {count} trials, lost p50 {sorted(shares)[count // 2]:.2%}, max {max(shares):.2%}")
    return sorted(shares)


def test_a_flipped_bit_costs_one_record_in_a_hundred_at_most(stored: Path, tmp_path: Path) -> None:
    """95 of 100 times; none is ever delivered damaged, and a fresh store is there within a second."""
    assert trials(stored, tmp_path, bit_rot.flip, 40)[int(40 * 0.95)] <= 0.01


def test_a_lost_page_never_delivers_damage(stored: Path, tmp_path: Path) -> None:
    """What stands around it is got out."""
    assert trials(stored, tmp_path, bit_rot.zero_page, 20)[18] <= 0.01


@pytest.mark.slow
def test_three_hundred_flips_and_lost_pages(stored: Path, tmp_path: Path) -> None:
    """The same, 300 times each."""
    assert trials(stored, tmp_path, bit_rot.flip, 300)[285] <= 0.01
    assert trials(stored, tmp_path, bit_rot.zero_page, 300)[285] <= 0.01


def _set_version(folder: Path, version: int) -> None:
    with closing(sqlite3.connect(folder / "outbox.db")) as db:
        db.execute(f"PRAGMA user_version={version}")


def test_a_store_of_the_next_version_is_read_and_one_beyond_is_replaced(tmp_path: Path) -> None:
    """Nobody knows what may be written to that; what is intact of it is got back."""
    store = opened(tmp_path)
    store.commit(Batch(records=[record(1)]))
    store.close()
    known = len(MIGRATIONS)
    _set_version(tmp_path, known + 1)
    opened(tmp_path).close()
    _set_version(tmp_path, known + 2)
    with pytest.raises(StoreError, match=rf"newer version \(schema {known + 2}, this one knows {known}\)") as raised:
        opened(tmp_path)
    assert raised.value.fault is StoreFault.DAMAGED
    content = (tmp_path / "outbox.db").read_bytes()
    StoreFile(tmp_path).set_aside(known=StoreFile(tmp_path).identity())
    assert (tmp_path / "quarantine" / "outbox.db").read_bytes() == content
    assert [one.seq for piece in StoreFile(tmp_path).salvage() for one in piece.records] == [1]


def test_a_replacement_that_was_cut_short_is_known_until_its_records_are_safe(tmp_path: Path) -> None:
    """After a restart the store goes on under the same name, behind the same numbers."""
    opened(tmp_path).close()
    StoreFile(tmp_path).set_aside(known=KNOWN)
    file = StoreFile(tmp_path)
    assert file.put_aside() == KNOWN
    list(file.salvage())
    assert file.put_aside() == KNOWN
    file.salvaged()
    assert file.put_aside() is None


def test_the_log_of_a_store_whose_move_was_cut_short_follows_it(tmp_path: Path) -> None:
    """What was only in the log is got out all the same."""
    store = opened(tmp_path)
    store.commit(Batch(records=[record(number) for number in range(1, 11)]))
    log = (tmp_path / "outbox.db-wal").read_bytes()
    main = (tmp_path / "outbox.db").read_bytes()
    store.close()
    (tmp_path / "outbox.db").write_bytes(main)
    StoreFile(tmp_path).set_aside(known=KNOWN)
    (tmp_path / "outbox.db-wal").write_bytes(log)
    file = StoreFile(tmp_path)
    file.open(max_bytes=MAX_BYTES, name="a", reserved=KNOWN.reserved).close()
    assert [one.seq for piece in file.salvage() for one in piece.records] == list(range(1, 11))


@pytest.mark.parametrize(
    "mark", [b"", bytes(60), b'{"outbox": "a", "reser', b"[]", b'{"outbox": "a", "reserved0": "x"}', b"\xff"]
)
def test_a_mark_that_a_power_cut_has_spoilt_stops_nothing(mark: bytes, stored: Path, tmp_path: Path) -> None:
    """The records are got out all the same."""
    shutil.copytree(stored, tmp_path / "quarantine")
    (tmp_path / "quarantine" / "outbox").write_bytes(mark)
    file = StoreFile(tmp_path)
    assert file.put_aside() is None
    pieces = list(file.salvage())
    assert {piece.outbox for piece in pieces} == {"a"}
    assert sum(len(piece.records) for piece in pieces) == RECORDS
    file.salvaged()
    assert list(StoreFile(tmp_path).salvage()) == []


def test_facts_of_another_type_are_left_out_of_what_is_got_out(tmp_path: Path) -> None:
    """And what a damaged store says of itself counts as unknown then."""
    store, good = opened(tmp_path), Gap("a-bulk", 1, 1, 1, "full")
    store.commit(Batch(records=[record(1)], gaps=[Gap("a-normal", 5, 6, 2, "full"), good]))
    store.close()
    file = StoreFile(tmp_path)
    assert file.identity() is not None
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as db:
        db.execute("UPDATE gap SET first = 'x' WHERE id = 1")
        db.execute("UPDATE meta SET v = 'x' WHERE k = 'settled1'")
        db.commit()
    assert file.identity() is None
    file.set_aside(known=None)
    pieces = list(file.salvage())
    assert [one.seq for piece in pieces for one in piece.records] == [1]
    assert [gap for piece in pieces for gap in piece.gaps] == [good]


def test_a_mark_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written beside its place first."""
    opened(tmp_path).close()
    monkeypatch.setattr("edge_agent.adapters.durable_file.os.fsync", _no_sync)
    with pytest.raises(StoreError):
        StoreFile(tmp_path).set_aside(known=KNOWN)
    assert not (tmp_path / "quarantine" / "outbox").exists()
    assert (tmp_path / "outbox.db").exists()


def _no_sync(_descriptor: int) -> None:
    raise OSError(5, "Input/output error")


def test_the_ballast_is_thrown_once_and_laid_again(tmp_path: Path) -> None:
    """Opening lays it."""
    file = StoreFile(tmp_path)
    file.open(max_bytes=MAX_BYTES, name="a").close()
    assert (tmp_path / "outbox.reserve").stat().st_size == BALLAST_BYTES
    assert [file.throw_ballast(), file.throw_ballast(), file.lay_ballast(), file.throw_ballast()] == [
        True,
        False,
        True,
        True,
    ]


# ---------------------------------------------------------------- the copy of a stopped agent's
def test_what_is_only_in_the_log_is_seen_too_and_nothing_changes(tmp_path: Path) -> None:
    """As a killed agent leaves it: the records stand in the WAL; the original's bytes stay as they are."""
    store = Store(tmp_path / "outbox.db", max_bytes=1 << 20, name="abc")
    store.commit(Batch(records=[record(1), record(2)]))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert before["outbox.db-wal"]
    with opened_copy(tmp_path) as copy:
        assert copy.facts.name == "abc"
        assert [one.seq for one in copy.peek(0, rows=10)[0]] == [1, 2]
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    store.close()


def test_a_folder_without_a_store_is_an_error_with_the_fix(tmp_path: Path) -> None:
    """It names the file."""
    with pytest.raises(EdgeAgentError, match=r"outbox\.db cannot be read.*state\.dir"), opened_copy(tmp_path):
        pass


def test_a_store_beyond_reading_is_an_error(tmp_path: Path) -> None:
    """Not a traceback."""
    (tmp_path / "outbox.db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(StoreError), contextlib.ExitStack() as stack:
        stack.enter_context(opened_copy(tmp_path))
