"""How fast a backlog goes out."""

from __future__ import annotations

from edge_agent.core.pace import Pace
from edge_agent.core.timebase import MonotonicNs, later, seconds


def sent_within(pace: Pace, start: MonotonicNs, length_s: float) -> tuple[int, MonotonicNs]:
    """Return how many records go out in a while, taking each as soon as it may go."""
    now, end, count = start, later(start, seconds(length_s)), 0
    while now < end:
        while pace.take(now):
            count += 1
        now = pace.next_token(now)
    return count, end


def test_it_starts_slowly_and_doubles_every_five_seconds() -> None:
    """A tenth of the rate, two, four, eight tenths, all."""
    pace = Pace(80, uniform=lambda: 0.0)
    now = MonotonicNs(1)
    pace.connected(now)
    counts = []
    for _ in range(6):
        count, now = sent_within(pace, now, 5)
        counts.append(count)
    assert all(abs(count - wanted) <= 2 for count, wanted in zip(counts, (40, 80, 160, 320, 400, 400), strict=True))


def test_what_is_put_brings_its_own_token() -> None:
    """And they are forgotten once nothing waits."""
    pace = Pace(1, uniform=lambda: 1.0)
    now = MonotonicNs(1)
    pace.connected(now)
    pace.record_was_put()
    assert [pace.take(now), pace.take(now)] == [True, False]
    pace.record_was_put()
    pace.nothing_waits()
    assert not pace.take(now)


def test_without_a_rate_there_is_no_limit() -> None:
    """Not even at the start."""
    pace = Pace(0, uniform=lambda: 1.0)
    pace.connected(MonotonicNs(1))
    assert all(pace.take(MonotonicNs(1)) for _ in range(1000))
