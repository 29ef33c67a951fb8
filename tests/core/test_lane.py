"""One stream's records on their way."""

from __future__ import annotations

from edge_agent.core.lane import Lane
from edge_agent.core.records import Priority, Record, pack
from edge_agent.core.timebase import UtcNs


def record(seq: int, channel: str = "data/a") -> Record:
    """Return a record of the normal stream."""
    return Record(pack(Priority.NORMAL, seq), channel, b"{}", 0, UtcNs(0))


def lane_with(*records: Record) -> Lane:
    """Return a lane whose records are ready."""
    lane = Lane(Priority.NORMAL, used=0, first=None)
    for one in records:
        lane.next_seq += 1
        lane.add(one, may_be_ready=True)
    return lane


def test_a_channel_waits_from_its_first_record_on_in_whatever_order_they_are_held() -> None:
    """A probe that is refused is held after those behind it were."""
    lane = lane_with(record(1), record(2))
    first, second = lane.pop(), lane.pop()
    lane.hold(second)
    lane.hold(first)
    assert lane.held == {"data/a": first.key}
    assert lane.all_settled_up_to() == 0


def test_going_back_forgets_no_record_that_was_ready() -> None:
    """Also if what is gone back to lies behind the first of them."""
    lane = lane_with(*(record(seq) for seq in range(1, 6)))
    lane.pop()
    lane.rewind(pack(Priority.NORMAL, 4))
    lane.take_page([], generation=lane.generation, at_end=True)
    assert [one.seq for one in lane.ready] == [2, 3, 4, 5]


def test_a_page_that_was_read_for_an_earlier_position_is_void() -> None:
    """The store answers when it gets to it."""
    lane = lane_with(record(1))
    generation = lane.generation
    lane.rewind()
    lane.take_page([record(7)], generation=generation, at_end=True)
    assert not lane.ready
    assert lane.behind


def test_what_is_on_the_wire_or_acknowledged_is_not_made_ready_again() -> None:
    """A page may still have it."""
    lane = lane_with(record(1), record(2), record(3))
    flying = lane.pop()
    lane.flying[flying.key] = flying
    acknowledged = lane.pop()
    del lane.fresh[acknowledged.key]
    assert not lane.settled(acknowledged)
    lane.rewind(flying.key)
    lane.take_page([record(1), record(2), record(3)], generation=lane.generation, at_end=True)
    assert [one.seq for one in lane.ready] == [3]


def test_what_was_on_the_wire_when_a_connection_ended_is_doubtful_until_it_is_settled() -> None:
    """Over any number of connections; what was never sent is not."""
    lane = lane_with(record(1), record(2))
    first = lane.pop()
    assert not lane.is_doubtful
    lane.flying[first.key] = first
    for _ in range(2):
        lane.rewind()
        assert lane.is_doubtful
    lane.settled(first)
    assert not lane.is_doubtful
    assert lane.delivered == first.key
