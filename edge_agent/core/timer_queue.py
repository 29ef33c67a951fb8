"""Named deadlines in order: a binary heap, and a table of which of its entries still count.

Whatever is cancelled or replaced leaves the table at once and the heap later: when it comes up, or when more than half
of the heap is of that kind. So cancelling costs the same however many timers there are, and the heap is never more than
twice as long as it has to be.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_COUNTED: Final = 64
"""Bits of an entry that count what was put; the others are the deadline."""

_SLACK: Final = 64
"""So many dead entries are never worth a rebuild."""


class TimerQueue(Generic[T]):
    """Timers by name, each with a deadline in nanoseconds and a payload; equal deadlines come up in order of entry."""

    def __init__(self) -> None:
        # an entry is one number, the deadline and then a count: there is nothing in it to be looked up on the way
        # through a heap that is larger than the processor's cache, nor by the garbage collector
        self._heap: list[int] = []
        self._names: dict[int, str] = {}  # of the entries that count
        self._pending: dict[str, int] = {}
        self._payloads: dict[str, T] = {}
        self._entered = 0

    def put(self, name: str, deadline: int, payload: T) -> None:
        """Add a timer, in place of the one of that name."""
        if name in self._pending:
            self.cancel(name)
        self._entered += 1  # it decides between equal deadlines
        entry = self._pending[name] = (deadline << _COUNTED) + self._entered
        self._names[entry] = name
        self._payloads[name] = payload
        heapq.heappush(self._heap, entry)

    def cancel(self, name: str) -> bool:
        """Remove a timer; return whether there was one."""
        entry = self._pending.pop(name, None)
        if entry is not None:
            del self._names[entry], self._payloads[name]
            self._compact()
        return entry is not None

    def deadline(self, name: str) -> int | None:
        """Return a timer's deadline; ``None`` = there is no such timer."""
        entry = self._pending.get(name)
        return None if entry is None else entry >> _COUNTED

    def names(self) -> list[str]:
        """Return the names of all timers."""
        return list(self._pending)

    def next_deadline(self) -> int | None:
        """Return the soonest deadline; ``None`` = there is no timer."""
        while self._heap and self._heap[0] not in self._names:
            heapq.heappop(self._heap)
        return self._heap[0] >> _COUNTED if self._heap else None

    def pop_due(self, now: int) -> Iterator[T]:
        """Remove what is due at ``now``, yielding the payloads in order; take them all.

        What is cancelled or replaced in between does not come; what is put in between is for the next call.
        """
        due, end = [], (now + 1) << _COUNTED
        while self._heap and self._heap[0] < end:
            due.append(heapq.heappop(self._heap))
        for entry in due:
            name = self._names.pop(entry, None)
            if name is not None:
                del self._pending[name]
                yield self._payloads.pop(name)
        self._compact()

    def _compact(self) -> None:
        if len(self._heap) > 2 * len(self._pending) + _SLACK:
            self._heap = list(self._names)
            heapq.heapify(self._heap)
