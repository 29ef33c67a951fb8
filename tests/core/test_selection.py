"""Tests of ``core/selection.py``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.selection import Interval, intersection, overlap

INTERVALS = st.lists(
    st.tuples(st.integers(-50, 50), st.integers(0, 30)).map(lambda pair: (float(pair[0]), float(sum(pair)))),
    min_size=1,
    max_size=9,
)


@pytest.mark.parametrize(
    ("intervals", "voters", "found"),
    [
        ([(0, 2)], 1, (0, 2)),
        ([(0, 2), (1, 3)], 2, (1, 2)),
        ([(0, 2), (5, 6)], 2, None),
        ([(0, 2), (1, 3), (9, 10)], 3, (1, 2)),
        ([(0, 2), (1, 3), (9, 10), (9, 10)], 4, None),
        ([(0, 2), (1, 3)], 4, None),
        ([(0, 2), (2, 3)], 2, (2, 2)),
        ([], 0, None),
    ],
)
def test_a_strict_majority_is_needed(intervals: list[Interval], voters: int, found: Interval | None) -> None:
    """Those that are silent count as well."""
    assert intersection(intervals, voters=voters) == found


@given(INTERVALS)
def test_what_is_found_lies_in_as_many_intervals_as_any_point_does(intervals: list[Interval]) -> None:
    """Against a search of all points."""
    most = max(sum(low <= at / 2 <= high for low, high in intervals) for at in range(-102, 164))
    found = intersection(intervals, voters=len(intervals))
    if 2 * most <= len(intervals):
        assert found is None
    else:
        assert found is not None
        assert sum(low <= found[0] and found[1] <= high for low, high in intervals) == most


@given(INTERVALS)
def test_intervals_overlap_whichever_is_named_first(intervals: list[Interval]) -> None:
    """And each with itself."""
    one, other = intervals[0], intervals[-1]
    assert overlap(one, other) == overlap(other, one) == (max(one[0], other[0]) <= min(one[1], other[1]))
    assert overlap(one, one)
