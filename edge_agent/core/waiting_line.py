"""Who waits for a place: the most urgent first, then the oldest; when it is full, the least urgent newest goes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Generic, Literal, TypeVar

T = TypeVar("T")
Urgency = Literal["critical", "normal", "bulk"]
URGENCIES: Final[tuple[Urgency, ...]] = ("critical", "normal", "bulk")


class WaitingLine(Generic[T]):
    """A line of things that can be told apart by ``==`` and hashed; every step takes constant time."""

    def __init__(self) -> None:
        self._ranks: dict[Urgency, OrderedDict[T, None]] = {urgency: OrderedDict() for urgency in URGENCIES}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def join(self, item: T, urgency: Urgency, *, limit: int) -> T | None:
        """Put something at the end of its rank; return what has to go for it, perhaps itself, if the line is full."""
        self._ranks[urgency][item] = None
        if self._length < limit:
            self._length += 1
            return None
        rank = next(rank for rank in reversed(self._ranks.values()) if rank)
        return rank.popitem()[0]

    def take(self) -> T:
        """Remove and return who is next; there must be somebody."""
        self._length -= 1
        return next(rank for rank in self._ranks.values() if rank).popitem(last=False)[0]

    def leave(self, item: T, urgency: Urgency) -> None:
        """Remove something that may not be in it."""
        if item in self._ranks[urgency]:
            del self._ranks[urgency][item]
            self._length -= 1
