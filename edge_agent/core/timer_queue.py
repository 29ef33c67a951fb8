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

_SLACK: Final = 64
"""So many dead entries are never worth a rebuild."""


class TimerQueue(Generic[T]):
    """Timers by name, each with a deadline in nanoseconds and a payload; equal deadlines come up in order of entry."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, str]] = []  # of nothing that the garbage collector would have to look into
        self._pending: dict[str, tuple[int, int, str]] = {}
        self._payloads: dict[str, T] = {}
        self._entered = 0

    def put(self, name: str, deadline: int, payload: T) -> None:
        """Add a timer, in place of the one of that name."""
        if name in self._pending:
            self.cancel(name)
        self._entered += 1  # it decides between equal deadlines
        entry = self._pending[name] = (deadline, self._entered, name)
        self._payloads[name] = payload
        heapq.heappush(self._heap, entry)

    def cancel(self, name: str) -> bool:
        """Remove a timer; return whether there was one."""
        found = self._pending.pop(name, None) is not None
        self._payloads.pop(name, None)
        self._compact()
        return found

    def deadline(self, name: str) -> int | None:
        """Return a timer's deadline; ``None`` = there is no such timer."""
        entry = self._pending.get(name)
        return None if entry is None else entry[0]

    def names(self) -> list[str]:
        """Return the names of all timers."""
        return list(self._pending)

    def next_deadline(self) -> int | None:
        """Return the soonest deadline; ``None`` = there is no timer."""
        while self._heap and self._pending.get(self._heap[0][2]) is not self._heap[0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: int) -> Iterator[T]:
        """Remove what is due at ``now``, yielding the payloads in order; take them all.

        What is cancelled or replaced in between does not come; what is put in between is for the next call.
        """
        due = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap))
        for entry in due:
            if self._pending.get(entry[2]) is entry:
                del self._pending[entry[2]]
                yield self._payloads.pop(entry[2])
        self._compact()

    def _compact(self) -> None:
        if len(self._heap) > 2 * len(self._pending) + _SLACK:
            self._heap = list(self._pending.values())
            heapq.heapify(self._heap)
