"""A hierarchical timing wheel with the face of ``TimerQueue``, to compare the heap with; the product has none.

Six wheels of 64 slots, a tick of 2^20 ns (about a millisecond) on the first, 64 times that on each next one: two years.
A timer lies in the slot of the coarsest digit in which its tick differs from the present one, and is moved down when
that slot's time comes. Within a tick deadlines are compared exactly, so it fires as precisely as the heap.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from typing import Final, Generic, TypeVar

T = TypeVar("T")

TICK_BITS: Final = 20
SLOT_BITS: Final = 6
SLOTS: Final = 1 << SLOT_BITS
LEVELS: Final = 6


class TimingWheel(Generic[T]):
    """Timers by name, each with a deadline in nanoseconds and a payload."""

    def __init__(self, now: int) -> None:
        self._tick = now >> TICK_BITS
        self._slots: list[list[dict[str, None]]] = [[{} for _ in range(SLOTS)] for _ in range(LEVELS)]
        self._occupied = [0] * LEVELS  # a bit for each slot that may hold something
        self._pending: dict[str, tuple[int, T, dict[str, None]]] = {}

    def put(self, name: str, deadline: int, payload: T) -> None:
        """Add a timer, in place of the one of that name."""
        self.cancel(name)
        self._place(name, deadline, payload)

    def _place(self, name: str, deadline: int, payload: T) -> None:
        now = self._tick
        tick = max(deadline >> TICK_BITS, now)
        level = max((tick ^ now).bit_length() - 1, 0) // SLOT_BITS
        index = tick >> SLOT_BITS * level & SLOTS - 1
        slot = self._slots[level][index]
        slot[name] = None
        self._occupied[level] |= 1 << index
        self._pending[name] = deadline, payload, slot

    def cancel(self, name: str) -> bool:
        """Remove a timer; return whether there was one."""
        entry = self._pending.pop(name, None)
        if entry is None:
            return False
        del entry[2][name]
        return True

    def next_deadline(self) -> int | None:
        """Return the soonest deadline, or when something must be moved before it is known; ``None`` = no timer."""
        found = self._next_slot()
        if found is None:
            return None
        level, index, tick = found
        if level:
            return tick << TICK_BITS
        return min(self._pending[name][0] for name in self._slots[0][index])

    def pop_due(self, now: int) -> Iterator[T]:
        """Remove what is due at ``now``, yielding the payloads in order; take them all."""
        target = now >> TICK_BITS
        while (found := self._next_slot()) is not None and found[2] <= target:
            level, index, self._tick = found
            slot = self._slots[level][index]
            if level:
                self._move_down(level, index)
                continue
            for deadline, name in sorted(((self._pending[name][0], name) for name in slot), key=itemgetter(0)):
                if deadline <= now and name in slot:
                    del slot[name]
                    yield self._pending.pop(name)[1]
            if slot:
                return
        self._tick = max(self._tick, target)

    def _move_down(self, level: int, index: int) -> None:
        slot, self._slots[level][index] = self._slots[level][index], {}
        self._occupied[level] &= ~(1 << index)
        for name in slot:
            deadline, payload, _ = self._pending[name]
            self._place(name, deadline, payload)

    def _next_slot(self) -> tuple[int, int, int] | None:
        """Return level, index and first tick of the first slot that holds something."""
        for level in range(LEVELS):
            shift = SLOT_BITS * level
            position = self._tick >> shift & SLOTS - 1
            while ahead := self._occupied[level] >> position:
                index = position + (ahead & -ahead).bit_length() - 1
                if self._slots[level][index]:
                    tick = self._tick >> shift + SLOT_BITS << shift + SLOT_BITS | index << shift
                    return level, index, max(tick, self._tick)
                self._occupied[level] &= ~(1 << index)
        return None
