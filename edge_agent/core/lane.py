"""One stream's records on their way: which of them are in memory, which are next, which are on the wire.

A lane keeps no more than a few hundred records in memory, however many are stored. Its records are, in order of key:

    settled | on the wire | ready | behind the cursor: in the store, or not written yet
                                  ^ cursor

``fresh`` cuts across: what is not in the store yet, wherever it stands. ``acked`` is what the broker has and the store
has not deleted yet. Nothing here waits or writes: the outbox and the drain do, and tell the lane.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from edge_agent.core.batch import Dropped
from edge_agent.core.records import BLOCK, SEQ_MASK, Priority, Record, pack

RESERVE_BELOW: Final = BLOCK // 4
"""So many numbers before the last reserved one, the next block is reserved."""

READY_RECORDS: Final = 500
READY_BYTES: Final = 256 * 1024


class Lane:
    """The records of one priority.

    Attributes:
        base: the key of the number 0.
        next_seq: the number that the next record gets.
        reserved: numbers up to this one may be sent: they will not be used again, whatever happens.
        fresh: records that are not in the store yet, by key.
        ready: records that go next.
        flying: records that were sent and not answered, by key.
        acked: keys of stored records that the broker has.
        held: per channel that the broker refuses, the first key that waits for it.
        cursor: the last key that was ready.
        doubtful: keys on the wire when a connection ended, of which some may have been settled or stored since.
        delivered: the highest key that was settled since the start.
        behind: whether there are records beyond the cursor.
        generation: changes whenever the cursor is set back; what was read for the old one is void.
        reading: for which generation a page is on its way from the store.
    """

    def __init__(self, priority: Priority, *, used: int, first: int | None) -> None:
        """Start with what the store says.

        Args:
            priority: whose lane it is.
            used: the highest number that may have been used.
            first: the lowest number in the store; ``None`` = there is none.
        """
        self.priority = priority
        self.base = pack(priority, 0)
        self.next_seq = self._first_seq = used + 1
        self.reserved = used
        self.fresh: dict[int, Record] = {}
        self.ready: deque[Record] = deque()
        self.flying: dict[int, Record] = {}
        self.acked: set[int] = set()
        self.held: dict[str, int] = {}
        self.cursor = pack(priority, used if first is None else first - 1)
        self.behind = first is not None
        self.doubtful: set[int] = set()
        self.delivered = self.base
        self.generation = 0
        self.reading: int | None = None
        self._ready_bytes = 0

    @property
    def in_use(self) -> bool:
        """Whether a number of it was given since the start."""
        return self.next_seq > self._first_seq

    @property
    def is_out_of_numbers(self) -> bool:
        """Whether there is a record whose number may not be sent yet."""
        return self.next_seq - 1 > self.reserved

    @property
    def wants_numbers(self) -> bool:
        """Whether it will soon run out of numbers that may be sent."""
        return self.next_seq - 1 + RESERVE_BELOW > self.reserved and self.in_use

    @property
    def wants_page(self) -> bool:
        """Whether the store should be read on."""
        return self.behind and len(self.ready) < READY_RECORDS // 2 and self._ready_bytes < READY_BYTES // 2

    def add(self, record: Record, *, may_be_ready: bool) -> None:
        """Take a new record; while there is nothing to send it on, it only waits to be stored."""
        self.fresh[record.key] = record
        if self.behind or not may_be_ready or len(self.ready) >= READY_RECORDS or self._ready_bytes >= READY_BYTES:
            self.behind = True
        else:
            self._append(record)

    def replace(self, record: Record) -> None:
        """Take a record in the place of the unsent one that has its key."""
        self.fresh[record.key] = record
        for index, old in enumerate(self.ready):
            if old.key == record.key:
                self.ready[index] = record
                self._ready_bytes += len(record.body) - len(old.body)
                break

    def take_page(self, rows: Sequence[Record], *, generation: int, at_end: bool, skip: Iterable[int] = ()) -> None:
        """Make ready what was read beyond the cursor; ``skip`` are keys that were read and are damaged."""
        self.reading = None
        if generation != self.generation:
            return
        found = {row.key: row for row in rows}
        up_to = pack(self.priority, SEQ_MASK) if at_end else max([*found, *skip], default=self.cursor)
        found |= {key: record for key, record in self.fresh.items() if self.cursor < key <= up_to}
        for key in sorted(found):
            if key not in self.flying and key not in self.acked:
                self._append(found[key])
        self.cursor = max(self.cursor, *skip) if skip else self.cursor
        self.behind = not at_end

    def pop(self) -> Record:
        """Take the next record out of those that are ready."""
        record = self.ready.popleft()
        self._ready_bytes -= len(record.body)
        return record

    def lose(self, record: Record) -> None:
        """Take out a record that is in memory alone and not on its way."""
        del self.fresh[record.key]
        if record in self.ready:
            self.ready.remove(record)
            self._ready_bytes -= len(record.body)

    def hold(self, record: Record) -> None:
        """Let a record that was taken out wait for its channel."""
        self.held[record.channel] = min(record.key, self.held.get(record.channel, record.key))

    def settled(self, record: Record) -> bool:
        """Take note that the broker has a record; return whether it was in memory alone."""
        self.flying.pop(record.key, None)
        self.delivered = max(self.delivered, record.key)
        if self.fresh.pop(record.key, None) is not None:
            return True
        self.acked.add(record.key)
        return False

    def rewind(self, to: int | None = None) -> None:
        """Set the cursor back to before ``to``, or to before all that was ready or on the wire."""
        waiting = [*self.flying, *(record.key for record in self.ready), *self.held.values()]
        if to is None:
            self.doubtful = {*self.flying, *(self.doubtful & self.fresh.keys())}
            self.flying.clear()
            self.held.clear()
            to = min(waiting, default=None)
        elif self.ready:
            to = min(to, self.ready[0].key)  # what is ready is forgotten, and has to be read again
        if to is not None and to <= self.cursor:
            self.cursor = to - 1
            self.behind = True
        self.ready.clear()
        self._ready_bytes = 0
        self.generation += 1

    @property
    def is_doubtful(self) -> bool:
        """Whether what is in memory alone may be at the broker, though nobody knows."""
        return not self.doubtful.isdisjoint(self.fresh)

    def next_up(self) -> tuple[int, int | None]:
        """Return the first and the last key that may go next: what is held for a refused channel does not."""
        first = self.ready[0].key if self.ready else self.cursor + 1
        return first, None if self.reading == self.generation else self.cursor

    def forget(self, dropped: Dropped) -> None:
        """Take note that records were dropped."""
        if any(dropped.first <= record.key <= dropped.last for record in self.ready):
            self.rewind(self.ready[0].key)
        for channel, key in list(self.held.items()):
            if dropped.first <= key <= dropped.last:
                self.held[channel] = dropped.last + 1

    def all_settled_up_to(self) -> int:
        """Return the number up to which every record was delivered or dropped."""
        waiting = [*self.flying, *self.held.values()]
        if self.ready:
            waiting.append(self.ready[0].key)
        if self.behind:
            waiting.append(self.cursor + 1)
        return (min(waiting) & SEQ_MASK if waiting else self.next_seq) - 1

    def _append(self, record: Record) -> None:
        self.ready.append(record)
        self._ready_bytes += len(record.body)
        self.cursor = record.key
