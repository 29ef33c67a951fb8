"""Notes: the newest of a name counts, and nothing is forgotten to be written."""

from __future__ import annotations

from edge_agent.core.notes import Notes


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
