"""The store against a plain model, its bounds, and that a batch happens whole or not at all."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.adapters.store import Store
from edge_agent.core.batch import Batch, Committed, DeadLetter, Salvaged
from edge_agent.core.records import Gap, Priority, Record, pack, runs
from edge_agent.core.timebase import UtcNs
from edge_agent.errors import StoreError, StoreFault

MIB: Final = 1 << 20


def record(key: int, size: int = 10, *, made: int = 0) -> Record:
    """Return a record whose body follows from its key."""
    return Record(key, "data/x", random.Random(key).randbytes(size), made, UtcNs(1))  # noqa: S311  # reproducible


def opened(path: Path, *, max_bytes: int = 64 * MIB) -> Store:
    """Open a store."""
    return Store(path, max_bytes=max_bytes, name="a")


def stored(store: Store) -> dict[int, bytes]:
    """Return all that is stored."""
    found: dict[int, bytes] = {}
    after: int | None = 0
    while after is not None:
        records, damaged, after = store.peek(after, rows=1_000_000)
        assert damaged == []
        found |= {one.key: one.body for one in records}
    return found


STEPS: Final = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 2), st.integers(1, 30)),
        st.tuples(st.just("delete"), st.integers(0, 2), st.integers(1, 60), st.integers(0, 30)),
        st.tuples(st.just("doom"), st.integers(0, 2), st.integers(1, 60), st.integers(0, 5)),
        st.tuples(st.just("bury"), st.integers(0, 2), st.integers(1, 60)),
        st.tuples(st.just("reopen")),
        st.tuples(st.just("fail")),
    ),
    max_size=25,
)


@given(STEPS)
def test_the_store_does_what_a_dictionary_does(steps: list[Any]) -> None:
    """Records, gaps, dead letters and keys, over any batches, failures and restarts."""
    rows: dict[int, bytes] = {}
    gone: set[int] = set()
    dead: list[int] = []
    last = dict.fromkeys(range(3), 0)
    seen: dict[bytes, str] = {}
    with TemporaryDirectory() as folder:
        store = opened(Path(folder) / "outbox.db")
        done = store.facts.state
        for step in steps:
            match step:
                case ("put", lane, count):
                    new = [record(lane << 48 | last[lane] + at) for at in range(1, count + 1)]
                    last[lane] += count
                    keys = [(b"%d" % one.key, str(one.key)) for one in new]
                    done = store.commit(Batch(records=new, seen=keys))
                    rows |= {one.key: one.body for one in new}
                    seen |= dict(keys)
                case ("delete", lane, first, more):
                    span = (lane << 48 | first, lane << 48 | first + more)
                    done = store.commit(Batch(deletes=[span]))
                    rows = {key: data for key, data in rows.items() if not span[0] <= key <= span[1]}
                case ("doom", lane, first, more):
                    keys_ = range(lane << 48 | first, (lane << 48 | first + more) + 1)
                    done = store.commit(Batch(doomed={"expired": list(keys_)}))
                    there = [key for key in keys_ if key in rows]
                    assert [(one.first, one.last) for one in done.dropped] == runs(there)
                    gone |= {*there}
                    for key in there:
                        del rows[key]
                case ("bury", lane, seq):
                    key = lane << 48 | seq
                    done = store.commit(Batch(deletes=[(key, key)], dead=[DeadLetter(0, 0x99, record(key))]))
                    dead.append(key)
                    rows.pop(key, None)
                case ("reopen",):
                    store.close(meta={"clean": 1})
                    store = opened(Path(folder) / "outbox.db")
                    done = store.facts.state
                case _:
                    gaps = [Gap("a-bulk", 900, 901, 2, "damaged"), Gap("a-bulk", 1, 2, 2, None)]  # type: ignore[arg-type]
                    with pytest.raises(StoreError, match="NOT NULL"):
                        store.commit(Batch(records=[record(1 << 40)], gaps=gaps, seen=[(b"no", "no")]))
                    continue
            named = {(gap.stream, seq) for gap in done.gaps for seq in range(gap.first, gap.last + 1)}
            assert named == {(f"a-{Priority(key >> 48).name.lower()}", key & (1 << 48) - 1) for key in gone}
            assert done.dead == len(dead)
            assert done.records >= len(rows)
        assert stored(store) == rows
        assert store.known([*seen, b"no"]) == seen
        assert [letter.record.key for letter in store.dead_letters()] == dead
        store.close()


def test_ten_times_its_room_never_takes_more_than_a_quarter_above(tmp_path: Path) -> None:
    """Mixed sizes and priorities: nothing critical is lost, and the gaps are exactly what is missing."""
    max_bytes, rng = 2 * MIB, random.Random(1)  # noqa: S311  # reproducible
    store = opened(tmp_path / "outbox.db", max_bytes=max_bytes)
    put: set[int] = set()
    done = Committed()
    size = 0
    last = dict.fromkeys(Priority, 0)
    while size < 10 * max_bytes:
        new: list[Record] = []
        for _ in range(rng.choice((1, 50, 200))):
            priority = rng.choices([*Priority], (1, 60, 40))[0]
            last[priority] += 1
            new.append(record(pack(priority, last[priority]), rng.choice((30, 200, 3000, 20_000 if priority else 30))))
        size += sum(len(one.body) for one in new)
        put |= {one.key for one in new}
        done = store.commit(Batch(records=new))
        assert (tmp_path / "outbox.db").stat().st_size <= 1.25 * max_bytes + 4 * MIB
        assert done.used <= max_bytes
    there = stored(store)
    names = {f"a-{priority.name.lower()}": priority for priority in Priority}
    named = {pack(names[gap.stream], seq) for gap in done.gaps for seq in range(gap.first, gap.last + 1)}
    assert named == put - there.keys()
    assert named
    assert not any(key >> 48 == Priority.CRITICAL for key in named)
    store.close()


def test_what_was_read_for_sending_is_not_dropped_until_it_is_said_what_is_sent_next(tmp_path: Path) -> None:
    """The newest go instead, and what was read afterwards."""
    store = opened(tmp_path / "outbox.db", max_bytes=MIB)
    store.commit(Batch(records=[record(pack(Priority.BULK, seq), 10_000) for seq in range(1, 91)]))
    leased, _, _ = store.page(Priority.BULK, pack(Priority.BULK, 0), rows=10, max_bytes=MIB)
    more = [record(pack(Priority.BULK, seq), 10_000) for seq in range(91, 131)]
    dropped = store.commit(Batch(records=more)).dropped
    assert min(one.first for one in dropped) == leased[-1].key + 1
    more = [record(pack(Priority.BULK, seq), 10_000) for seq in range(131, 171)]
    nothing = {Priority.BULK: (leased[0].key, leased[0].key - 1)}
    assert min(one.first for one in store.commit(Batch(records=more, keep=nothing)).dropped) == leased[0].key
    store.close()


def test_a_drained_store_gives_its_room_back(tmp_path: Path) -> None:
    """100,000 rows in and out: at most 1 MiB is left."""
    store = opened(tmp_path / "outbox.db")
    for first in range(1, 100_001, 5000):
        store.commit(Batch(records=[record(pack(Priority.NORMAL, first + at), 200) for at in range(5000)]))
    assert (tmp_path / "outbox.db").stat().st_size > 20 * MIB
    store.commit(Batch(deletes=[(pack(Priority.NORMAL, 1), pack(Priority.NORMAL, 100_000))]))
    while store.shrink(1000):
        pass
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= MIB
    store.close()


def test_a_second_program_is_kept_out(tmp_path: Path) -> None:
    """It is told so at once."""
    store = opened(tmp_path / "outbox.db")
    with pytest.raises(StoreError, match="database is locked") as raised:
        opened(tmp_path / "outbox.db")
    assert raised.value.fault is StoreFault.IO
    store.close()


def test_after_an_unclean_stop_what_is_outside_of_what_is_stored_is_named(tmp_path: Path) -> None:
    """The numbers between what was settled and what was reserved, of which nobody knows whether they were used."""
    store = opened(tmp_path / "outbox.db")
    meta = {"clean": 0, "reserved1": 4096, "settled1": 10}
    store.commit(Batch(records=[record(pack(Priority.NORMAL, seq)) for seq in range(21, 31)], meta=meta))
    store.close()
    facts = opened(tmp_path / "outbox.db").facts
    assert facts.state.gaps == (
        Gap("a-normal", 11, 20, 10, "unclean_stop"),
        Gap("a-normal", 31, 4096, 4066, "unclean_stop"),
    )
    assert facts.used[Priority.NORMAL] == 4096


def test_the_bodies_on_disk_are_what_was_put(tmp_path: Path) -> None:
    """Read by SQLite alone."""
    store = opened(tmp_path / "outbox.db")
    one = record(pack(Priority.CRITICAL, 7), 3000)
    store.commit(Batch(records=[one]))
    store.close()
    database = sqlite3.connect(tmp_path / "outbox.db")
    assert database.execute("SELECT key, body FROM q").fetchall() == [(one.key, one.body)]
    database.close()


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM meta WHERE k = 'base'",
        "DELETE FROM meta WHERE k = 'clean'",
        "DELETE FROM meta WHERE k = 'outbox'",
        "DELETE FROM meta",
        "UPDATE meta SET v = '4k' WHERE k = 'reserved1'",
        "UPDATE meta SET v = 9e999 WHERE k = 'base'",
        "INSERT INTO meta VALUES ('boot_base', 'x'), ('age', 'y')",
        "INSERT INTO gap VALUES (1, 'a-normal', 'x', 3, 1, 'damaged')",
        "INSERT INTO seen VALUES (x'00', 'q', 'x')",
    ],
)
def test_facts_that_are_damaged_are_called_so(damage: str, tmp_path: Path) -> None:
    """Whatever stands in their place."""
    path = tmp_path / "outbox.db"
    store = opened(path)
    store.commit(Batch(records=[record(pack(Priority.NORMAL, 1))]))
    store.close()
    with closing(sqlite3.connect(path)) as db:
        db.execute(damage)
        db.commit()
    with pytest.raises(StoreError, match="damaged") as raised:
        opened(path)
    assert raised.value.fault is StoreFault.DAMAGED


def test_an_age_that_is_damaged_costs_that_record_alone(tmp_path: Path) -> None:
    """It is found when it is read."""
    path, keys = tmp_path / "outbox.db", [pack(Priority.NORMAL, n) for n in (1, 2, 3)]
    store = opened(path)
    store.commit(Batch(records=[record(key, made=7) for key in keys]))
    store.close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE q SET made = 'x' WHERE key <> ?", (keys[1],))
        db.commit()
    store = opened(path)
    assert isinstance(store.expired(5), list)
    records, damaged, _ = store.page(Priority.NORMAL, pack(Priority.NORMAL, 0), rows=10, max_bytes=MIB)
    assert ([one.key for one in records], damaged) == ([keys[1]], [keys[0], keys[2]])
    store.close()


def test_what_could_not_be_taken_in_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither on the disk nor in memory."""
    store = opened(tmp_path / "outbox.db")
    before = store.commit(Batch(deletes=[(1, 2)]))
    piece = Salvaged("a", [record(pack(Priority.NORMAL, 1))], [Gap("a-bulk", 1, 1, 1, "full")])
    with monkeypatch.context() as patch:
        patch.setattr(store, "_make_room", _full)
        with pytest.raises(StoreError):
            store.take_in(piece)
    assert store.commit(Batch(deletes=[(1, 2)])) == before
    assert store.take_in(piece).gaps == tuple(piece.gaps)
    store.close()


def _full(**_options: bool) -> None:
    raise StoreError(StoreFault.FULL, "full")
