"""Notes: the newest of a name counts, and nothing is forgotten to be written."""

from __future__ import annotations

from edge_agent.core.notes import Notes
from edge_agent.core.records import Record
from edge_agent.core.timebase import UtcNs


def test_what_changes_while_it_is_being_written_is_written_again() -> None:
    """Also when it is forgotten meanwhile."""
    notes = Notes()
    notes.put("a", b"1")
    notes.put("b", b"1")
    on_its_way = dict(notes.unwritten)
    notes.put("a", b"2")
    notes.put("b", None)
    notes.put("c", b"3")
    notes.written(on_its_way)
    assert notes.unwritten == {"a": b"2", "b": None, "c": b"3"}
    notes.written(dict(notes.unwritten))
    assert notes.unwritten == {}
    assert notes.kept == {"a": b"2", "c": b"3"}


def test_a_store_is_told_what_it_does_not_know_and_brings_back_nothing_that_was_changed() -> None:
    """What is known is newer than what a store says; what is not known is taken up, and not written once more."""
    notes = Notes()
    notes.put("kept", b"1")
    notes.written(dict(notes.unwritten))
    notes.put("gone", None)
    notes.recall({"kept": b"0", "gone": b"0", "old": b"0"})
    assert notes.kept == {"kept": b"1", "old": b"0"}
    assert notes.unwritten == {"kept": b"1", "gone": None}
    notes.written(dict(notes.unwritten))
    notes.recall({})
    assert notes.unwritten == {"kept": b"1", "old": b"0"}


def test_a_note_goes_to_the_disk_with_its_record() -> None:
    """Neither without the other; a record that the disk has, or will not get, holds up nothing."""
    notes = Notes()
    record = Record(1, "reply/c", b"{}", 0, UtcNs(0))
    notes.put("a", b"1", beside=record)
    notes.put("b", b"1")
    assert notes.ready((), lambda _: True) == {"b": b"1"}
    assert notes.ready({record}, lambda _: True) == {"a": b"1", "b": b"1"}
    assert notes.ready((), lambda _: False) == {"a": b"1", "b": b"1"}
    notes.put("a", b"2")
    assert notes.ready((), lambda _: True) == {"a": b"2", "b": b"1"}


def test_who_wants_to_know_is_told_that_a_store_has_spoken() -> None:
    """After what it said is known."""
    notes = Notes()
    seen: list[dict[str, bytes]] = []
    notes.recalled = lambda: seen.append(dict(notes.kept))
    notes.recall({"old": b"0"})
    assert seen == [{"old": b"0"}]
