"""The numbers of one stream; histories of whole messages are in ``test_verification``."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.verified_stream import MAX_CHANNELS, Stream, StreamReport

spans = st.tuples(st.integers(1, 200), st.integers(0, 3))
steps = st.lists(st.tuples(st.sampled_from(["see", "see", "see", "full", "maybe", "late"]), spans), max_size=120)


def lived(history: list[tuple[str, tuple[int, int]]], *, room: int) -> StreamReport:
    """Return the report on a stream that has so much room."""
    stream = Stream(None, 0, settled=300)
    for what, (first, more) in history:
        if what == "see":
            stream.see(first, f"data/{first % 3}")
        elif what == "late":
            stream.late.add(first, first + more)
        else:
            stream.name(first, first + more, more + 1, unclean=what == "maybe")
        stream.shrink(room)
    return stream.report("d", "s")


def test_a_million_numbers_in_order_are_one_range() -> None:
    """However long it goes on, it takes no more memory."""
    stream = Stream(None, 0)
    for seq in range(1, 1_000_001):
        stream.see(seq, "data/x")
        stream.shrink(10)
    assert (len(stream.seen), stream.floor, stream.delivered) == (1, 1, 1_000_000)


@given(st.lists(st.booleans(), max_size=300), st.integers(4, 20))
def test_what_is_forgotten_was_judged_before(kept: list[bool], room: int) -> None:
    """In order, the counts are what they are with all the room there could be; only the ranges are no longer known."""
    history = [("see" if keep else "full", (seq, 0)) for seq, keep in enumerate(kept, 1) if keep or seq % 2]
    ample, tight = lived(history, room=10_000), lived(history, room=room)
    assert replace(tight, missing_ranges=()) == replace(ample, missing_ranges=())


@given(steps, st.integers(4, 20))
def test_there_are_never_more_ranges_than_there_is_room_for(
    history: list[tuple[str, tuple[int, int]]], room: int
) -> None:
    """Whatever comes, in whatever order; and nothing settled is left without a verdict."""
    report = lived(history, room=room)
    assert len(report.missing_ranges) <= room + 1
    assert report.unjudged == 0
    ample = lived(history, room=10_000)
    assert report.missing >= ample.missing
    assert report.delivered <= ample.delivered


def test_channels_beyond_the_limit_are_held_together() -> None:
    """None of them is excused any more by being held, and none takes memory."""
    stream = Stream(None, 0)
    stream.see(10_000, "data/x")
    for seq in range(1, 1000):
        stream.see(seq, f"data/{seq}")
    assert len(stream.disordered) == MAX_CHANNELS + 1
    assert stream.report("d", "s").out_of_order == 999
