"""Which sources tell the truth: the largest set of intervals with a common point, if it is a majority."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

Interval: TypeAlias = tuple[float, float]


def intersection(intervals: Sequence[Interval], *, voters: int) -> Interval | None:
    """Return what a strict majority of the voters agrees on (Marzullo; RFC 5905 §11.2.1); ``None`` = they do not.

    Args:
        intervals: where each source says that true time is.
        voters: how many sources there are, those without an interval included.
    """
    edges = sorted([(low, -1) for low, _ in intervals] + [(high, 1) for _, high in intervals])
    depth = best = 0
    found: Interval | None = None
    for index, (at, kind) in enumerate(edges):
        depth -= kind
        if depth > best:
            best, found = depth, (at, edges[index + 1][0])
    return found if 2 * best > voters else None


def overlap(one: Interval, other: Interval) -> bool:
    """Return whether two intervals have a common point."""
    return one[0] <= other[1] and other[0] <= one[1]
