"""Writes what has to be written, when it has to be: at once while offline, as late as allowed while online."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final, TypeVar

from edge_agent.core.batch import Committed
from edge_agent.core.timebase import DurationNs, MonotonicNs, later, seconds, to_seconds
from edge_agent.ports import Clock
from edge_agent.services.keeping import Keeping
from edge_agent.services.outbox import ACKED_AT_ONCE, MEMORY_BYTES, Outbox

log = logging.getLogger(__name__)
T = TypeVar("T")

DELETE_WITHIN: Final = seconds(1)


class OutboxWriter:
    """The one who writes; while the disk fails it waits until the store was mended."""

    def __init__(self, outbox: Outbox, keeping: Keeping, *, clock: Clock) -> None:
        self._outbox = outbox
        self._keeping = keeping
        self._clock = clock

    async def run(self) -> None:
        """Write until cancelled; then write all there is, and close the store."""
        async with asyncio.TaskGroup() as group:
            commit = group.create_task(self._commit())
            try:
                while True:
                    await asyncio.shield(commit)
                    await self._until_due()
                    commit = group.create_task(self._commit())
            finally:
                await asyncio.wait((commit,))  # what is being written must not be written twice
                await self._close()

    async def _close(self) -> None:
        outbox = self._outbox
        while await self._commit(everything=True):
            pass
        clean: dict[str, object] | None = None
        if self._keeping.fault is None and not any(lane.fresh for lane in outbox.lanes.values()):
            clean = {"clean": 1, "age": outbox.age(), "boots": outbox.past.dump()}
            clean |= {f"reserved{lane.priority:d}": lane.next_seq - 1 for lane in outbox.lanes.values()}
            clean |= {f"settled{priority:d}": seq for priority, seq in outbox.settled().items()}
        await self._keeping.close(clean)

    async def _until_due(self) -> None:
        while True:
            self._outbox.due.clear()
            due = self._due_at()
            self._outbox.watched = self._outbox.pending.fresh_bytes > 0
            now = self._clock.monotonic()
            if due is not None and due <= now:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else to_seconds(DurationNs(due - now))):
                    await self._outbox.due.wait()

    def _due_at(self) -> MonotonicNs | None:
        """Return when something has to be written; ``None`` = not before something happens."""
        if not self._keeping.can_write:
            return None  # until it was mended
        outbox, pending, now = self._outbox, self._outbox.pending, self._clock.monotonic()
        acked = sum(len(lane.acked) for lane in outbox.lanes.values())
        crowded = acked >= ACKED_AT_ONCE
        if pending.has_news or pending.wants_numbers or outbox.flushes or outbox.noting or crowded:
            return now
        deleted = later(outbox.acked_since, DELETE_WITHIN) if acked and outbox.acked_since is not None else None
        return min((due for due in (self._records_due_at(now), deleted) if due is not None), default=None)

    def _records_due_at(self, now: MonotonicNs) -> MonotonicNs | None:
        """Return when the records that are in memory alone have to be written; ``None`` = there are none."""
        outbox = self._outbox
        made = [next(iter(lane.fresh.values())).made for lane in outbox.lanes.values() if lane.fresh]
        if not made:
            return None
        if outbox.urgent or not outbox.online or outbox.pending.fresh_bytes > MEMORY_BYTES:
            return now
        return later(MonotonicNs(now - (outbox.age() - min(made))), outbox.config.commit)

    async def _commit(self, *, everything: bool = False) -> bool:
        """Write what is due; return whether anything was written."""
        flushes, noting = self._outbox.flushes[:], self._outbox.noting[:]
        now = self._clock.monotonic()
        due = self._records_due_at(now)
        records = everything or bool(flushes) or (due is not None and due <= now)
        batch = self._outbox.pending.collect(
            records=records, settled=self._outbox.settled(), may_drop=self._outbox.config.when_full == "drop_oldest"
        )
        whole = len(batch.records) == sum(len(lane.fresh) for lane in self._outbox.lanes.values())
        if batch.is_empty():
            _resolve(self._outbox.flushes, flushes, value=None)
            _resolve(self._outbox.noting, noting, value=True)
            return False
        self._outbox.urgent = False
        self._outbox.acked_since = None
        done = await self._keeping.commit(batch)
        if done is None:
            self._outbox.urgent = True
            self._outbox.unnoted()
            self._outbox.tell_condition()
            _resolve(self._outbox.flushes, self._outbox.flushes[:], value=None)
            _resolve(self._outbox.noting, self._outbox.noting[:], value=False)
            return False
        durable = self._outbox.pending.written(batch, done)
        self._note(done)
        for record in durable:
            self._outbox.answer(record)
        if any(lane.acked for lane in self._outbox.lanes.values()):
            self._outbox.acked_since = self._clock.monotonic()
        self._outbox.urgent = self._outbox.urgent or any(
            r.always for lane in self._outbox.lanes.values() for r in lane.fresh.values()
        )
        self._outbox.tell_condition()
        self._outbox.moved()
        _resolve(self._outbox.noting, noting, value=True)
        if whole:
            _resolve(self._outbox.flushes, flushes, value=None)
        return True

    def _note(self, done: Committed) -> None:
        self._outbox.state = done
        for dropped in done.dropped:
            self._outbox.dropped[dropped.reason] += dropped.count
            log.warning("records_dropped", extra={"count": dropped.count, "reason": dropped.reason})
            self._outbox.unannounce(dropped.first, dropped.last)
            self._outbox.pending.evict(dropped)


def _resolve(waiting: list[asyncio.Future[T]], served: list[asyncio.Future[T]], *, value: T) -> None:
    """Tell those who waited, which are the first of all that wait."""
    del waiting[: len(served)]
    for one in served:
        if not one.done():
            one.set_result(value)
