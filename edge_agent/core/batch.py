"""What is asked of the store at once, and what it says of itself: all of a batch is on disk, or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edge_agent.core.placing import Boot
from edge_agent.core.records import Gap, Priority, Record


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that no broker takes: its number in the list, the broker's reason code, the record."""

    number: int
    reason: int
    record: Record


@dataclass(frozen=True, slots=True)
class Dropped:
    """Consecutive keys that were dropped, and why."""

    first: int
    last: int
    reason: str

    @property
    def count(self) -> int:
        """How many records."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Batch:
    """A change of the store.

    Attributes:
        records: to be written; one whose key is there already replaces it.
        replaces: the keys among them of which that is known.
        deletes: ranges of keys, first and last.
        doomed: keys of records that have to go, by reason.
        meta: facts about the outbox.
        seen: keys given by programs, and the records' ids.
        notes: what other parts write down, by name; ``None`` = no longer.
        gaps: further numbers to be named.
        gone: gaps that were delivered.
        dead: records for the list of dead letters.
        undead: numbers in that list to be forgotten.
        may_drop: whether room may be made by dropping the oldest.
        shed: whether a tenth of what is stored is to be dropped: the disk is full.
        keep: per priority, the first and the last key that may go next, ``None`` = what was read; they are not dropped.
        flying: keys on the wire, which are not dropped either.
    """

    records: Sequence[Record] = ()
    replaces: Sequence[int] = ()
    deletes: Sequence[tuple[int, int]] = ()
    doomed: Mapping[str, Sequence[int]] = field(default_factory=dict)
    meta: Mapping[str, object] = field(default_factory=dict)
    seen: Sequence[tuple[bytes, str]] = ()
    notes: Mapping[str, bytes | None] = field(default_factory=dict)
    gaps: Sequence[Gap] = ()
    gone: Sequence[int] = ()
    dead: Sequence[DeadLetter] = ()
    undead: Sequence[int] = ()
    may_drop: bool = True
    shed: bool = False
    keep: Mapping[Priority, tuple[int, int | None]] = field(default_factory=dict)
    flying: frozenset[int] = frozenset()

    def is_empty(self) -> bool:
        """Return whether there is nothing to do."""
        return not (self.is_durable() or self.deletes or self.gone or self.undead)

    def is_durable(self) -> bool:
        """Return whether it has to be on the disk when it returns: deletions may be repeated after a power cut."""
        return bool(self.records or self.meta or self.seen or self.gaps or self.dead or self.doomed or self.notes)


@dataclass(frozen=True, slots=True)
class Committed:
    """The store after a change.

    Attributes:
        dropped: what the change has dropped.
        records: how many records are stored; after an unclean stop an upper bound, until the store is empty.
        used: bytes of disk that they take.
        oldest: when the oldest was made, in the outbox's age; ``None`` = there is none.
        gaps: those that no event has delivered yet.
        dead: how many dead letters there are.
    """

    dropped: tuple[Dropped, ...] = ()
    records: int = 0
    used: int = 0
    oldest: int | None = None
    gaps: tuple[Gap, ...] = ()
    dead: int = 0


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What a store knew when it was opened.

    Attributes:
        name: the outbox's incarnation.
        used: the highest number that may have been used, by priority.
        first: the lowest number stored; ``None`` = there is none.
        boot: the kernel's boot id under which ``boot_base`` holds.
        boot_base: the outbox's age when the counter of that boot was zero, in nanoseconds.
        age: the outbox's age when it was last written, at least.
        boots: what is known of true time, see ``core.placing``.
        notes: what other parts have written down, by name.
        state: what it holds.
    """

    name: str
    used: Mapping[Priority, int]
    first: Mapping[Priority, int | None]
    boot: str
    boot_base: int
    age: int
    boots: Sequence[Boot]
    notes: Mapping[str, bytes]
    state: Committed


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes a store the continuation of another.

    Attributes:
        name: the outbox's incarnation.
        reserved: up to which number numbers may have been used, by priority.
        settled: up to which number all was delivered or named, at least.
    """

    name: str
    reserved: Mapping[Priority, int]
    settled: Mapping[Priority, int]


@dataclass(frozen=True, slots=True)
class Salvaged:
    """A piece of a store that was put aside; ``outbox`` is the incarnation whose keys the records have."""

    outbox: str
    records: Sequence[Record] = ()
    gaps: Sequence[Gap] = ()
    seen: Sequence[tuple[bytes, str]] = ()
    dead: Sequence[DeadLetter] = ()
