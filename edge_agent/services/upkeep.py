"""What the outbox needs beside its daily work: mending its store, getting records back, naming what will not come."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Final, TypeAlias

from edge_agent.core.batch import Committed, Identity, Salvaged
from edge_agent.core.number_ranges import NumberRanges, count, holes
from edge_agent.core.records import SEQ_BITS, SEQ_MASK, Gap, Priority, Record, pack, runs, stream_name
from edge_agent.core.timebase import later, seconds
from edge_agent.errors import OutboxError, StoreFault
from edge_agent.ports import Clock, Store
from edge_agent.services.keeping import Keeping
from edge_agent.services.outbox import MEMORY_BYTES, Outbox

log = logging.getLogger(__name__)
_Numbers: TypeAlias = Mapping[Priority, NumberRanges]

LOOK_EVERY: Final = seconds(10)
SECEDE_AFTER: Final = 6
"""So many looks at records that wait for numbers, and the outbox goes on without the store."""

GAPS_AT_ONCE: Final = 50
GAP_BYTES: Final = 160  # of an event, about
SHRINK_PAGES: Final = 1000
MAX_GAPS: Final = 100


class Upkeep:
    """Looks after the outbox every few seconds.

    Attributes:
        adopted: called when it goes on with a store after it had begun without one: there may be notes in it.
    """

    def __init__(self, outbox: Outbox, keeping: Keeping, *, clock: Clock) -> None:
        self._outbox = outbox
        self._keeping = keeping
        self._clock = clock
        self.adopted: Callable[[], None] = lambda: None
        # what was in memory when a store was put aside of which not all could be taken over yet
        self._unsalvaged: _Numbers | None = None
        self._notes_aside = False
        self._stuck = 0  # so many looks in a row have found records that wait for numbers

    async def run(self) -> None:
        """Take over what was left by stores that were put aside, then look after this one, until cancelled."""
        await self._salvage({})
        while True:
            await self._clock.sleep_until(later(self._clock.monotonic(), LOOK_EVERY))
            if self._keeping.fault is not None or not self._keeping.is_open:
                await self._mend()
            await self._let_notes_go()
            if self._unsalvaged is not None and self._keeping.is_open and self._keeping.fault is None:
                await self._salvage(self._unsalvaged)
            if self._outbox.online:
                await self.announce()
            await self._drop_expired()
            while await self._keeping.read(lambda store: store.shrink(SHRINK_PAGES)):
                pass

    async def announce(self) -> None:
        """Publish an event that names the numbers that will not come."""
        outbox = self._outbox
        # What could not be said at once goes gap by gap: perhaps there were too many for one message.
        most = 1 if outbox.unsaid else min(GAPS_AT_ONCE, max(outbox.config.max_record // GAP_BYTES, 1))
        if not outbox.unsaid:
            outbox.unsaid = await self._keeping.read(lambda store: store.announce(GAPS_AT_ONCE)) or []
        while some := outbox.unsaid[:most]:
            if (record := outbox.say({"gaps": [asdict(gap) for _, gap in some]})) is None:
                break  # the next look tries again
            del outbox.unsaid[:most]
            outbox.announced[record.key] = some

    async def _drop_expired(self) -> None:
        cutoff = self._outbox.age() - self._outbox.config.max_age
        oldest = self._outbox.state.oldest
        if oldest is not None and oldest < cutoff:
            self._outbox.pending.doom(await self._keeping.read(lambda store: store.expired(cutoff)) or (), "expired")
            self._outbox.must_write()

    async def _let_notes_go(self) -> None:
        """Once the store has all notes, have those of the one that it has replaced count no more."""
        if self._notes_aside and not self._outbox.pending.notes.unwritten:
            self._notes_aside = False
            await self._keeping.notes_taken()

    # -- faults

    async def _mend(self) -> None:
        waits = False
        fault = self._keeping.fault
        if not self._keeping.is_open:
            waits = await self._adopt()
        elif await self._keeping.mend(self._outbox.identity):
            there, self._notes_aside = self._write_anew(), True
            await self._outbox.written()
            await self._let_notes_go()
            await self._salvage(there)
        elif fault in (StoreFault.IO, StoreFault.READ_ONLY) and self._keeping.fault is not fault:
            self._forget_announced()  # the store has: it was opened again
        elif self._is_stuck():
            waits = await self._secede()
        self._outbox.hushed = waits
        self._outbox.moved()
        self._outbox.tell_condition()
        self._outbox.must_write()

    async def _adopt(self) -> bool:
        """Go on with a store, after a time without one; return whether that has to wait for what was sent."""
        if not await self._keeping.can_be_written():
            return False
        if not self._is_renumberable():
            return self._outbox.hushed
        facts = await self._keeping.open()
        if facts is not None:
            self._renumber(partial(self._outbox.take_over, facts))
            self.adopted()
            await self._salvage({})
        return False

    async def _secede(self) -> bool:
        """Go on without the store: numbers that cannot be reserved cannot be sent, under a name of its own all can.

        Returns whether that has to wait for what was sent.
        """
        if not self._is_renumberable():
            return self._outbox.hushed
        await self._keeping.abandon()
        self._renumber(self._outbox.begin_alone)
        return False

    def _is_stuck(self) -> bool:
        """Return whether records have had to wait for numbers for long: most faults pass sooner."""
        lanes = self._outbox.lanes.values()
        stuck = self._keeping.fault is not None and any(lane.is_out_of_numbers for lane in lanes)
        self._stuck = self._stuck + 1 if stuck else 0
        return self._stuck >= SECEDE_AFTER

    def _is_renumberable(self) -> bool:
        """Return whether no number in memory may have been sent; ``hushed`` is set if an answer will tell."""
        lanes = self._outbox.lanes.values()
        # what was sent on a connection that has ended has to go again first, under the number that it had
        self._outbox.hushed = not any(lane.is_doubtful for lane in lanes)
        return self._outbox.hushed and not any(lane.flying for lane in lanes)

    def _renumber(self, begin: Callable[[], None]) -> None:
        """Begin anew, and take over what is in memory and was not sent yet."""
        outbox, old, base = self._outbox, self._outbox.pending, self._outbox.age_base
        self._forget_announced()
        begin()
        for lane in old.lanes.values():
            for record in lane.fresh.values():
                if record.key < lane.delivered:  # those who read the stream wait for it
                    old.lose(record, "renumbered")
                new = outbox.again(record, made=record.made - base + outbox.age_base)
                if record.key in old.seen:
                    outbox.pending.seen[new.key] = old.seen[record.key]
        outbox.pending.lost += old.lost
        outbox.pending.dead += old.dead
        outbox.pending.seen_on_their_way |= old.seen_on_their_way

    def _forget_announced(self) -> None:
        """Have all gaps named again: the numbers under which they were announced no longer hold."""
        for numbered in (self._outbox.announced, self._outbox.unsaid, self._outbox.pending.gone):
            numbered.clear()

    def _write_anew(self) -> _Numbers:
        """Have a fresh store told what the damaged one knew, all that is in memory; return the numbers of that."""
        pending, known = self._outbox.pending, self._keeping.put_aside
        assert known is not None, "it was put aside under the identity that is known here"
        self._forget_announced()
        pending.undead.clear()
        there = {priority: NumberRanges() for priority in Priority}
        for lane in pending.lanes.values():
            for record in [*lane.flying.values(), *lane.ready]:
                if record.key not in lane.fresh:
                    lane.fresh[record.key] = record
                    pending.fresh_bytes += len(record.body)
            for key in lane.fresh:
                there[lane.priority].add(key & SEQ_MASK, key & SEQ_MASK)
            lane.acked.clear()
            # the numbers up to there are named, and those beyond are not reserved yet
            lane.reserved = known.reserved[lane.priority]
            lane.next_seq = max(lane.next_seq, lane.reserved + 1)
        pending.replaced.clear()
        pending.notes.recall({})
        for reason, keys in pending.doomed.items():
            for first, last in runs(sorted(keys)):
                stream = stream_name(pending.name, Priority(first >> SEQ_BITS))
                pending.lost.append(Gap(stream, first & SEQ_MASK, last & SEQ_MASK, last - first + 1, reason))
        pending.doomed.clear()
        return there

    # -- getting back what was put aside

    async def _salvage(self, there: _Numbers) -> None:
        """Take over records from stores that were put aside, and name those that are neither there nor ``there``."""
        name, known = self._outbox.pending.name, self._keeping.put_aside
        found = {priority: NumberRanges() for priority in Priority}
        number, whole = 0, True
        self._unsalvaged = None
        async for piece in self._keeping.salvage():
            own = piece.outbox == name
            done = await self._keeping.read(partial(_take_in, piece if own else replace(piece, records=())))
            if done is None:
                self._unsalvaged = there  # it is done once more when the disk can be written
                return
            self._outbox.state = done
            if own:
                for record in piece.records:
                    found[Priority(record.key >> SEQ_BITS)].add(record.seq, record.seq)
            elif whole:
                whole = await self._take_in_as_new(piece.records)
            number += len(piece.records)
        if known is not None and known.name == name:
            self._continue(known, found, there)
        self._keeping.put_aside = None
        log.log(logging.WARNING if number else logging.DEBUG, "records_salvaged", extra={"count": number})
        await self._outbox.written()
        if whole and not (self._outbox.pending.lost or self._outbox.pending.notes.unwritten):
            await self._keeping.salvaged()

    async def _take_in_as_new(self, records: Iterable[Record]) -> bool:
        """Give records of another incarnation new numbers; return whether all are stored, or were sent meanwhile."""
        if self._outbox.pending.fresh_bytes > MEMORY_BYTES:
            return False
        taken: list[Record] = []
        for record in records:
            with contextlib.suppress(OutboxError):
                taken.append(self._outbox.again(record))
        await self._outbox.written()
        return not any(record.key in self._outbox.lanes[record.key >> SEQ_BITS].fresh for record in taken)

    def _continue(self, known: Identity, found: _Numbers, there: _Numbers) -> None:
        """Name the numbers between what was settled and what was in use that are missing; send what was found."""
        for priority, numbers in found.items():
            have = numbers, there.get(priority, NumberRanges())
            missing = list(holes(have, known.settled[priority] + 1, known.reserved[priority]))
            stream = stream_name(known.name, priority)
            gaps = [Gap(stream, first, last, last - first + 1, "damaged") for first, last in missing]
            if len(gaps) > MAX_GAPS:  # the rest as one
                rest = missing[MAX_GAPS:]
                gaps[MAX_GAPS:] = [Gap(stream, rest[0][0], rest[-1][1], count(rest), "damaged")]
            self._outbox.pending.lost += gaps
            if numbers:
                lane = self._outbox.lanes[priority]
                lane.rewind(pack(priority, next(iter(numbers))[0]))
                lane.behind = True


def _take_in(piece: Salvaged, store: Store) -> Committed:
    return store.take_in(piece)
