"""What the outbox needs beside its daily work: mending its store, getting records back, naming what will not come."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Final

from edge_agent.core.batch import Identity, Salvaged
from edge_agent.core.records import SEQ_BITS, SEQ_MASK, Gap, Priority, pack, runs, stream_name
from edge_agent.core.timebase import later, seconds
from edge_agent.errors import OutboxError
from edge_agent.ports import Clock, Store
from edge_agent.services.keeping import Keeping
from edge_agent.services.outbox import Outbox

log = logging.getLogger(__name__)

LOOK_EVERY: Final = seconds(10)
SECEDE_AFTER: Final = 6
"""So many looks at records that wait for numbers, and the outbox goes on without the store."""

GAPS_AT_ONCE: Final = 50
GAP_BYTES: Final = 160  # of an event, about
SHRINK_PAGES: Final = 1000
MAX_GAPS: Final = 100


class Upkeep:
    """Looks after the outbox every few seconds."""

    def __init__(self, outbox: Outbox, keeping: Keeping, *, clock: Clock) -> None:
        self._outbox = outbox
        self._keeping = keeping
        self._clock = clock
        self._stuck = 0  # so many looks in a row have found records that wait for numbers

    async def run(self) -> None:
        """Take over what was left by stores that were put aside, then look after this one, until cancelled."""
        await self._salvage(self._keeping.put_aside)
        while True:
            await self._clock.sleep_until(later(self._clock.monotonic(), LOOK_EVERY))
            if self._keeping.fault is not None or not self._keeping.is_open:
                await self._mend()
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
        with contextlib.suppress(OutboxError):  # no room for the event: the next look tries again
            while some := outbox.unsaid[:most]:
                record = outbox.say({"gaps": [asdict(gap) for _, gap in some]})
                del outbox.unsaid[:most]
                outbox.announced[record.key] = some

    async def _drop_expired(self) -> None:
        cutoff = self._outbox.age() - self._outbox.config.max_age
        oldest = self._outbox.state.oldest
        if oldest is not None and oldest < cutoff:
            self._outbox.pending.doom(await self._keeping.read(partial(_expired, cutoff)) or (), "expired")
            self._outbox.must_write()

    # -- faults

    async def _mend(self) -> None:
        waits = False
        if not self._keeping.is_open:
            waits = await self._adopt()
        elif await self._keeping.mend(self._outbox.identity):
            await self._salvage(self._keeping.put_aside, self._write_anew())
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
        self._outbox.hushed = True  # a number that may have been sent cannot be changed
        if self._is_anything_sent():
            return True
        facts = await self._keeping.open()
        if facts is not None:
            self._renumber(partial(self._outbox.take_over, facts))
            await self._salvage(self._keeping.put_aside)
        return False

    async def _secede(self) -> bool:
        """Go on without the store: numbers that cannot be reserved cannot be sent, under a name of its own all can.

        Returns whether that has to wait for what was sent.
        """
        self._outbox.hushed = True
        if self._is_anything_sent():
            return True
        await self._keeping.abandon()
        self._renumber(self._outbox.begin_alone)
        return False

    def _is_stuck(self) -> bool:
        """Return whether records have had to wait for numbers for long: most faults pass sooner."""
        lanes = self._outbox.lanes.values()
        stuck = self._keeping.fault is not None and any(lane.is_out_of_numbers for lane in lanes)
        self._stuck = self._stuck + 1 if stuck else 0
        return self._stuck >= SECEDE_AFTER

    def _is_anything_sent(self) -> bool:
        return any(lane.flying for lane in self._outbox.lanes.values())

    def _renumber(self, begin: Callable[[], None]) -> None:
        """Begin anew, and take over what is in memory and was not sent yet."""
        outbox, old = self._outbox, self._outbox.pending
        outbox.announced.clear()
        begin()
        for lane in old.lanes.values():
            for record in lane.fresh.values():
                new = outbox.again(record)
                if record.key in old.seen:
                    outbox.pending.seen[new.key] = old.seen[record.key]
        outbox.pending.lost += old.lost
        outbox.pending.dead += old.dead

    def _write_anew(self) -> dict[Priority, list[tuple[int, int]]]:
        """Have a fresh store told what the damaged one knew, all that is in memory; return the numbers of that."""
        pending, known = self._outbox.pending, self._keeping.put_aside
        there: dict[Priority, list[tuple[int, int]]] = {}
        for lane in pending.lanes.values():
            for record in [*lane.flying.values(), *lane.ready]:
                if record.key not in lane.fresh:
                    lane.fresh[record.key] = record
                    pending.fresh_bytes += len(record.body)
            there[lane.priority] = runs(sorted(key & SEQ_MASK for key in lane.fresh))
            lane.acked.clear()
            if known is not None:  # the numbers up to there are named
                lane.next_seq = max(lane.next_seq, known.reserved[lane.priority] + 1)
            lane.reserved = lane.next_seq - 1
        pending.replaced.clear()
        for reason, keys in pending.doomed.items():
            for first, last in runs(sorted(keys)):
                stream = stream_name(pending.name, Priority(first >> SEQ_BITS))
                pending.lost.append(Gap(stream, first & SEQ_MASK, last & SEQ_MASK, last - first + 1, reason))
        pending.doomed.clear()
        return there

    # -- getting back what was put aside

    async def _salvage(
        self, known: Identity | None, there: Mapping[Priority, list[tuple[int, int]]] | None = None
    ) -> None:
        """Take over records from stores that were put aside, and name those that are neither there nor ``there``."""
        pieces = self._keeping.salvage()
        found: dict[Priority, list[tuple[int, int]]] = {priority: [] for priority in Priority}
        count = 0
        while (piece := await self._keeping.step(pieces)) is not None:
            if piece.outbox != self._outbox.pending.name:
                await self._take_in_as_new(piece)
            elif await self._keeping.read(partial(_take_in, piece)) is not None:
                for first, last in runs(record.key for record in piece.records):
                    found[Priority(first >> SEQ_BITS)].append((first & SEQ_MASK, last & SEQ_MASK))
            count += len(piece.records)
        if known is not None and known.name == self._outbox.pending.name:
            for priority, ranges in found.items():
                self._name_missing(priority, sorted([*ranges, *(there or {}).get(priority, ())]), known)
                self._send_from(priority, ranges)
        self._keeping.put_aside = None
        log.log(logging.WARNING if count else logging.DEBUG, "records_salvaged", extra={"count": count})
        await self._outbox.written()
        if not self._outbox.pending.lost:  # else once more after the next start
            await self._keeping.salvaged()

    async def _take_in_as_new(self, piece: Salvaged) -> None:
        await self._keeping.read(partial(_take_in, Salvaged(piece.outbox, (), piece.gaps, piece.seen, piece.dead)))
        last = None
        for record in piece.records:
            try:
                last = self._outbox.again(record)
            except OutboxError:
                break
        if last is not None:
            self._outbox.must_write()
            await self._outbox.durable(last)

    def _send_from(self, priority: Priority, ranges: list[tuple[int, int]]) -> None:
        if ranges:
            lane = self._outbox.lanes[priority]
            lane.rewind(pack(priority, min(first for first, _ in ranges)))
            lane.behind = True

    def _name_missing(self, priority: Priority, there: list[tuple[int, int]], known: Identity) -> None:
        """Name the numbers between what was settled and what was in use that were not found."""
        missing: list[tuple[int, int]] = []
        next_one = known.settled[priority] + 1
        for first, last in there:
            if first > next_one:
                missing.append((next_one, first - 1))
            next_one = max(next_one, last + 1)
        if next_one <= known.reserved[priority]:
            missing.append((next_one, known.reserved[priority]))
        stream = stream_name(known.name, priority)
        gaps = [Gap(stream, first, last, last - first + 1, "damaged") for first, last in missing]
        if len(gaps) > MAX_GAPS:  # the rest as one
            count = sum(gap.count for gap in gaps[MAX_GAPS:])
            gaps[MAX_GAPS:] = [Gap(stream, gaps[MAX_GAPS].first, gaps[-1].last, count, "damaged")]
        self._outbox.pending.lost += gaps


def _expired(before: int, store: Store) -> list[int]:
    return store.expired(before)


def _take_in(piece: Salvaged, store: Store) -> object:
    return store.take_in(piece)
