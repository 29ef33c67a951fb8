"""Sets of numbers, kept as ranges: a million in a row are one."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from heapq import merge
from typing import TypeAlias

Range: TypeAlias = tuple[int, int]
"""The first and the last number."""


class NumberRanges:
    """A set of numbers; ``len`` is how many ranges it takes."""

    __slots__ = ("_first", "_last")

    def __init__(self) -> None:
        self._first: list[int] = []
        self._last: list[int] = []

    def __len__(self) -> int:
        return len(self._first)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._first, number) - 1
        return at >= 0 and number <= self._last[at]

    def __iter__(self) -> Iterator[Range]:
        return zip(self._first, self._last, strict=True)

    def add(self, first: int, last: int) -> None:
        """Add all numbers from ``first`` to ``last``."""
        low, high = bisect_left(self._last, first - 1), bisect_right(self._first, last + 1)
        if low < high:
            first, last = min(first, self._first[low]), max(last, self._last[high - 1])
        self._first[low:high], self._last[low:high] = [first], [last]

    def within(self, first: int, last: int) -> Iterator[Range]:
        """Yield the ranges of what lies from ``first`` to ``last``."""
        for at in range(bisect_left(self._last, first), bisect_right(self._first, last) if first <= last else 0):
            yield max(first, self._first[at]), min(last, self._last[at])

    def keep(self, first: int, last: int) -> None:
        """Remove all that does not lie from ``first`` to ``last``."""
        kept = list(self.within(first, last))
        self._first, self._last = [low for low, _ in kept], [high for _, high in kept]


def count(ranges: Iterable[Range]) -> int:
    """Return how many numbers there are in ranges that do not overlap."""
    return sum(last - first + 1 for first, last in ranges)


def holes(sets: Iterable[NumberRanges], first: int, last: int) -> Iterator[Range]:
    """Yield the ranges from ``first`` to ``last`` that are in none of the sets."""
    expected = first
    for low, high in merge(*(one.within(first, last) for one in sets)):
        if low > expected:
            yield expected, low - 1
        expected = max(expected, high + 1)
    if expected <= last:
        yield expected, last
