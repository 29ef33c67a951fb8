"""What the store has yet to be told: collected into a batch, and forgotten once the batch is written, not before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from edge_agent.core.batch import Batch, Committed, DeadLetter, Dropped
from edge_agent.core.lane import Lane
from edge_agent.core.notes import Notes
from edge_agent.core.records import BLOCK, SEQ_BITS, SEQ_MASK, Gap, Priority, Record, runs, stream_name

MAX_RECORDS: Final = 1000
MAX_BYTES: Final = 1 << 20
MAX_SEEN: Final = 20_000
"""Keys of records that the broker had before the disk; there are no more but while the disk fails."""


class Pending:
    """Changes that are not in the store yet.

    Attributes:
        name: the outbox's incarnation.
        lanes: the records of each priority.
        fresh_bytes: the size of the records that are in memory alone.
        meta: facts about the outbox that have changed.
        latest: per priority and channel, the key of the unsent record that a newer one replaces.
        seen: per key of a record that is not written yet, the keys that programs gave it.
        seen_on_their_way: keys of programs whose records the broker had before the disk, and the records' ids.
        notes: what other parts have written down; it outlives this.
        replaced: keys of stored records that were replaced.
        lost: numbers to be named.
        dead: records for the dead letters; what is written of one, its waiter may know.
        undead: numbers of dead letters that have returned.
        doomed: keys of stored records that have to go, by reason.
        gone: numbers of gaps whose event was delivered.
    """

    def __init__(self, name: str, lanes: dict[int, Lane], notes: Notes) -> None:
        self.name = name
        self.lanes = lanes
        self._streams = {priority: stream_name(name, Priority(priority)) for priority in lanes}
        self.fresh_bytes = 0
        self.meta: dict[str, object] = {}
        self.latest: dict[tuple[Priority, str], int] = {}
        self.seen: dict[int, list[bytes]] = {}
        self.seen_on_their_way: dict[bytes, str] = {}
        self.notes = notes
        self.replaced: set[int] = set()
        self.lost: list[Gap] = []
        self.dead: list[DeadLetter] = []
        self.undead: list[int] = []
        self.doomed: dict[str, set[int]] = {}
        self.gone: list[int] = []

    @property
    def has_news(self) -> bool:
        """Whether there is something that has to be on the disk soon, beside records."""
        flying = [lane.flying for lane in self.lanes.values()]
        doomed = any(keys.difference(*flying) for keys in self.doomed.values())
        return bool(
            self.lost
            or self.dead
            or self.undead
            or doomed
            or self.gone
            or self.seen_on_their_way
            or self.notes.unwritten
        )

    @property
    def wants_numbers(self) -> bool:
        """Whether a lane will run out of numbers that may be sent."""
        return any(lane.wants_numbers for lane in self.lanes.values())

    def id_of(self, key: int) -> str:
        """Return the id of the event that a record becomes."""
        return f"{self._streams[key >> SEQ_BITS]}.{key & SEQ_MASK}"

    def doom(self, keys: Iterable[int], reason: str) -> None:
        """Have stored records dropped and named."""
        if found := set(keys):
            self.doomed[reason] = self.doomed.get(reason, set()) | found
            self.latest = {place: key for place, key in self.latest.items() if key not in found}

    def evict(self, dropped: Dropped) -> None:
        """Take note that stored records were dropped; what has replaced one meanwhile gets a number of its own."""
        self.latest = {place: key for place, key in self.latest.items() if not dropped.first <= key <= dropped.last}
        lane = self.lanes[dropped.first >> SEQ_BITS]
        for key in [key for key in lane.fresh if dropped.first <= key <= dropped.last]:
            record = lane.fresh.pop(key)
            self.replaced.discard(key)
            record.key = lane.base | lane.next_seq
            lane.next_seq += 1
            lane.add(record, may_be_ready=False)

    def settled(self, gaps: Iterable[Gap]) -> dict[Priority, int]:
        """Return per priority the number up to which all is delivered, or named by an event that was delivered.

        Args:
            gaps: those in the store, and those whose event is on its way.
        """
        open_numbers = {
            stream: [gap.first for gap in (*gaps, *self.lost) if gap.stream == stream]
            for stream in self._streams.values()
        }
        for keys in self.doomed.values():
            for key in keys:
                open_numbers[self._streams[key >> SEQ_BITS]].append(key & SEQ_MASK)
        return {
            lane.priority: min([lane.all_settled_up_to(), *(n - 1 for n in open_numbers[self._streams[lane.priority]])])
            for lane in self.lanes.values()
        }

    def lose(self, record: Record, reason: str) -> None:
        """Name a record's number as one that will not come."""
        gap = Gap(self._streams[record.key >> SEQ_BITS], record.seq, record.seq, 1, reason)
        last = self.lost[-1] if self.lost else None
        if last is not None and (last.stream, last.last + 1, last.reason) == (gap.stream, gap.first, reason):
            self.lost[-1] = Gap(last.stream, last.first, gap.last, last.count + 1, reason)
        else:
            self.lost.append(gap)

    def take_place(self, record: Record) -> bool:
        """Let a new record replace the unsent one of its channel, whose number it gets; return whether there is one."""
        lane = self.lanes[record.key >> SEQ_BITS]
        place = (lane.priority, record.channel)
        if place not in self.latest:
            self.latest[place] = record.key
            return False
        record.key = self.latest[place]
        old = lane.fresh.get(record.key)
        if old is None:
            self.replaced.add(record.key)
        else:
            self.fresh_bytes -= len(old.body)
            record.made, record.waiter = old.made, old.waiter  # those behind it wait no longer for the disk
            record.always = record.always or old.always  # the old one's key is to be remembered with it
        self.fresh_bytes += len(record.body)
        lane.replace(record)
        return True

    def leave_place(self, record: Record) -> None:
        """From now on no newer record takes this one's place."""
        if record.latest:
            place = (Priority(record.key >> SEQ_BITS), record.channel)
            if self.latest.get(place) == record.key:
                del self.latest[place]

    def settle(self, record: Record) -> bool:
        """Take note that a record is not to be sent any more; return whether it was in memory alone."""
        key, lane = record.key, self.lanes[record.key >> SEQ_BITS]
        self.leave_place(record)
        if key in self.seen:
            self.seen_on_their_way |= dict.fromkeys(self.seen.pop(key), self.id_of(key))
            while len(self.seen_on_their_way) > MAX_SEEN:  # the disk fails
                del self.seen_on_their_way[next(iter(self.seen_on_their_way))]
        if not lane.settled(record):
            return False
        if key in self.replaced:  # the store has an older form of it
            self.replaced.remove(key)
            lane.acked.add(key)
        self.fresh_bytes -= len(record.body)
        return True

    def lose_oldest(self) -> Record | None:
        """Drop the oldest record of the lowest priority that is in memory alone and not on its way; name its number."""
        for priority in reversed(Priority):
            lane = self.lanes[priority]
            busy = {*lane.flying, *self.replaced}
            record = next((one for key, one in lane.fresh.items() if key not in busy), None)
            if record is not None:
                self.forgo(record, "memory_full")
                return record
        return None

    def withdraw(self, record: Record) -> bool:
        """Take back a record that is in memory alone, if it is not on its way; return whether it was taken back."""
        lane = self.lanes[record.key >> SEQ_BITS]
        if lane.fresh.get(record.key) is not record or record.key in lane.flying or record.key in lane.doubtful:
            return False
        self.forgo(record, "withdrawn")
        return True

    def forgo(self, record: Record, reason: str) -> None:
        """Drop a record that is in memory alone and not on its way; name its number."""
        self.lanes[record.key >> SEQ_BITS].lose(record)
        self.fresh_bytes -= len(record.body)
        self.leave_place(record)
        self.lose(record, reason)

    def collect(self, *, records: bool, settled: dict[Priority, int], may_drop: bool) -> Batch:
        """Return what is to be written now.

        Args:
            records: whether records are, or only what is about those that are stored.
            settled: per priority the number up to which all is delivered or named.
            may_drop: whether the oldest may be dropped for the newest.
        """
        chosen = self._records() if records else []
        keys = {record.key for record in chosen}
        flying = frozenset[int]().union(*(lane.flying for lane in self.lanes.values()))
        return Batch(
            records=chosen,
            replaces=list(self.replaced & keys),
            deletes=[run for lane in self.lanes.values() for run in runs(sorted(lane.acked))],
            doomed={why: sorted(some) for why, keys in self.doomed.items() if (some := keys - flying)},
            meta=self.meta | self._numbers(settled),
            seen=[*self.seen_on_their_way.items()]
            + [(one, self.id_of(key)) for key, given in self.seen.items() if key in keys for one in given],
            notes=self.notes.ready(set(chosen), lambda one: self.lanes[one.key >> SEQ_BITS].fresh.get(one.key) is one),
            gaps=tuple(self.lost),
            gone=tuple(self.gone),
            dead=tuple(self.dead),
            undead=tuple(self.undead),
            may_drop=may_drop,
            keep={lane.priority: lane.next_up() for lane in self.lanes.values()},
            flying=flying,
        )

    def written(self, batch: Batch, done: Committed) -> list[Record]:
        """Forget what was written; return the records that became durable."""
        durable: list[Record] = []
        for first, last in batch.deletes:
            self.lanes[first >> SEQ_BITS].acked.difference_update(range(first, last + 1))
        for lane in self.lanes.values():
            reserved = batch.meta.get(f"reserved{lane.priority:d}")
            if isinstance(reserved, int):
                lane.reserved = reserved
        self._stored(batch, durable)
        self.meta = {key: value for key, value in self.meta.items() if key not in batch.meta}
        self.notes.written(batch.notes)
        self.doomed = {r: left for r, keys in self.doomed.items() if (left := keys - {*batch.doomed.get(r, ())})}
        grown = self.lost[len(batch.gaps) - 1 : len(batch.gaps)] if batch.gaps else []
        del self.lost[: len(batch.gaps)], self.gone[: len(batch.gone)], self.undead[: len(batch.undead)]
        del self.dead[: len(batch.dead)]
        written = set(batch.seen)
        self.seen_on_their_way = dict(self.seen_on_their_way.items() - written)
        if grown and (more := grown[0].count - batch.gaps[-1].count):  # meanwhile
            self.lost.insert(0, replace(grown[0], first=batch.gaps[-1].last + 1, count=more))
        durable += [letter.record for letter in batch.dead]
        for dropped in done.dropped:
            self.lanes[dropped.first >> SEQ_BITS].forget(dropped)
        return durable

    def _stored(self, batch: Batch, durable: list[Record]) -> None:
        for record in batch.records:
            key, lane = record.key, self.lanes[record.key >> SEQ_BITS]
            current = lane.fresh.get(key)
            if current is record:
                del lane.fresh[key]
                self.fresh_bytes -= len(record.body)
                self.replaced.discard(key)
                self.seen.pop(key, None)
                durable.append(record)
            elif current is not None:
                self.replaced.add(key)
            else:  # answered while it was being written
                lane.acked.add(key)

    def _records(self) -> list[Record]:
        """Return the records that are in memory alone, of each lane without a hole: what is stored is a whole."""
        chosen: list[Record] = []
        size = 0
        for lane in self.lanes.values():
            for record in lane.fresh.values():
                if (len(chosen) >= MAX_RECORDS or size >= MAX_BYTES) and not chosen[-1].bound:
                    return chosen
                chosen.append(record)
                size += len(record.body)
        return chosen

    def _numbers(self, settled: dict[Priority, int]) -> dict[str, object]:
        """Return what to write so that further numbers may be used."""
        meta: dict[str, object] = {}
        for lane in self.lanes.values():
            if lane.wants_numbers:
                meta[f"reserved{lane.priority:d}"] = lane.next_seq - 1 + BLOCK
        if meta:
            meta["clean"] = 0
            meta |= {f"settled{priority:d}": seq for priority, seq in settled.items()}
        return meta
