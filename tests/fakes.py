"""Stand-ins for the outside world, in virtual time; the link's contract suite holds them to the real thing."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from edge_agent.core.config_types import BrokerUrl
from edge_agent.core.connection import Attempt, ClosedBy, Closing, ConnectionPolicy, ProtocolVersion
from edge_agent.core.events import Stamp
from edge_agent.core.timebase import (
    DurationNs,
    MonotonicNs,
    RawNs,
    UtcNs,
    WallNs,
    seconds,
)
from edge_agent.core.topics import Topics
from edge_agent.errors import ConnectFailedError, ConnectFailure, TooLargeError
from edge_agent.ports import REFUSED_FROM, Connection, Delivery, Limits, Message
from edge_agent.services.link import Link
from edge_agent.services.presence import Presence
from edge_agent.services.session import Session
from edge_agent.services.watchdog import Liveness

T = TypeVar("T")
EPOCH = UtcNs(seconds(1_800_000_000))


class FakeClock:
    """The loop's own time: virtual where the loop's is; UTC starts in 2027 and may be stepped."""

    def __init__(self) -> None:
        self.utc_offset = EPOCH

    def monotonic(self) -> MonotonicNs:
        """Return the loop's time."""
        return MonotonicNs(seconds(asyncio.get_running_loop().time()))

    def raw(self) -> RawNs:
        """Return the loop's time."""
        return RawNs(self.monotonic())

    def wall(self) -> WallNs:
        """Return the loop's time as UTC."""
        return WallNs(self.utc_offset + self.monotonic())

    def now(self) -> Stamp:
        """Return the loop's time as a time that nobody vouches for."""
        return Stamp(UtcNs(self.wall()))

    def pair(self) -> tuple[RawNs, WallNs]:
        """Return both at once."""
        return self.raw(), self.wall()

    def slept(self) -> DurationNs:
        """Return that it never slept."""
        return DurationNs(0)

    async def sleep_until(self, deadline: MonotonicNs) -> None:
        """Sleep in the loop's time."""
        while (left := deadline - self.monotonic()) > 0:  # noqa: ASYNC110  # time is what is waited for
            await asyncio.sleep(left / 1e9)


def matches(name: str, topic_filter: str) -> bool:
    """Return whether a topic matches a filter (MQTT 5 §4.7)."""
    topic, wanted = name.split("/"), topic_filter.split("/")
    for position, level in enumerate(wanted):
        if level == "#":
            return True
        if position >= len(topic) or level not in ("+", topic[position]):
            return False
    return len(topic) == len(wanted)


@dataclass(slots=True)
class _Session:
    filters: set[str] = field(default_factory=set)
    unacknowledged: dict[int, Delivery] = field(default_factory=dict)
    connection: FakeConnection | None = None
    packet_id: int = 0


@dataclass
class FakeBroker:
    """An MQTT broker in memory.

    Attributes:
        up: whether it accepts connections.
        down: host names under which it accepts none all the same.
        puback: the reason code of a publish to a topic; ``None`` = it is never acknowledged.
        verdict: the same of a message; ``puback`` unless it is set.
        closes_on: whether a message closes the connection, and is not taken.
        mute: whether what is taken is never acknowledged.
        suback: the reason code of a filter.
        log: everything published, in order.
    """

    up: bool = True
    down: set[str] = field(default_factory=set)
    puback: Callable[[str], int | None] = lambda _topic: 0
    verdict: Callable[[Message], int | None] | None = None
    closes_on: Callable[[Message], bool] = lambda _message: False
    mute: bool = False
    suback: Callable[[str], int] = lambda _filter: 1
    limits: Limits = field(default_factory=Limits)
    log: list[Message] = field(default_factory=list)
    retained: dict[str, bytes] = field(default_factory=dict)
    sessions: dict[str, _Session] = field(default_factory=dict)
    attempts: list[tuple[float, Attempt]] = field(default_factory=list)

    def crash(self) -> None:
        """Drop all connections and accept none."""
        self.up = False
        self.cut()

    def cut(self) -> None:
        """Drop all connections."""
        for session in list(self.sessions.values()):
            if session.connection is not None:
                session.connection.end(Closing(ClosedBy.PEER, detail="crash"))

    def route(self, message: Message) -> None:
        """Deliver to who subscribed, as a broker does with what anybody publishes."""
        self.log.append(message)
        if message.retain:
            self.retained[message.topic] = message.payload
        for session in self.sessions.values():
            if any(matches(message.topic, topic_filter) for topic_filter in session.filters):
                self._deliver(session, message.topic, message.payload, retained=message.retain)

    def _deliver(self, session: _Session, topic: str, payload: bytes, *, retained: bool) -> None:
        session.packet_id += 1
        delivery = Delivery(topic, payload, retained, 1, session.packet_id)
        session.unacknowledged[delivery.packet_id] = delivery
        if session.connection is not None:
            session.connection.arrive(delivery)


class FakeConnector:
    """Makes connections to one ``FakeBroker``, with what ``MqttConnector`` takes from its login."""

    def __init__(self, broker: FakeBroker, *, client_id: str = "fake", persistent: bool = True) -> None:
        self._broker = broker
        self._client_id = client_id
        self._persistent = persistent

    async def connect(self, attempt: Attempt, will: Message | None) -> Connection:
        """See ``ports.Connector``."""
        broker = self._broker
        broker.attempts.append((asyncio.get_running_loop().time(), attempt))
        await asyncio.sleep(0)
        if not broker.up or attempt.broker.host in broker.down:
            raise ConnectFailedError(ConnectFailure.UNREACHABLE, f"{attempt.broker}: down")
        session = broker.sessions.get(self._client_id)
        if session is not None and session.connection is not None:
            session.connection.end(Closing(ClosedBy.PEER, 0x8E))
        if session is None or not self._persistent:
            session = broker.sessions[self._client_id] = _Session()
        session.connection = FakeConnection(broker, session, attempt.protocol, will=will)
        for delivery in session.unacknowledged.values():
            session.connection.arrive(delivery)
        return session.connection

    async def reachable(self, broker: BrokerUrl) -> bool:
        """See ``ports.Connector``."""
        return self._broker.up and broker.host not in self._broker.down


class FakeConnection:
    """See ``ports.Connection``."""

    def __init__(
        self, broker: FakeBroker, session: _Session, protocol: ProtocolVersion, *, will: Message | None
    ) -> None:
        self._broker = broker
        self._session = session
        self._will = will
        self._inbound: deque[Delivery] = deque()
        self._changed = asyncio.Event()
        self._end: asyncio.Future[Closing] = asyncio.get_running_loop().create_future()
        self._pending: list[asyncio.Future[int | None]] = []
        self.protocol: ProtocolVersion = protocol
        self.limits = broker.limits

    def has_room(self) -> bool:
        """See ``ports.Connection``."""
        return len(self._pending) < min(100, self.limits.receive_maximum) and not self._end.done()

    async def room(self) -> bool:
        """See ``ports.Connection``."""
        while not self.has_room():
            if self._end.done():
                return False
            self._changed.clear()
            await self._changed.wait()
        return True

    def send(self, message: Message) -> asyncio.Future[int | None]:
        """See ``ports.Connection``; the acknowledgement comes a turn of the loop later."""
        if len(message.payload) > self.limits.maximum_packet_size:
            raise TooLargeError("too large")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int | None] = loop.create_future()
        if self._end.done():
            future.set_result(None)
            return future
        self._pending.append(future)
        loop.call_soon(self._answer, message, future)
        return future

    def _answer(self, message: Message, future: asyncio.Future[int | None]) -> None:
        if future.done():
            return
        if self._broker.closes_on(message):
            self.end(Closing(ClosedBy.PEER, detail="closed over a message"))
            return
        verdict = self._broker.verdict
        reason = self._broker.puback(message.topic) if verdict is None else verdict(message)
        if reason is not None and reason < REFUSED_FROM:
            self._broker.route(message)
        if reason is None or (self._broker.mute and reason < REFUSED_FROM):
            return
        self._pending.remove(future)
        future.set_result(reason)
        self._changed.set()

    async def subscribe_to(self, filters: Sequence[str]) -> list[int] | None:
        """See ``ports.Connection``."""
        await asyncio.sleep(0)
        if self._end.done():
            return None
        reasons = [self._broker.suback(name) for name in filters]
        if self._end.done():
            return None
        for name, reason in zip(filters, reasons, strict=True):
            if reason < REFUSED_FROM:
                self._session.filters.add(name)
                for topic, payload in list(self._broker.retained.items()):
                    if matches(topic, name):
                        self._broker._deliver(self._session, topic, payload, retained=True)
        return reasons

    def arrive(self, delivery: Delivery) -> None:
        """Take a message from the broker."""
        self._inbound.append(delivery)
        self._changed.set()

    async def receive(self) -> Delivery | None:
        """See ``ports.Connection``."""
        while not self._inbound:
            if self._end.done():
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._inbound.popleft()

    def acknowledge(self, delivery: Delivery) -> None:
        """See ``ports.Connection``."""
        if not self._end.done():
            self._session.unacknowledged.pop(delivery.packet_id, None)

    async def closed(self) -> Closing:
        """See ``ports.Connection``."""
        return await asyncio.shield(self._end)

    async def disconnect(self) -> None:
        """See ``ports.Connection``."""
        self._will = None
        self.end(Closing(ClosedBy.US))

    def end(self, closing: Closing) -> None:
        """End it, as the closing says."""
        if self._end.done():
            return
        self._session.connection = None
        self._end.set_result(closing)
        for future in self._pending:
            if not future.done():
                future.set_result(None)
        self._changed.set()
        if self._will is not None:
            self._broker.route(self._will)


class InlineWorker:
    """See ``ports.StoreWorker``; a call is made at once, or, while it is ``stalled``, when that ends."""

    def __init__(self) -> None:
        self._stalled: list[Callable[[], None]] | None = None

    def run(self, call: Callable[[], T]) -> asyncio.Future[T]:
        """See ``ports.StoreWorker``."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def work() -> None:
            try:
                value = call()
            except Exception as error:  # noqa: BLE001  # handed on to whoever waits
                if not done.cancelled():
                    done.set_exception(error)
            else:
                if not done.cancelled():
                    done.set_result(value)

        if self._stalled is None:
            work()
        else:
            self._stalled.append(work)
        return done

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """Make the calls of the block at its end."""
        self._stalled = []
        try:
            yield
        finally:
            calls, self._stalled = self._stalled, None
            for call in calls:
                call()

    def stop(self) -> None:
        """See ``ports.StoreWorker``."""


class ClosedDoor:
    """Takes no command."""

    def begin(self, session: Session) -> None:
        """See ``services.link.Door``."""

    async def advertise(self, _session: Session) -> bool:
        """See ``services.link.Door``."""
        return True

    async def serve(self, session: Session) -> None:
        """See ``services.link.Door``."""

    def hear(self, _delivery: Delivery) -> bool:
        """See ``services.link.Door``."""
        return False


def fake_link(
    broker: FakeBroker,
    *,
    clock: FakeClock,
    liveness: Liveness | None = None,
    groups: tuple[str, ...] = (),
    brokers: Sequence[BrokerUrl] = (BrokerUrl("mqtt", "fake", 1883),),
) -> tuple[Link, Topics]:
    """Return a link of the device ``dev-1`` to a fake broker, with waits as long as they can be."""
    topics = Topics("edge", "dev-1")
    names = itertools.count(1)
    link = Link(
        FakeConnector(broker),
        ConnectionPolicy(brokers, protocol=None, reconnect_max=seconds(60), uniform=lambda: 0.999_999),
        presence=Presence(topics, groups=groups, clock=clock),
        doors=[ClosedDoor()],
        clock=clock,
        liveness=liveness or Liveness(),
        new_name=lambda: f"s{next(names)}",
    )
    return link, topics
