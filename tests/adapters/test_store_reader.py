"""What may be asked of a store without changing it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.adapters.store import Store
from edge_agent.core.batch import Batch, DeadLetter
from edge_agent.core.records import Priority, Record, pack
from edge_agent.core.timebase import UtcNs
from edge_agent.errors import StoreError


def record(priority: Priority, seq: int, channel: str = "data/a") -> Record:
    """Return a record."""
    return Record(pack(priority, seq), channel, b"{}", seq, UtcNs(1))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Return a store with three records of each priority, every second of another channel."""
    with contextlib.closing(Store(tmp_path / "outbox.db", max_bytes=1 << 20, name="a")) as opened:
        records = [record(p, seq, "data/b" if seq == 2 else "data/a") for p in Priority for seq in (1, 2, 3)]
        opened.commit(Batch(records=records))
        yield opened


def test_a_look_goes_on_where_the_last_one_ended_and_steps_over_damage(store: Store) -> None:
    """All priorities in sending order; what is damaged is named, not shown; the end is told."""
    store._db.execute("UPDATE q SET body = x'00' WHERE key = ?", (pack(Priority.NORMAL, 1),))
    found: list[int] = []
    broken: list[int] = []
    after: int | None = 0
    for _ in range(3):
        assert after is not None
        records, damaged, after = store.peek(after, rows=4)
        found += [one.key for one in records]
        broken += damaged
    assert after is None
    assert broken == [pack(Priority.NORMAL, 1)]
    assert sorted([*found, *broken]) == [*found[:3], *broken, *found[3:]] == store.choose(None, None)


def test_what_is_chosen_is_of_the_priority_and_the_channel(store: Store) -> None:
    """Each of them may be any; a channel is a value, never a pattern or SQL."""
    assert store.choose(Priority.NORMAL, None) == [pack(Priority.NORMAL, seq) for seq in (1, 2, 3)]
    assert store.choose(None, "data/b") == [pack(priority, 2) for priority in Priority]
    assert store.choose(Priority.BULK, "data/b") == [pack(Priority.BULK, 2)]
    assert store.choose(None, "data/%") == store.choose(None, "' OR 1 --") == []


def test_dead_letters_come_oldest_first_without_those_that_are_damaged(store: Store) -> None:
    """With the number under which they can be asked for, and the reason."""
    letters = [DeadLetter(0, 0x99 + n, record(Priority.NORMAL, 10 - n)) for n in range(3)]
    store.commit(Batch(dead=letters))
    store._db.execute("UPDATE dead SET channel = 'x' WHERE id = 2")
    assert [(one.number, one.reason, one.record.seq) for one in store.dead_letters()] == [(1, 0x99, 10), (3, 0x9B, 8)]


def test_a_sound_file_is_ok_and_one_that_is_gone_is_an_error(store: Store) -> None:
    """Of the agent's own kind, naming the file."""
    assert store.structure() == "ok"
    store.close()
    for ask in (store.structure, store.dead_letters, lambda: store.choose(None, None), lambda: store.peek(0, rows=1)):
        with pytest.raises(StoreError, match=r"outbox\.db"):
            ask()
