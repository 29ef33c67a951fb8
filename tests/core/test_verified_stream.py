"""The numbers of one stream; histories of whole messages are in ``test_verification``."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.records import Gap
from edge_agent.core.verified_stream import Stream, StreamReport


def test_a_million_numbers_in_order_are_one_range() -> None:
    """However long it goes on, it takes no more memory."""
    stream = Stream(StreamReport("d", "s"))
    for seq in range(1, 1_000_001):
        stream.see(seq)
    assert (stream.size, stream.known.delivered) == (1, 1_000_000)


@given(st.lists(st.sampled_from(["see", "lose", "name"]), max_size=200))
def test_every_settled_number_is_delivered_named_or_missing(fates: list[str]) -> None:
    """Each is one of the three."""
    stream = Stream(StreamReport("d", "s", settled=len(fates)))
    for seq, fate in enumerate(fates, 1):
        if fate == "see":
            stream.see(seq)
        elif fate == "name":
            stream.name(Gap("s", seq, seq, 1, "full"))
    found = stream.report()
    assert (found.delivered, found.missing, found.named) == tuple(map(fates.count, ("see", "lose", "name")))


def test_what_is_doubted_is_not_missing() -> None:
    """As long as it was not settled before."""
    stream = Stream(StreamReport("d", "s", settled=2))
    stream.see(1)
    stream.doubt()
    stream.known.settled = 9
    found = stream.report()
    assert (found.missing_ranges, found.judged) == (((2, 2, 1),), False)
