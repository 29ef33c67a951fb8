"""Sets of numbers as ranges, against Python's own sets."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.number_ranges import NumberRanges, count, holes

spans = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 8)), max_size=12)


def build(pairs: list[tuple[int, int]]) -> tuple[NumberRanges, set[int]]:
    """Return the same set twice: as ranges and as a set."""
    ranges, numbers = NumberRanges(), set()
    for first, more in pairs:
        ranges.add(first, first + more)
        numbers |= set(range(first, first + more + 1))
    return ranges, numbers


@given(spans, st.integers(0, 50), st.integers(0, 50))
def test_they_hold_what_was_added(pairs: list[tuple[int, int]], first: int, last: int) -> None:
    """In as few ranges as there can be."""
    ranges, numbers = build(pairs)
    assert {number for number in range(60) if number in ranges} == numbers
    inside = {number for number in numbers if first <= number <= last}
    assert {number for low, high in ranges.within(first, last) for number in range(low, high + 1)} == inside
    assert count(ranges) == len(numbers)
    assert len(ranges) == len([number for number in numbers if number - 1 not in numbers])


@given(spans, st.integers(0, 60), st.integers(0, 60))
def test_what_is_not_kept_is_gone_and_the_rest_is_not(pairs: list[tuple[int, int]], first: int, last: int) -> None:
    """Also within a range."""
    ranges, numbers = build(pairs)
    ranges.keep(first, last)
    assert {number for number in range(60) if number in ranges} == {n for n in numbers if first <= n <= last}


@given(st.lists(spans, max_size=4), st.integers(1, 50), st.integers(0, 50))
def test_holes_are_what_none_of_the_sets_has(several: list[list[tuple[int, int]]], first: int, last: int) -> None:
    """In order, each as one range."""
    built = [build(pairs) for pairs in several]
    found = list(holes([ranges for ranges, _ in built], first, last))
    missing = set(range(first, last + 1)).difference(*(numbers for _, numbers in built))
    assert {number for low, high in found for number in range(low, high + 1)} == missing
    assert count(found) == len(missing)
    assert all(high + 1 < low for (_, high), (low, _) in pairwise(found))
