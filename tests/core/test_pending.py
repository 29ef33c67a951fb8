"""What the store has yet to be told."""

from __future__ import annotations

from edge_agent.core.batch import Committed
from edge_agent.core.lane import Lane
from edge_agent.core.notes import Notes
from edge_agent.core.pending import Pending
from edge_agent.core.records import Gap, Priority, Record, pack
from edge_agent.core.timebase import UtcNs


def record(seq: int) -> Record:
    """Return a record of the normal stream."""
    return Record(pack(Priority.NORMAL, seq), "data/a", b"{}", 0, UtcNs(0))


def test_numbers_that_are_lost_while_others_are_written_are_not_forgotten() -> None:
    """They have become one range with those."""
    pending = Pending("o", {priority: Lane(priority, used=0, first=None) for priority in Priority}, Notes())
    pending.lose(record(1), "memory_full")
    pending.lose(record(2), "memory_full")
    batch = pending.collect(records=False, settled={}, may_drop=True)
    assert batch.gaps == (Gap("o-normal", 1, 2, 2, "memory_full"),)
    pending.lose(record(3), "memory_full")
    pending.written(batch, Committed())
    assert pending.lost == [Gap("o-normal", 3, 3, 1, "memory_full")]
    pending.written(pending.collect(records=False, settled={}, may_drop=True), Committed())
    assert pending.lost == []


def test_a_key_that_comes_while_the_record_is_written_that_it_replaces_is_written_next() -> None:
    """Or else the same key, once more, would be another record."""
    pending = Pending("o", {priority: Lane(priority, used=0, first=None) for priority in Priority}, Notes())
    old, new = record(1), record(1)
    old.latest = new.latest = True
    pending.take_place(old)
    pending.lanes[Priority.NORMAL].add(old, may_be_ready=False)
    pending.seen[old.key] = [b"old"]
    batch = pending.collect(records=True, settled={}, may_drop=True)
    assert batch.seen == [(b"old", "o-normal.1")]
    assert pending.take_place(new)
    pending.seen[new.key].append(b"new")
    pending.written(batch, Committed())
    assert (b"new", "o-normal.1") in pending.collect(records=True, settled={}, may_drop=True).seen
