"""The numbers of one stream; histories of whole messages are in ``test_verification``."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.records import Gap
from edge_agent.core.verified_stream import MAX_CHANNELS, Stream, StreamReport

spans = st.tuples(st.integers(1, 200), st.integers(0, 3))
steps = st.lists(st.tuples(st.sampled_from(["see", "see", "see", "full", "coarse", "late"]), spans), max_size=120)


def lived(history: list[tuple[str, tuple[int, int]]], *, room: int) -> tuple[StreamReport, int]:
    """Return the report on a stream that has so much room, and how much of it is not judged."""
    stream, unjudged = Stream(StreamReport("d", "s", settled=300)), 0
    for what, (first, more) in history:
        if what == "see":
            stream.see(first, "data/x")
        elif what == "late":
            stream.late.add(first, first + more)
        else:
            stream.name(Gap("s", first, first + more, 1 + more // 2 if what == "coarse" else 1 + more, "full"))
        unjudged += stream.shrink(room)
        ranges = [*stream.seen, *stream.gaps, *stream.coarse, *stream.late, *stream.disordered]
        assert len(ranges) <= room
    return stream.report(), unjudged


def test_a_million_numbers_in_order_are_one_range() -> None:
    """However long it goes on, it takes no more memory."""
    stream = Stream(StreamReport("d", "s"))
    for seq in range(1, 1_000_001):
        stream.see(seq, "data/x")
        stream.shrink(10)
    assert (len(stream.seen), stream.floor, stream.known.delivered) == (1, 1, 1_000_000)


@given(st.lists(st.booleans(), max_size=300), st.integers(4, 20))
def test_what_is_forgotten_was_judged_before(kept: list[bool], room: int) -> None:
    """In order, nothing is missing that was not lost, and nothing is lost without a word but what comes last."""
    history = [("see" if keep else "full", (seq, 0)) for seq, keep in enumerate(kept, 1) if keep or seq % 2]
    (ample, _), (tight, unjudged) = lived(history, room=10_000), lived(history, room=room)
    assert replace(tight, missing=0, missing_ranges=()) == replace(ample, missing=0, missing_ranges=())
    assert (tight.missing, unjudged) == (ample.missing, 0)


@given(steps, st.integers(4, 20))
def test_there_are_never_more_ranges_than_there_is_room_for(
    history: list[tuple[str, tuple[int, int]]], room: int
) -> None:
    """Whatever comes, in whatever order; and nothing settled is left without a verdict."""
    (report, unjudged), (ample, _) = lived(history, room=room), lived(history, room=10_000)
    assert unjudged == 0
    assert report.missing >= ample.missing
    assert report.delivered <= ample.delivered


def test_what_is_forgotten_before_it_is_settled_is_counted() -> None:
    """Gaps that are named before their successors come, and one number between each two of them."""
    stream = Stream(StreamReport("d", "s"))
    unjudged = 0
    for first in range(1, 101, 2):
        stream.name(Gap("s", first, first, 1, "full"))
        unjudged += stream.shrink(9)
    assert (unjudged, stream.floor) == (49, 100)


def test_only_so_many_channels_are_remembered_as_held() -> None:
    """Whoever can publish can name as many as there are."""
    stream = Stream(StreamReport("d", "s"))
    for number in range(2 * MAX_CHANNELS):
        stream.hold(f"data/{number}", 1)
    assert len(stream.held) == MAX_CHANNELS
