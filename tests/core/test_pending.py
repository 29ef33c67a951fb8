"""What the store has yet to be told."""

from __future__ import annotations

from edge_agent.core.batch import Committed
from edge_agent.core.lane import Lane
from edge_agent.core.notes import Notes
from edge_agent.core.pending import MAX_RECORDS, MAX_SEEN, Pending
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


def test_records_that_belong_together_are_in_one_batch() -> None:
    """However many go before them."""
    pending = Pending("o", {priority: Lane(priority, used=0, first=None) for priority in Priority}, Notes())
    lane = pending.lanes[Priority.NORMAL]
    for seq in range(1, MAX_RECORDS + 5):
        one = record(seq)
        one.bound = MAX_RECORDS - 2 < seq < MAX_RECORDS + 2
        lane.add(one, may_be_ready=False)
    batch = pending.collect(records=True, settled={}, may_drop=True)
    assert [one.seq for one in batch.records] == list(range(1, MAX_RECORDS + 3))


def test_a_record_is_withdrawn_only_where_nobody_has_it() -> None:
    """Neither the disk nor a broker; its number is named."""
    pending = Pending("o", {priority: Lane(priority, used=0, first=None) for priority in Priority}, Notes())
    lane = pending.lanes[Priority.NORMAL]
    one, flying, doubtful, stored = (record(seq) for seq in range(1, 5))
    for each in (one, flying, doubtful):
        lane.add(each, may_be_ready=True)
        pending.fresh_bytes += len(each.body)
    lane.flying[flying.key] = flying
    lane.doubtful.add(doubtful.key)
    assert [pending.withdraw(each) for each in (one, flying, doubtful, stored, one)] == [True] + [False] * 4
    assert pending.lost == [Gap("o-normal", 1, 1, 1, "withdrawn")]
    assert list(lane.fresh) == [flying.key, doubtful.key]
    assert one not in lane.ready
    assert pending.fresh_bytes == 4


def test_keys_that_no_disk_takes_are_bounded() -> None:
    """The newest count: whoever hands in the same again does so soon."""
    pending = Pending("o", {priority: Lane(priority, used=0, first=None) for priority in Priority}, Notes())
    for seq in range(1, MAX_SEEN + 3):
        one = record(seq)
        pending.seen[one.key] = [str(seq).encode()]
        pending.settle(one)
    assert len(pending.seen_on_their_way) == MAX_SEEN
    assert next(iter(pending.seen_on_their_way)) == b"3"
