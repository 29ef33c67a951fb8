"""The outbox: takes records in, makes them durable, and knows what became of each.

An accepted record is durable as soon as the broker has acknowledged it or the disk has it, whichever comes first. So
while the device is online, records live in memory for up to ``outbox.commit`` and most of them are never written;
offline they are written at once, in groups as large as the disk is slow.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

import orjson

from edge_agent.core.batch import Committed, DeadLetter, Identity, StoreFacts
from edge_agent.core.config_models import Outbox as OutboxConfig
from edge_agent.core.events import OutboxData, Stamp
from edge_agent.core.lane import Lane
from edge_agent.core.notes import Notes
from edge_agent.core.pending import Pending
from edge_agent.core.placing import Past
from edge_agent.core.records import GIVEN, SEQ_BITS, SEQ_MASK, TIME_STATES, Gap, Priority, Record, stream_name
from edge_agent.core.submission import Submission
from edge_agent.core.timebase import DurationNs, MonotonicNs, to_seconds
from edge_agent.errors import OutboxError, StoreFault
from edge_agent.ports import Clock
from edge_agent.services.keeping import Keeping
from edge_agent.services.once_only import OnceOnly

log = logging.getLogger(__name__)

MEMORY_BYTES: Final = 1 << 20
"""What waits in memory before it is written although the broker may take it soon; and all that there is room for while
the disk fails."""

ACKED_AT_ONCE: Final = 1000
"""So many records that the broker has are deleted without waiting for more."""

BUSY_BYTES: Final = 8 << 20
"""Beyond so much that the disk has not kept up with, nothing more is accepted."""

_REFUSE_ABOVE: Final = {Priority.BULK: 0.9, Priority.NORMAL: 0.95, Priority.CRITICAL: 1.0}


class Outbox:
    """Records on their way to the broker.

    Attributes:
        keeping: the store.
        config: the ``[outbox]`` section.
        state: what is stored.
        pending: what the store has yet to be told.
        announced: per key of an event that names gaps, these gaps.
        unsaid: gaps that the store takes to be announced, and whose event is still to come.
        due: set whenever there may be something new to write.
        urgent: whether it must not wait.
        watched: whether it is known already when the oldest record in memory must be written.
        acked_since: since when there are records to be deleted; ``None`` = there are none.
        flushes: those who wait until all was written; ``noting``: until the notes were, or could not be.
        age_base: the outbox's age when the counter was zero.
        past: what is known of true time at other ages.
        hushed: whether nothing may be sent, for numbers are about to change; ``purging``: for records are.
        online: whether there is a session to send on.
        came: called with each record put online that is not critical; ``moved``: when there may be something to send.
        said: called whenever ``conditions`` changes; ``unnoted``: when notes could not be written, before that is said.
        bytes_sent: payload bytes that brokers have acknowledged since the start.
    """

    def __init__(
        self, keeping: Keeping, *, config: OutboxConfig, clock: Clock, boot_id: str, new_name: Callable[[], str]
    ) -> None:
        """Prepare; call ``open`` before anything else.

        Args:
            keeping: the store.
            config: the ``[outbox]`` section.
            clock: where the time comes from.
            boot_id: the kernel's; a steady counter means something only under one.
            new_name: names an incarnation; never the same twice.
        """
        self.keeping = keeping
        self.config = config
        self._clock = clock
        self._boot_id = boot_id
        self._new_name = new_name
        self.state = Committed()
        self.age_base = 0
        self.past = Past((), since=0)
        self.due = asyncio.Event()
        self.urgent = self.watched = self.hushed = self.purging = self.online = False
        self.acked_since: MonotonicNs | None = None
        self._once = OnceOnly(keeping, lambda: self.pending.seen_on_their_way, self._put_keyed)
        self.flushes: list[asyncio.Future[None]] = []
        self.noting: list[asyncio.Future[bool]] = []
        self.unnoted: Callable[[], None] = lambda: None
        self.announced: dict[int, list[tuple[int, Gap]]] = {}
        self.unsaid: list[tuple[int, Gap]] = []
        self._condition: StoreFault | None = None
        self._notes = Notes()
        self.pending = Pending("", {}, self._notes)
        self.dropped: Counter[str] = Counter()
        self.came: Callable[[], None] = lambda: None
        self.moved: Callable[[], None] = lambda: None
        self.said: Callable[[], None] = lambda: None
        self.bytes_sent = 0

    # -- life

    async def open(self) -> None:
        """Open the store; without one, go on in memory alone."""
        self._loop = asyncio.get_running_loop()
        facts = await self.keeping.open()
        if facts is None:
            self.begin_alone()
        else:
            self.take_over(facts)

    def begin_alone(self) -> None:
        """Begin without a store, under a name that is never used again: so all its numbers may be used."""
        self.state, self.past = Committed(), Past((), since=self.age_base)
        self._notes.recall({})
        self.pending = Pending(self._new_name(), {p: Lane(p, used=0, first=None) for p in Priority}, self._notes)
        for lane in self.lanes.values():
            lane.reserved = SEQ_MASK

    def take_over(self, facts: StoreFacts) -> None:
        """Begin with what a store knows."""
        self.state = facts.state
        lanes: dict[int, Lane] = {p: Lane(p, used=facts.used[p], first=facts.first[p]) for p in Priority}
        self._notes.recall(facts.notes)
        self.pending = Pending(facts.name, lanes, self._notes)
        self.age_base = facts.boot_base
        if facts.boot != self._boot_id:
            self.age_base = facts.age
            self.pending.meta = {"boot": self._boot_id, "boot_base": self.age_base}
        self.past = Past(facts.boots, since=self.age_base)
        self.pending.meta["boots"] = self.past.dump()

    def note(self, name: str, text: bytes | None, beside: Record | None = None) -> None:
        """Write something down for another part, or forget it; ``beside`` a record: both at one moment, or neither."""
        self._notes.put(name, text, beside)
        self.due.set()

    def noted(self) -> asyncio.Future[bool]:
        """Return a future that is done once the store has all that was noted down so far; ``False`` = it cannot now."""
        self.noting.append(done := self._loop.create_future())
        if not (self.keeping.can_write and self._notes.unwritten):
            self.noting.pop().set_result(self.keeping.can_write)
        return done

    @property
    def notes(self) -> Mapping[str, bytes]:
        """What other parts have written down, by name."""
        return self._notes.kept

    @property
    def lanes(self) -> dict[int, Lane]:
        """The records of each priority."""
        return self.pending.lanes

    def configure(self, config: OutboxConfig) -> None:
        """Use another configuration from now on."""
        self.config = config
        self.due.set()

    # -- in

    async def accept(self, submission: Submission) -> str:
        """See ``ports.Accept``."""
        if submission.key is not None:
            return await self._once.accept(submission.key, submission._replace(always=True))
        record = self.put(submission)
        if submission.latest:
            return await asyncio.shield(self.durable(record))  # it may be shared
        durable: asyncio.Future[str] = self._loop.create_future()
        record.waiter = durable
        return await durable

    def put(self, submission: Submission) -> Record:
        """Take a record in; it is durable when ``durable`` of it says so.

        Raises:
            OutboxError: there is no room for it.
        """
        lane, size = self.lanes[submission.priority], len(submission.data)
        if size > self.config.max_record or self.keeping.fault is not None or self.config.when_full == "refuse":
            self._check_room(submission)
        elif self.pending.fresh_bytes + size > max(BUSY_BYTES, size):
            raise OutboxError("the disk cannot keep up; try again later", word="busy")
        stamp = self._clock.now() if submission.time is None else Stamp(submission.time)
        record = Record(
            lane.base | lane.next_seq,
            submission.channel,
            submission.data,
            self.age(),
            stamp.time,
            TIME_STATES.index(stamp.state) if submission.time is None else GIVEN,
            stamp.error_ms,
            latest=submission.latest,
            extra=submission.members(),
            always=submission.always,
        )
        if submission.latest and self.pending.take_place(record):
            self.urgent = self.urgent or record.always
            self.due.set()
        else:
            self._append(lane, record)
            if self.online and submission.priority:
                self.came()
        return record

    def _put_keyed(self, key: bytes, submission: Submission) -> asyncio.Future[str]:
        record = self.put(submission)
        self.pending.seen.setdefault(record.key, []).append(key)
        return self.durable(record)

    def again(self, record: Record, *, made: int | None = None) -> Record:
        """Take in once more, under a new number, what could not go out under the one it had.

        Args:
            record: the record.
            made: the age at which it was made; ``None`` = not known, so that its time stays as it is.
        """
        lane = self.lanes[record.key >> SEQ_BITS]
        new = replace(record, key=lane.base | lane.next_seq, made=self.age() if made is None else made)
        if made is None and not new.time_state:
            new.time_state = GIVEN
        self._append(lane, new)
        return new

    def _append(self, lane: Lane, record: Record) -> None:
        pending = self.pending
        pending.fresh_bytes += len(record.body)
        lane.next_seq += 1
        lane.add(record, may_be_ready=self.online)
        self.urgent = self.urgent or record.always
        known = self.watched and self.online and not record.always and not lane.wants_numbers
        if not known or pending.fresh_bytes > MEMORY_BYTES:
            self.due.set()
        if self.online:
            self.moved()

    def durable(self, record: Record) -> asyncio.Future[str]:
        """Return a future of the record's id that is done once it is on disk or acknowledged.

        It fails with ``OutboxError`` if the record is lost before: memory was full while the disk failed.
        """
        waiting = self.lanes[record.key >> SEQ_BITS].fresh.get(record.key)
        shared = waiting or record
        shared.waiter = shared.waiter or self._loop.create_future()
        if waiting is None:
            self.answer(record)
        future: asyncio.Future[str] = shared.waiter
        return future

    def say(self, data: Mapping[str, object]) -> Record | None:
        """Publish an event about the outbox itself; ``None`` = there is no room for it."""
        with contextlib.suppress(OutboxError):
            return self.put(Submission("event/outbox", orjson.dumps(data), Priority.CRITICAL))
        return None

    def _check_room(self, submission: Submission) -> None:
        size = len(submission.data)
        if size > self.config.max_record:
            text = f"the record has {size} bytes; outbox.max_record allows {self.config.max_record}"
            raise OutboxError(text, word="too_large")
        room = self.config.max_bytes * _REFUSE_ABOVE[submission.priority]
        if self.config.when_full == "refuse" and self.state.used + self.pending.fresh_bytes + size > room:
            raise OutboxError("the outbox is full, and outbox.when_full is refuse", word="full")
        while self.keeping.fault is not None and self.pending.fresh_bytes + size > max(MEMORY_BYTES, size):
            lost = None if self.config.when_full == "refuse" else self.pending.lose_oldest()
            if lost is None:
                text = f"the disk fails ({self.keeping.fault.value}), and memory is full"
                raise OutboxError(text, word="full")
            self.unannounce(lost.key, lost.key)
            self.dropped["memory_full"] += 1
            if lost.waiter is not None and not lost.waiter.done():
                lost.waiter.set_exception(OutboxError("dropped: the disk fails and memory is full", word="lost"))

    # -- out: for the drain

    def went_online(self) -> None:
        """Let records go."""
        self.online = True
        self.due.set()

    def went_offline(self) -> None:
        """Take back what was on its way: nobody knows what became of it."""
        self.online = False
        for lane in self.lanes.values():
            lane.rewind()
        self.due.set()

    def left(self, records: Iterable[Record]) -> None:
        """Take note that records were sent: from now on no newer one takes their place."""
        for record in records:
            self.lanes[record.key >> SEQ_BITS].flying[record.key] = record
            self.pending.leave_place(record)

    def delivered(self, records: Iterable[Record]) -> None:
        """Take note that the broker has records."""
        for record in records:
            if record.key in self.announced:
                self.pending.gone += [number for number, _ in self.announced.pop(record.key)]
            self._settle(record)
            self.bytes_sent += len(record.body)

    def bury(self, record: Record, reason: int) -> None:
        """Move a record that no broker takes to the dead letters, and name its number."""
        self._settle(record, durable=False)  # that it is once it is among the dead letters
        if not self.unannounce(record.key, record.key):
            self.pending.dead.append(DeadLetter(0, reason, record))
        self.pending.lose(record, "dead_letter")
        self.dropped["dead_letter"] += 1
        self.must_write()
        log.warning("record_undeliverable", extra={"channel": record.channel, "reason": f"0x{reason:02X}"})

    def unannounce(self, first: int, last: int) -> bool:
        """Have the gaps named again whose event will not be delivered; return whether there are any."""
        for key in (keys := [key for key in self.announced if first <= key <= last]):
            self.unsaid += self.announced.pop(key)
        return bool(keys)

    def _settle(self, record: Record, *, durable: bool = True) -> None:
        if self.pending.settle(record) and durable:
            self.answer(record)
        lane = self.lanes[record.key >> SEQ_BITS]
        if lane.acked and self.acked_since is None:
            self.acked_since = self._clock.monotonic()
            self.due.set()
        elif len(lane.acked) == ACKED_AT_ONCE:
            self.due.set()

    def answer(self, record: Record) -> None:
        """Tell whoever waits for a record that it is durable."""
        if record.waiter is not None and not record.waiter.done():
            record.waiter.set_result(self.pending.id_of(record.key))

    # -- what it says of itself

    def measure(self) -> OutboxData:
        """Return the outbox's part of the heartbeat."""
        state, fresh = self.state, [record.made for lane in self.lanes.values() for record in lane.fresh.values()]
        oldest = min([*fresh, *(() if state.oldest is None else (state.oldest,))], default=None)
        return OutboxData(
            records=state.records + len(fresh),
            bytes=state.used + self.pending.fresh_bytes,
            oldest_age_s=None if oldest is None else round(to_seconds(DurationNs(self.age() - oldest)), 1),
            dropped=sum(self.dropped.values()),
            settled={stream_name(self.pending.name, p): n for p, n in self.settled().items() if n > 0},
            bytes_sent=self.bytes_sent,
        )

    def conditions(self) -> list[str]:
        """Return what is wrong with it, as stable words."""
        return [] if self.keeping.fault is None else [f"outbox: {self.keeping.fault.value}"]

    def must_write(self) -> None:
        """Have what waits written now."""
        self.urgent = self.pending.fresh_bytes > 0
        self.due.set()

    async def written(self) -> None:
        """Return once the store has all that is known now, or cannot have it."""
        if self.keeping.can_write:
            flushed: asyncio.Future[None] = self._loop.create_future()
            self.flushes.append(flushed)
            self.must_write()
            await flushed

    def tell_condition(self) -> None:
        """Publish, once, that the disk fails or no longer fails."""
        fault = self.keeping.fault
        if fault is not self._condition:
            self._condition = fault
            self.say({"state": "ok"} if fault is None else {"state": "degraded", "reason": fault.value})
            self.said()

    def identity(self) -> Identity:
        """Return what a fresh store needs in order to continue this outbox."""
        used = {lane.priority: max(lane.next_seq - 1, lane.reserved) for lane in self.lanes.values()}
        return Identity(self.pending.name, used, self.settled())

    def settled(self) -> dict[Priority, int]:
        """Return per priority the number up to which all is delivered, or named by an event that was delivered."""
        announced = [gap for found in (*self.announced.values(), self.unsaid) for _, gap in found]
        settled = self.pending.settled([*self.state.gaps, *announced])
        known = self.keeping.put_aside
        if known is not None and known.name == self.pending.name:  # what is in it is neither sent nor named yet
            settled = {priority: min(seq, known.settled[priority]) for priority, seq in settled.items()}
        return settled

    def age(self) -> int:
        """Return the outbox's age: it stands still only while the device is off, and nothing can set it."""
        return self.age_base + self._clock.raw()
