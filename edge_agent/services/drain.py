"""Sends what the outbox holds, most urgent stream first, each in order, as fast as the broker and the pace allow."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import Final

from edge_agent.core.connection import ClosedBy
from edge_agent.core.events import CONTENT_TYPE
from edge_agent.core.lane import Lane
from edge_agent.core.pace import Pace
from edge_agent.core.records import SEQ_BITS, SEQ_MASK, Encoder, Priority, Record, stream_name
from edge_agent.core.refusals import (
    CLOSES_THE_CONNECTION,
    NOT_AUTHORIZED,
    PACKET_TOO_LARGE,
    QUOTA_EXCEEDED,
    Answer,
    Isolation,
    Pauses,
    answer,
)
from edge_agent.core.timebase import DurationNs, MonotonicNs, later, seconds, to_seconds
from edge_agent.core.topics import Topics
from edge_agent.errors import TooLargeError
from edge_agent.ports import REFUSED_FROM, Clock, Message
from edge_agent.services.link import Link
from edge_agent.services.outbox import Outbox
from edge_agent.services.session import Session

log = logging.getLogger(__name__)

PAGE_ROWS: Final = 500
PAGE_BYTES: Final = 1 << 18
BATCH_CONTENT_TYPE: Final = "application/cloudevents-batch+json"
BATCH_BYTES: Final = 32 * 1024
FLUSH_WITHIN_S: Final = 3.0
FIRST_WAIT: Final = seconds(1)
LONGEST_WAIT: Final = seconds(60)
_LATER: Final = ""
"""In the place of a channel's name: what the broker could not take at the time."""


class Drain:
    """One session after another, for ever."""

    def __init__(self, outbox: Outbox, link: Link, *, topics: Topics, pace: Pace, pauses: Pauses, clock: Clock) -> None:
        """Prepare.

        Args:
            outbox: what is sent.
            link: where sessions come from.
            topics: of this device.
            pace: how fast a backlog may go.
            pauses: channels that are refused.
            clock: where the time comes from.
        """
        self._outbox = outbox
        self._link = link
        self._topics = topics
        self._pace = pace
        self._pauses = pauses
        self._clock = clock
        self._isolation = Isolation()
        self._wake = asyncio.Event()
        self._hungry = asyncio.Event()
        self._encoder = Encoder(topics.device, "")
        self._session: Session | None = None
        self._in_flight: dict[int, Record] = {}  # the first of each message that is not answered, as they were sent
        self._singly = 0  # so many records go without others in their message
        self._waits: dict[Priority, MonotonicNs] = {}  # until when the broker is given time
        self._wait = FIRST_WAIT
        self._late: dict[Priority, range] = {}  # numbers of which is known that they may come late
        self._told: set[tuple[str, str]] = set()  # streams and channels of which is known that they are held

    async def run(self) -> None:
        """Send until cancelled; then give what is on its way a moment."""
        self._outbox.moved = self._wake.set
        self._outbox.came = self._pace.record_was_put
        while True:
            session = await self._link.session()
            await self._serve(session)

    async def _serve(self, session: Session) -> None:
        self._pace.connected(self._clock.monotonic())
        self._session, self._in_flight, self._singly = session, {}, 0
        self._outbox.went_online()
        try:
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(self._read_ahead(), name="drain-read")
                over = group.create_task(self._wake_when_over(session), name="drain-over")
                try:
                    while not session.over.is_set():
                        until = self._fill(session)
                        if self._in_flight or session.connection.has_room():
                            await self._pause(until)
                        elif not await session.connection.room():  # others have filled the window
                            await session.over.wait()
                except asyncio.CancelledError:
                    await self._flush(session)
                    raise
                finally:
                    reading.cancel()
                    over.cancel()
            if session.closing is not None and session.closing.by in (ClosedBy.PEER, ClosedBy.SILENCE):
                self._judge()
        finally:
            self._waits.clear()
            self._outbox.went_offline()

    async def _wake_when_over(self, session: Session) -> None:
        await session.over.wait()
        self._wake.set()

    async def _pause(self, until: MonotonicNs | None) -> None:
        if until is None:
            await self._wake.wait()
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(to_seconds(DurationNs(until - self._clock.monotonic())), 0)):
                    await self._wake.wait()
        self._wake.clear()

    async def _flush(self, session: Session) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_WITHIN_S):
                while not session.over.is_set():
                    self._fill(session)
                    if not self._in_flight:
                        return
                    await self._wake.wait()
                    self._wake.clear()

    async def _read_ahead(self) -> None:
        while True:
            await self._hungry.wait()
            self._hungry.clear()
            for lane in list(self._outbox.lanes.values()):
                if lane.wants_page and await self._read_on(lane):
                    self._wake.set()

    async def _read_on(self, lane: Lane) -> bool:
        """Have the store read beyond a lane's cursor; return whether it could be read."""
        generation, cursor, size = lane.generation, lane.cursor, min(PAGE_BYTES, self._outbox.config.max_bytes // 8)
        lane.reading = generation
        page = await self._outbox.keeping.read(
            lambda store: store.page(lane.priority, cursor, rows=PAGE_ROWS, max_bytes=size)
        )
        if page is None and self._outbox.keeping.is_open:
            return False  # it is mended before anything else of this lane goes
        rows, damaged, at_end = page or ([], [], True)
        lane.take_page(rows, generation=generation, at_end=at_end, skip=damaged)
        if damaged:
            self._outbox.pending.doom(damaged, "damaged")
            self._outbox.must_write()
        return True

    # -- sending

    def _fill(self, session: Session) -> MonotonicNs | None:
        """Send what may go now; return when there may be more without anything happening, ``None`` = only then."""
        now = self._clock.monotonic()
        if self._outbox.hushed or self._outbox.purging:
            return None
        if self._encoder.outbox != self._outbox.pending.name:
            self._encoder = Encoder(self._topics.device, self._outbox.pending.name)
        self._try_again(now)
        dues = [self._pauses.next_over(now), *(until for until in self._waits.values() if until > now)]
        for lane in self._outbox.lanes.values():
            due = self._send_lane(session, lane, now)
            if due is not None:
                dues.append(due)
            if lane.wants_page:
                self._hungry.set()
        if not any(lane.ready or lane.behind for lane in self._outbox.lanes.values()):
            self._pace.nothing_waits()
        return min((due for due in dues if due is not None), default=None)

    def _send_lane(self, session: Session, lane: Lane, now: MonotonicNs) -> MonotonicNs | None:
        """Send from one lane; return when its pace allows more."""
        if lane.priority in self._waits:
            return None
        while lane.ready and session.connection.has_room():
            record = lane.ready[0]
            if (record.key & SEQ_MASK) > lane.reserved or (self._isolation.alone and self._in_flight):
                return None
            if record.always and record.key in lane.fresh and self._outbox.keeping.can_write:
                return None  # its turn comes when it is on the disk
            if not self._pauses.may_go(record.channel, now):
                self._hold(lane, [lane.pop()])
                continue
            if not self._may_take(lane, now):
                return self._pace.next_token(now)
            self._send(session, self._next_message(lane))
        return None

    def _may_take(self, lane: Lane, now: MonotonicNs) -> bool:
        return lane.priority is Priority.CRITICAL or self._pace.take(now)

    def _next_message(self, lane: Lane) -> list[Record]:
        records = [lane.pop()]
        size, most = len(records[0].body), self._outbox.config.batch
        while (
            len(records) < most
            and not records[0].correlation
            and lane.ready
            and not self._singly
            and not self._isolation.alone
        ):
            record = lane.ready[0]
            size += len(record.body)
            another = (
                record.channel != records[0].channel or record.correlation or record.key & SEQ_MASK > lane.reserved
            )
            if another or size > BATCH_BYTES or not self._may_take(lane, self._clock.monotonic()):
                break
            records.append(lane.pop())
        self._singly -= self._singly > 0
        return records

    def _send(self, session: Session, records: list[Record]) -> None:
        topic, correlation = self._topics.up(records[0].channel), records[0].correlation
        for record in records:
            self._outbox.past.correct(record)
        if self._outbox.config.batch > 1 and correlation is None:
            message = Message(topic, self._encoder.encode_many(records), content_type=BATCH_CONTENT_TYPE)
        else:
            payload = self._encoder.encode(records[0])
            message = Message(topic, payload, content_type=CONTENT_TYPE, correlation=correlation)
        try:
            answered = session.connection.send(message)
        except TooLargeError:
            self._not_taken(records, PACKET_TOO_LARGE)
            return
        session.is_owed = True
        if session.unanswered is None:
            session.unanswered = True
        self._in_flight[records[0].key] = records[0]
        self._outbox.left(records)
        answered.add_done_callback(partial(self._answered, session, records))

    # -- what became of it

    def _answered(self, session: Session, records: list[Record], future: asyncio.Future[int | None]) -> None:
        reason = future.result()
        self._wake.set()
        if reason is None or session is not self._session:
            return  # the session is over, and the outbox takes them back
        channel = self._in_flight.pop(records[0].key).channel
        self._isolation.answered(records[0].key, channel)
        session.unanswered, session.is_owed = self._isolation.suspects, bool(self._in_flight)
        if reason < REFUSED_FROM:
            self._outbox.delivered(records)
            self._wait = FIRST_WAIT
            if self._pauses.accepted(channel):
                self._told = {(stream, name) for stream, name in self._told if name != channel}
                self._release(channel)
                self._outbox.said()
            return
        match answer(reason):
            case Answer.HOLD:
                self._refused(records)
            case Answer.DEAD:
                self._not_taken(records, reason)
            case _:
                self._put_off(records, reason)

    def _not_taken(self, records: list[Record], reason: int) -> None:
        if len(records) == 1:
            self._outbox.bury(records[0], reason)
            return
        lane = self._outbox.lanes[records[0].key >> SEQ_BITS]
        self._may_be_late(lane, records)
        lane.rewind(records[0].key)  # one of them it is: each goes alone
        self._singly = max(self._singly, len(records))

    def _refused(self, records: list[Record]) -> None:
        channel = records[0].channel
        if self._pauses.refused(channel, self._clock.monotonic()):
            log.warning("channel_refused", extra={"channel": channel, "reason": f"0x{NOT_AUTHORIZED:02X}"})
            self._outbox.said()
        self._hold(self._outbox.lanes[Priority(records[0].key >> SEQ_BITS)], records)

    def _hold(self, lane: Lane, records: list[Record]) -> None:
        """Let records wait for their channel, and say so the first time that one of their stream does."""
        for record in records:
            lane.flying.pop(record.key, None)
            lane.hold(record)
        stream, channel = stream_name(self._outbox.pending.name, lane.priority), records[0].channel
        if (stream, channel) not in self._told:
            self._told.add((stream, channel))
            first = lane.held[channel] & SEQ_MASK
            self._outbox.say({"held": {"stream": stream, "topic": channel, "first": first, "reason": NOT_AUTHORIZED}})

    def _put_off(self, records: list[Record], reason: int) -> None:
        now = self._clock.monotonic()
        lane = self._outbox.lanes[Priority(records[0].key >> SEQ_BITS)]
        if reason == QUOTA_EXCEEDED:
            self._pace.slow_down(now)
        self._may_be_late(lane, records)
        lane.held[_LATER] = min(lane.held.get(_LATER, records[0].key), records[0].key)
        if lane.priority not in self._waits:
            self._waits[lane.priority] = later(now, self._wait)
            self._wait = DurationNs(min(self._wait * 2, LONGEST_WAIT))

    def _may_be_late(self, lane: Lane, records: list[Record]) -> None:
        """Take back records that go again, and say so if others of their stream may have come before them by then."""
        numbers = [key & SEQ_MASK for key in lane.flying]
        for record in records:
            lane.flying.pop(record.key, None)
        known = self._late.get(lane.priority, range(0))
        if lane.flying and not (min(numbers) in known and max(numbers) in known):
            self._late[lane.priority] = range(min(numbers), max(numbers) + 1)
            stream = stream_name(self._outbox.pending.name, lane.priority)
            note = {"stream": stream, "first": min(numbers), "last": max(numbers), "reason": "busy"}
            self._outbox.say({"late": [note]})

    def _try_again(self, now: MonotonicNs) -> None:
        for channel in self._pauses.over(now):
            self._release(channel)
        for priority, until in list(self._waits.items()):
            lane = self._outbox.lanes[priority]
            if until <= now and not lane.flying:
                del self._waits[priority]
                if (first := lane.held.pop(_LATER, None)) is not None:  # the lane may be a new one
                    lane.rewind(first)

    def _release(self, channel: str) -> None:
        for lane in self._outbox.lanes.values():
            first = lane.held.pop(channel, None)
            if first is not None:
                lane.rewind(first)

    def _judge(self) -> None:
        """After a connection that ended before all was answered: is it one record's doing?"""
        record = next(iter(self._in_flight.values()), None)
        if record is None:
            return
        verdict = self._isolation.ended(record.key, record.channel)
        if verdict is Answer.DEAD:
            self._outbox.bury(record, CLOSES_THE_CONNECTION)
        elif verdict is Answer.HOLD:
            self._refused([record])
