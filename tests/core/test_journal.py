"""Which commands are remembered: bounded, and what would do harm if it were run twice goes last."""

from __future__ import annotations

from edge_agent.core.command_entry import Entry
from edge_agent.core.command_states import State
from edge_agent.core.journal import MAX_AGE, MAX_BYTES, MAX_OPEN_BYTES, Journal
from tests.fakes import EPOCH
from tests.support.dispatching import TO, S, an_entry, at

WEEK = MAX_AGE / S
MAY_REPEAT = frozenset({"see"})


def ended(name: str, **changes: object) -> Entry:
    """Return one that ended at 0 s."""
    return an_entry(name, state=State.SUCCEEDED, finished=EPOCH, **changes)


def journal(*entries: Entry, size: int = 100) -> Journal:
    """Return one that remembers these."""
    made = Journal()
    for entry in entries:
        made.keep(entry, size)
    return made


def test_a_command_is_found_until_it_is_forgotten() -> None:
    """Open or ended; to forget one that is not remembered does nothing."""
    entry = an_entry("a")
    made = journal(entry, ended("b"))
    assert made.find("a") is entry
    assert made.find("b") is not None
    entry.state = State.FAILED
    made.keep(entry, 120)
    assert list(made.open) == []
    assert list(made.ended) == ["b", "a"]
    made.forget("a")
    made.forget("a")
    assert made.find("a") is None


def test_what_it_takes_is_counted() -> None:
    """Of those that are open, as they grow, end and are forgotten."""
    entry = an_entry("a")
    made = journal(entry)
    made.keep(entry, 150)
    assert made.open_bytes == 150
    made.keep(other := an_entry("b"), MAX_OPEN_BYTES)
    assert made.is_full, "nothing more is accepted"
    made.forget("b")
    entry.state = State.FAILED
    made.keep(entry, 70)
    assert made.open_bytes == 0
    made.keep(other, 10)
    assert not journal(other).is_full
    assert made.open_bytes == 10


def test_what_ended_a_week_ago_is_forgotten() -> None:
    """By the outbox's age: whether or not time was known when it ended, and is now."""
    made = journal(ended("a"), ended("b", finished_age=S), an_entry("c"))
    assert made.outlived(at(WEEK - 0.1), may_repeat=MAY_REPEAT) == []
    assert made.outlived(at(0, age=WEEK, known=False), may_repeat=MAY_REPEAT) == ["a"]


def test_what_the_broker_may_deliver_again_is_remembered() -> None:
    """Until its expiry has passed, and while nobody knows."""
    made = journal(ended("a", keep_until=EPOCH + 2 * MAX_AGE), ended("b", keep_age=3 * MAX_AGE))
    assert made.outlived(at(1.5 * WEEK), may_repeat=MAY_REPEAT) == []
    assert made.outlived(at(2 * WEEK, known=False), may_repeat=MAY_REPEAT) == []
    assert made.outlived(at(2 * WEEK), may_repeat=MAY_REPEAT) == ["a"]
    assert made.outlived(at(3 * WEEK), may_repeat=MAY_REPEAT) == ["a", "b"]


def test_where_there_is_no_room_what_may_repeat_goes_first() -> None:
    """Then the oldest, then what the broker may deliver again; some at a time."""
    size = MAX_BYTES // 16
    kept = [ended("k", keep_until=EPOCH + 9 * MAX_AGE)]
    once = [ended(f"o{n}") for n in range(12)]
    twice = [ended(f"t{n}", command="see") for n in range(2)]
    made = journal(*kept, *once, *twice, size=size)
    assert made.outlived(at(1), may_repeat=MAY_REPEAT) == []
    made.keep(ended("t2", command="see"), size)
    made.keep(ended("t3", command="see", copies=(TO,)), size)
    assert made.is_crowded
    assert made.is_full
    assert made.outlived(at(1), may_repeat=MAY_REPEAT) == ["t0", "t1", "t2"]
    for name in ("t0", "t1", "t2"):
        made.forget(name)
    for n in range(12, 16):
        made.keep(ended(f"o{n}"), size)
    assert made.outlived(at(1), may_repeat=MAY_REPEAT) == ["o0", "o1", "o2", "o3"]


def test_what_has_yet_to_be_said_is_not_forgotten() -> None:
    """However old it is, and however little room there is."""
    made = journal(ended("a", copies=(TO,)), size=2 * MAX_BYTES)
    assert made.outlived(at(9 * WEEK), may_repeat=MAY_REPEAT) == []
