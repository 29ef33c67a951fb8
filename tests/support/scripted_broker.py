"""An MQTT server inside the test's event loop that obeys a script and remembers all it saw.

It speaks MQTT 5 and 3.1.1 on a free loopback port, keeps sessions, retained messages and Wills as a real broker does,
and misbehaves as its :class:`Personality` says. Quality of service 2 is accepted from publishers and never granted to
subscribers; topic aliases, shared subscriptions and enhanced authentication are not offered.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from types import TracebackType
from typing import Final, Literal, Self

HOST: Final = "127.0.0.1"
MQTT_5: Final = 5
NEVER_EXPIRES: Final = 0xFFFF_FFFF
PROTOCOL_ERROR: Final = 0x82


class Packet(IntEnum):
    """The control packet types that occur here, MQTT 5 section 2.1.2."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14


class Property(IntEnum):
    """The properties that are read or written here, MQTT 5 section 2.2.2.2."""

    PAYLOAD_FORMAT = 0x01
    MESSAGE_EXPIRY = 0x02
    CONTENT_TYPE = 0x03
    RESPONSE_TOPIC = 0x08
    CORRELATION_DATA = 0x09
    SESSION_EXPIRY = 0x11
    ASSIGNED_CLIENT_ID = 0x12
    SERVER_KEEP_ALIVE = 0x13
    WILL_DELAY = 0x18
    RECEIVE_MAXIMUM = 0x21
    MAXIMUM_QOS = 0x24
    RETAIN_AVAILABLE = 0x25
    USER = 0x26
    MAXIMUM_PACKET_SIZE = 0x27


_BYTE: Final = frozenset({0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A})
_SHORT: Final = frozenset({0x13, 0x21, 0x22, 0x23})
_LONG: Final = frozenset({0x02, 0x11, 0x18, 0x27})
_BINARY: Final = frozenset({0x09, 0x16})
_SUBSCRIPTION_ID: Final = 0x0B

Value = int | str | bytes


# ---------------------------------------------------------------- what was seen
@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    """A CONNECT; ``at`` is loop time in every record. Fields that only MQTT 5 has keep its defaults under 3.1.1."""

    at: float
    client_id: str
    protocol: int
    keepalive: int
    clean_start: bool
    session_expiry: int
    receive_maximum: int
    maximum_packet_size: int | None
    username: str | None
    password: bytes | None
    will_topic: str | None
    will_payload: bytes | None
    will_qos: int
    will_retain: bool
    will_delay: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """A PUBLISH from a client; ``packet_id`` is 0 with QoS 0."""

    at: float
    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    packet_id: int
    expiry: int | None
    content_type: str | None
    response_topic: str | None
    correlation_data: bytes | None
    user_properties: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribe:
    """A SUBSCRIBE: its filters, and the option byte of each (QoS, No Local, Retain As Published, Retain Handling)."""

    at: float
    filters: tuple[str, ...]
    options: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsubscribe:
    """An UNSUBSCRIBE."""

    at: float
    filters: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PubAck:
    """A client's PUBACK for a message that the broker sent it."""

    at: float
    packet_id: int
    reason: int
    topic: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """A PINGREQ."""

    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnect:
    """A DISCONNECT from a client."""

    at: float
    reason: int


Seen = Connect | Publish | Subscribe | Unsubscribe | PubAck | Ping | Disconnect


@dataclass(slots=True)
class Connection:
    """Everything one network connection said after its CONNECT, in order."""

    connect: Connect
    seen: list[Seen] = field(default_factory=list)
    connack: int | None = None
    closed_at: float | None = None
    max_unacknowledged: int = 0

    @property
    def open(self) -> bool:
        """Whether the network connection still stands."""
        return self.closed_at is None

    @property
    def publishes(self) -> list[Publish]:
        """Every PUBLISH, in order."""
        return [seen for seen in self.seen if isinstance(seen, Publish)]

    @property
    def subscribes(self) -> list[Subscribe]:
        """Every SUBSCRIBE, in order."""
        return [seen for seen in self.seen if isinstance(seen, Subscribe)]

    @property
    def pubacks(self) -> list[PubAck]:
        """Every PUBACK that the client sent, in order."""
        return [seen for seen in self.seen if isinstance(seen, PubAck)]

    @property
    def pings(self) -> list[Ping]:
        """Every PINGREQ, in order."""
        return [seen for seen in self.seen if isinstance(seen, Ping)]

    @property
    def disconnect(self) -> Disconnect | None:
        """The client's DISCONNECT, if it said goodbye."""
        return next((seen for seen in self.seen if isinstance(seen, Disconnect)), None)


# ---------------------------------------------------------------- how it behaves
def _always_success(_topic: str, _n: int) -> int | None:
    return 0


def _never(_name: str) -> bool:
    return False


def _granted(_filter: str) -> int | None:
    return None


RefusalOfV5 = Literal["connack84", "connack01", "v4_connack", "close"]


@dataclass(slots=True, kw_only=True)
class Personality:
    """The knobs; a test may turn one while the broker runs (``broker.personality.silent_after = 3``).

    Attributes:
        puback: reason code of the ``n``-th PUBLISH (from 1) on a topic, ``None`` = never acknowledged. From 0x80 the
            message is not routed; 3.1.1 cannot say so and acknowledges it (as mosquitto does).
        puback_delay_s: how long each PUBACK is held back.
        reorder_pubacks: seed; PUBACKs are collected for ``reorder_window_s`` and sent in shuffled order.
        receive_maximum: announced; ``enforce_receive_maximum`` closes the connection of who exceeds it (0x93).
        maximum_packet_size: announced and enforced (0x95).
        maximum_qos: announced and enforced (0x9B).
        retain_available: announced and enforced (0x9A).
        server_keep_alive: announced; the broker then waits by it.
        enforce_keepalive: close a connection that is silent for one and a half keepalives (0x8D).
        session_expiry: announced in place of what the client asked for.
        assigned_client_id: given to a client that has none; by default a numbered name.
        connack_v5: reason code in the CONNACK to an MQTT 5 client; not 0 closes.
        connack_v4: return code in the CONNACK to a 3.1.1 client; not 0 closes.
        refuse_v5: how a CONNECT with protocol level 5 is refused. ``v4_connack`` answers in 3.1.1 form with
            ``v4_connack_code`` (after 0 the connection stays open and mute, as a server that misreads is of no use).
        silent_after: from so many PUBLISHes on a connection on, it stays open and is never answered, nor is anything
            taken from it.
        close_on_subscribe: whether a SUBSCRIBE with this filter closes the connection.
        suback: reason code of a filter, ``None`` = granted.
        max_filters_per_subscribe: more in one SUBSCRIBE close the connection.
        close_on_retained_publish: close the connection on a PUBLISH with RETAIN.
        close_on_retained_will: close without CONNACK when the Will has RETAIN.
        close_on_topic: whether a PUBLISH to this topic closes the connection.
        publishes_per_second: more within a second close the connection (0x96).
        close_on_negative_puback: a PUBACK of the client from 0x80 closes the connection and ends its session.
        close_after_connack_s: close so long after the CONNACK.
    """

    puback: Callable[[str, int], int | None] = _always_success
    puback_delay_s: float = 0.0
    reorder_pubacks: int | None = None
    reorder_window_s: float = 0.02
    receive_maximum: int | None = None
    enforce_receive_maximum: bool = False
    maximum_packet_size: int | None = None
    maximum_qos: int | None = None
    retain_available: bool = True
    server_keep_alive: int | None = None
    enforce_keepalive: bool = True
    session_expiry: int | None = None
    assigned_client_id: str | None = None
    connack_v5: int = 0
    connack_v4: int = 0
    refuse_v5: RefusalOfV5 | None = None
    v4_connack_code: int = 1
    silent_after: int | None = None
    close_on_subscribe: Callable[[str], bool] = _never
    suback: Callable[[str], int | None] = _granted
    max_filters_per_subscribe: int | None = None
    close_on_retained_publish: bool = False
    close_on_retained_will: bool = False
    close_on_topic: Callable[[str], bool] = _never
    publishes_per_second: int | None = None
    close_on_negative_puback: bool = False
    close_after_connack_s: float | None = None


def aws_iot_core() -> Personality:
    """Return the published limits of AWS IoT Core's message broker; what it throttles is closed here."""
    return Personality(
        receive_maximum=100,
        enforce_receive_maximum=True,
        maximum_packet_size=149_504,
        maximum_qos=1,
        session_expiry=3600,
        max_filters_per_subscribe=8,
        publishes_per_second=100,
        reorder_pubacks=1,
        close_on_negative_puback=True,
        close_on_topic=lambda topic: topic.count("/") > 7,
    )


def azure_event_grid() -> Personality:
    """Return Azure Event Grid's MQTT broker without its retain preview: anything retained ends the connection."""
    return Personality(
        receive_maximum=16,
        maximum_packet_size=524_288,
        maximum_qos=1,
        retain_available=False,
        server_keep_alive=1160,
        session_expiry=3600,
        close_on_retained_publish=True,
        close_on_retained_will=True,
        reorder_pubacks=2,
    )


# ---------------------------------------------------------------- bytes
class _MalformedError(Exception):
    """A packet that the specification does not allow."""


class _CloseError(Exception):
    """The script ends this connection; ``reason`` is said to an MQTT 5 client first unless it is ``None``."""

    def __init__(self, reason: int | None = None) -> None:
        super().__init__()
        self.reason = reason


@dataclass(slots=True)
class Properties:
    """MQTT 5 properties of one packet."""

    values: dict[int, Value] = field(default_factory=dict)
    user: list[tuple[str, str]] = field(default_factory=list)

    def number(self, prop: Property) -> int | None:
        """Return an integer property, or ``None`` when it is absent."""
        value = self.values.get(prop)
        assert value is None or isinstance(value, int)
        return value

    def text(self, prop: Property) -> str | None:
        """Return a string property, or ``None`` when it is absent."""
        value = self.values.get(prop)
        assert value is None or isinstance(value, str)
        return value

    def data(self, prop: Property) -> bytes | None:
        """Return a binary property, or ``None`` when it is absent."""
        value = self.values.get(prop)
        assert value is None or isinstance(value, bytes)
        return value

    def encode(self) -> bytes:
        """Return the properties as they stand in a packet, length first."""
        body = bytearray()
        for identifier, value in self.values.items():
            body.append(identifier)
            match value:
                case str():
                    body += _prefixed(value.encode())
                case bytes():
                    body += _prefixed(value)
                case int():
                    body += value.to_bytes(1 if identifier in _BYTE else 2 if identifier in _SHORT else 4, "big")
        for name, content in self.user:
            body += bytes([Property.USER]) + _prefixed(name.encode()) + _prefixed(content.encode())
        return _varint(len(body)) + bytes(body)


def _prefixed(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _varint(number: int) -> bytes:
    out = bytearray()
    while True:
        number, digit = divmod(number, 128)
        out.append(digit | (128 if number else 0))
        if not number:
            return bytes(out)


def _packet(kind: Packet, body: bytes = b"", flags: int = 0) -> bytes:
    return bytes([kind << 4 | flags]) + _varint(len(body)) + body


class _Reader:
    """Takes a packet's body apart, front to back."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def take(self, count: int) -> bytes:
        if self._at + count > len(self._body):
            raise _MalformedError(f"packet ends after {len(self._body)} bytes, {self._at + count} are needed")
        self._at += count
        return self._body[self._at - count : self._at]

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")

    def varint(self) -> int:
        value = 0
        for shift in (0, 7, 14, 21):
            byte = self.number(1)
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise _MalformedError("a variable byte integer has more than 4 bytes")

    def data(self) -> bytes:
        return self.take(self.number(2))

    def text(self) -> str:
        return self.data().decode()

    def rest(self) -> bytes:
        return self.take(len(self._body) - self._at)

    @property
    def empty(self) -> bool:
        return self._at == len(self._body)

    def properties(self) -> Properties:
        end = self.varint() + self._at
        found = Properties()
        while self._at < end:
            identifier = self.number(1)
            if identifier == Property.USER:
                found.user.append((self.text(), self.text()))
            elif identifier in found.values:
                raise _MalformedError(f"property {identifier:#x} stands twice")
            else:
                found.values[identifier] = self._value(identifier)
        return found

    def _value(self, identifier: int) -> Value:
        for kinds, size in ((_BYTE, 1), (_SHORT, 2), (_LONG, 4)):
            if identifier in kinds:
                return self.number(size)
        if identifier == _SUBSCRIPTION_ID:
            return self.varint()
        return self.data() if identifier in _BINARY else self.text()


def topic_matches(topic_filter: str, topic: str) -> bool:
    """Return whether a topic filter matches a topic name, MQTT 5 section 4.7."""
    if topic.startswith("$") and topic_filter[0] in "+#":
        return False
    wanted, found = topic_filter.split("/"), topic.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(found) or level not in ("+", found[index]):
            return False
    return len(wanted) == len(found)


# ---------------------------------------------------------------- state
@dataclass(slots=True, frozen=True)
class _Message:
    """An application message on its way through the broker."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: Properties
    received_at: float
    sender: str = ""

    def remaining(self, now: float) -> int | None:
        """Return the seconds until it expires, ``None`` if it never does."""
        expiry = self.properties.number(Property.MESSAGE_EXPIRY)
        return None if expiry is None else max(0, expiry - int(now - self.received_at))

    def properties_now(self, now: float) -> Properties:
        values = dict(self.properties.values)
        if (remaining := self.remaining(now)) is not None:
            values[Property.MESSAGE_EXPIRY] = remaining
        return Properties(values, self.properties.user)


@dataclass(slots=True)
class _Session:
    """What the broker keeps for a client id between connections."""

    client_id: str
    expiry_s: int = 0
    subscriptions: dict[str, int] = field(default_factory=dict)
    queue: deque[tuple[_Message, bool]] = field(default_factory=deque)
    unacknowledged: dict[int, tuple[_Message, bool]] = field(default_factory=dict)
    next_id: int = 1
    link: _Link | None = None
    ended_at: float = 0.0
    will_timer: asyncio.TimerHandle | None = None

    def allocate(self) -> int:
        while self.next_id in self.unacknowledged:
            self.next_id = self.next_id % 65535 + 1
        identifier = self.next_id
        self.next_id = self.next_id % 65535 + 1
        return identifier

    def expired(self, now: float) -> bool:
        return self.link is None and self.expiry_s != NEVER_EXPIRES and now - self.ended_at >= self.expiry_s


class _Link:
    """One network connection."""

    def __init__(self, broker: ScriptedBroker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.broker = broker
        self.knobs = broker.personality
        self._reader = reader
        self._writer = writer
        self._socket = writer.get_extra_info("socket")
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop = asyncio.get_running_loop()
        self._unacked: set[int] = set()
        self._acks: list[bytes] = []
        self._publish_times: deque[float] = deque()
        self._publish_count = 0
        self._timers: set[asyncio.TimerHandle] = set()
        self._shuffle = random.Random(self.knobs.reorder_pubacks)  # noqa: S311 - a test's order, not a secret
        self.record: Connection | None = None
        self.session: _Session | None = None
        self.will: _Message | None = None
        self.will_delay = 0
        self.mute = False
        self._keepalive = 0

    # ------------------------------------------------------------ life
    async def serve(self) -> None:
        """Answer one client until either side ends it."""
        try:
            await self._converse()
        except _CloseError as close:
            self.say_goodbye(close.reason)
        except (_MalformedError, UnicodeDecodeError) as error:
            self.broker.errors.append(
                f"{error!r} from {self.record.connect.client_id if self.record else 'a stranger'}"
            )
            self.say_goodbye(PROTOCOL_ERROR)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._end()
            self._writer.close()
            with contextlib.suppress(ConnectionError):
                await self._writer.wait_closed()

    async def _converse(self) -> None:
        kind, flags, body = await self._read()
        if kind != Packet.CONNECT:
            raise _MalformedError(f"the first packet is {kind!r}")
        self._on_connect(_Reader(body))
        while True:
            kind, flags, body = await self._read()
            if not self._dispatch(kind, flags, _Reader(body)):
                return

    async def _read(self) -> tuple[int, int, bytes]:
        wait = self._keepalive * 1.5 if self._keepalive and self.knobs.enforce_keepalive and not self.mute else None
        # Acknowledge at once: a client with Nagle's algorithm else sends its next packet up to 40 ms of real time
        # later, which a loop with virtual time does not wait for. Linux forgets the option, so it is set again.
        with contextlib.suppress(OSError):  # closed meanwhile
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        try:
            async with asyncio.timeout(wait):
                first = (await self._reader.readexactly(1))[0]
                length = shift = 0
                while True:
                    byte = (await self._reader.readexactly(1))[0]
                    length |= (byte & 127) << shift
                    shift += 7
                    if byte < 128:
                        break
                limit = self.knobs.maximum_packet_size
                if limit is not None and length + 1 + shift // 7 > limit:
                    self.broker.too_large += 1
                    raise _CloseError(0x95)
                return first >> 4, first & 15, await self._reader.readexactly(length)
        except TimeoutError:
            raise _CloseError(0x8D) from None

    def _dispatch(self, kind: int, flags: int, reader: _Reader) -> bool:
        """Handle one packet; return whether the connection goes on."""
        match kind:
            case Packet.PUBLISH:
                self._on_publish(flags, reader)
            case Packet.PUBACK:
                self._on_puback(reader)
            case Packet.PUBREL:
                self.send(_packet(Packet.PUBCOMP, reader.take(2)))
            case Packet.SUBSCRIBE:
                self._on_subscribe(reader)
            case Packet.UNSUBSCRIBE:
                self._on_unsubscribe(reader)
            case Packet.PINGREQ:
                self._see(Ping(at=self._loop.time()))
                self.send(_packet(Packet.PINGRESP))
            case Packet.DISCONNECT:
                self._on_disconnect(reader)
                return False
            case _:
                raise _MalformedError(f"packet type {kind} from a client")
        return True

    def _end(self) -> None:
        for timer in self._timers:
            timer.cancel()
        if self.record is not None:
            self.record.closed_at = self._loop.time()
        self.broker.lose(self)

    def abort(self) -> None:
        """Cut the connection without a word."""
        self._writer.transport.abort()

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Run ``action`` in a while, unless the connection ends first."""
        self._timers.add(self._loop.call_later(delay_s, action))

    def say_goodbye(self, reason: int | None) -> None:
        """Send the DISCONNECT that MQTT 5 allows a server, and close after it."""
        if reason is not None and self.v5 and self.record is not None and self.record.connack == 0:
            self.send(_packet(Packet.DISCONNECT, bytes([reason, 0])))
        self._writer.close()

    def send(self, data: bytes) -> None:
        """Write a packet, unless the personality has fallen silent."""
        if not self.mute and not self._writer.is_closing():
            self._writer.write(data)

    @property
    def v5(self) -> bool:
        """Whether the client speaks MQTT 5."""
        return self.record is not None and self.record.connect.protocol == MQTT_5

    def _see(self, seen: Seen) -> None:
        assert self.record is not None
        self.record.seen.append(seen)
        self.broker.changed()

    # ------------------------------------------------------------ CONNECT
    def _on_connect(self, reader: _Reader) -> None:
        connect, will = self._read_connect(reader)
        self.record = Connection(connect)
        self.broker.connections.append(self.record)
        self._see(connect)
        if connect.protocol == MQTT_5 and self.knobs.refuse_v5 is not None:
            self._refuse_v5(self.knobs.refuse_v5)
            return
        if connect.will_retain and self.knobs.close_on_retained_will:
            raise _CloseError
        code = self._verdict(connect)
        if code:
            self._connack(code, session_present=False)
            raise _CloseError
        self.will, self.will_delay = will, connect.will_delay
        client_id = connect.client_id or self.knobs.assigned_client_id or f"assigned-{len(self.broker.connections)}"
        self._keepalive = connect.keepalive
        if connect.protocol == MQTT_5 and self.knobs.server_keep_alive is not None:
            self._keepalive = self.knobs.server_keep_alive
        present = self.broker.adopt(self, client_id)
        self._connack(0, session_present=present, assigned=None if connect.client_id else client_id)
        if self.knobs.close_after_connack_s is not None:
            self.later(self.knobs.close_after_connack_s, self._writer.close)
        self.broker.resume(self)

    def _read_connect(self, reader: _Reader) -> tuple[Connect, _Message | None]:
        name, protocol, flags, keepalive = reader.text(), reader.number(1), reader.number(1), reader.number(2)
        if (name, protocol) not in (("MQTT", 4), ("MQTT", MQTT_5)):
            raise _CloseError
        now = self._loop.time()
        properties = reader.properties() if protocol == MQTT_5 else Properties()
        client_id = reader.text()
        will = will_properties = None
        if flags & 4:
            will_properties = reader.properties() if protocol == MQTT_5 else Properties()
            topic, payload = reader.text(), reader.data()
            delay = will_properties.values.pop(Property.WILL_DELAY, 0)
            assert isinstance(delay, int)
            will = _Message(topic, payload, flags >> 3 & 3, bool(flags & 32), will_properties, now, client_id)
        else:
            delay = 0
        username = reader.text() if flags & 128 else None
        password = reader.data() if flags & 64 else None
        if not reader.empty:
            raise _MalformedError("bytes after the end of CONNECT")
        clean = bool(flags & 2)
        default_expiry = 0 if clean or protocol == MQTT_5 else NEVER_EXPIRES
        connect = Connect(
            at=now,
            client_id=client_id,
            protocol=protocol,
            keepalive=keepalive,
            clean_start=clean,
            session_expiry=properties.number(Property.SESSION_EXPIRY) or default_expiry,
            receive_maximum=properties.number(Property.RECEIVE_MAXIMUM) or 65535,
            maximum_packet_size=properties.number(Property.MAXIMUM_PACKET_SIZE),
            username=username,
            password=password,
            will_topic=will.topic if will else None,
            will_payload=will.payload if will else None,
            will_qos=will.qos if will else 0,
            will_retain=bool(will and will.retain),
            will_delay=delay,
        )
        return connect, will

    def _refuse_v5(self, how: RefusalOfV5) -> None:
        match how:
            case "connack84":
                self._connack(0x84, session_present=False)
            case "connack01":
                self._connack(0x01, session_present=False)
            case "v4_connack":
                self.send(_packet(Packet.CONNACK, bytes([0, self.knobs.v4_connack_code])))
                if self.knobs.v4_connack_code == 0:
                    self.mute = True
                    return
            case "close":
                pass
        raise _CloseError

    def _verdict(self, connect: Connect) -> int:
        if connect.protocol != MQTT_5:
            return self.knobs.connack_v4
        if self.knobs.connack_v5:
            return self.knobs.connack_v5
        if connect.will_retain and not self.knobs.retain_available:
            return 0x9A
        if self.knobs.maximum_qos is not None and connect.will_qos > self.knobs.maximum_qos:
            return 0x9B
        return 0

    def _connack(self, code: int, *, session_present: bool, assigned: str | None = None) -> None:
        assert self.record is not None
        self.record.connack = code
        body = bytes([session_present, code])
        if self.v5:
            knobs = self.knobs
            announced: dict[int, Value | None] = {
                Property.SESSION_EXPIRY: knobs.session_expiry,
                Property.RECEIVE_MAXIMUM: knobs.receive_maximum,
                Property.MAXIMUM_QOS: knobs.maximum_qos if knobs.maximum_qos in (0, 1) else None,
                Property.RETAIN_AVAILABLE: None if knobs.retain_available else 0,
                Property.MAXIMUM_PACKET_SIZE: knobs.maximum_packet_size,
                Property.ASSIGNED_CLIENT_ID: assigned,
                Property.SERVER_KEEP_ALIVE: knobs.server_keep_alive,
            }
            present = {prop: value for prop, value in announced.items() if value is not None and code == 0}
            body += Properties(present).encode()
        self.send(_packet(Packet.CONNACK, body))

    # ------------------------------------------------------------ the other packets
    def _on_publish(self, flags: int, reader: _Reader) -> None:
        now = self._loop.time()
        qos, retain, dup = flags >> 1 & 3, bool(flags & 1), bool(flags & 8)
        topic = reader.text()
        packet_id = reader.number(2) if qos else 0
        properties = reader.properties() if self.v5 else Properties()
        payload = reader.rest()
        if not topic or "+" in topic or "#" in topic or (qos and not packet_id):
            raise _MalformedError(f"PUBLISH to {topic!r} with QoS {qos} and packet identifier {packet_id}")
        publish = Publish(
            at=now,
            topic=topic,
            payload=payload,
            qos=qos,
            retain=retain,
            dup=dup,
            packet_id=packet_id,
            expiry=properties.number(Property.MESSAGE_EXPIRY),
            content_type=properties.text(Property.CONTENT_TYPE),
            response_topic=properties.text(Property.RESPONSE_TOPIC),
            correlation_data=properties.data(Property.CORRELATION_DATA),
            user_properties=tuple(properties.user),
        )
        if packet_id in self._unacked and not dup:
            raise _MalformedError(f"packet identifier {packet_id} is still in flight")
        if qos:
            self._unacked.add(packet_id)
        self._count_unacknowledged()
        self.broker.publishes.append(publish)
        self._see(publish)
        self._publish_count += 1
        if self.knobs.silent_after is not None and self._publish_count > self.knobs.silent_after:
            self.mute = True
        if self.mute:
            return
        self._check_publish(publish)
        self._answer(publish, properties)

    def _count_unacknowledged(self) -> None:
        assert self.record is not None
        self.record.max_unacknowledged = max(self.record.max_unacknowledged, len(self._unacked))
        limit = self.knobs.receive_maximum
        if limit is not None and self.knobs.enforce_receive_maximum and len(self._unacked) > limit:
            raise _CloseError(0x93)

    def _check_publish(self, publish: Publish) -> None:
        knobs = self.knobs
        if publish.retain and knobs.close_on_retained_publish:
            raise _CloseError
        if knobs.close_on_topic(publish.topic):
            raise _CloseError
        if publish.retain and not knobs.retain_available:
            raise _CloseError(0x9A)
        if knobs.maximum_qos is not None and publish.qos > knobs.maximum_qos:
            raise _CloseError(0x9B)
        if knobs.publishes_per_second is not None:
            self._publish_times.append(publish.at)
            while self._publish_times[0] <= publish.at - 1.0:
                self._publish_times.popleft()
            if len(self._publish_times) > knobs.publishes_per_second:
                raise _CloseError(0x96)

    def _answer(self, publish: Publish, properties: Properties) -> None:
        assert self.session is not None
        self.broker.topic_counts[publish.topic] += 1
        code = self.knobs.puback(publish.topic, self.broker.topic_counts[publish.topic]) if publish.qos else 0
        if code is None or code < 0x80:
            self.broker.route(
                _Message(
                    publish.topic,
                    publish.payload,
                    publish.qos,
                    publish.retain,
                    properties,
                    publish.at,
                    self.session.client_id,
                )
            )
        if publish.qos and code is not None:
            kind = Packet.PUBACK if publish.qos == 1 else Packet.PUBREC
            body = publish.packet_id.to_bytes(2, "big") + (bytes([code, 0]) if self.v5 and code else b"")
            self._acknowledge(publish.packet_id, _packet(kind, body))

    def _acknowledge(self, packet_id: int, ack: bytes) -> None:
        if self.knobs.reorder_pubacks is not None:
            self._acks.append(ack)
            if len(self._acks) == 1:
                self.later(self.knobs.reorder_window_s, self._flush_shuffled)
        elif self.knobs.puback_delay_s:
            self.later(self.knobs.puback_delay_s, lambda: self._send_ack(packet_id, ack))
        else:
            self._send_ack(packet_id, ack)

    def _send_ack(self, packet_id: int, ack: bytes) -> None:
        self._unacked.discard(packet_id)
        self.send(ack)

    def _flush_shuffled(self) -> None:
        acks, self._acks = self._acks, []
        self._shuffle.shuffle(acks)
        for ack in acks:
            self._send_ack(int.from_bytes(ack[2:4], "big"), ack)

    def _on_puback(self, reader: _Reader) -> None:
        assert self.session is not None
        packet_id = reader.number(2)
        reason = 0 if reader.empty else reader.number(1)
        if packet_id not in self.session.unacknowledged:
            raise _MalformedError(f"PUBACK for {packet_id}, which is not in flight")
        message, _ = self.session.unacknowledged.pop(packet_id)
        self._see(PubAck(at=self._loop.time(), packet_id=packet_id, reason=reason, topic=message.topic))
        if reason >= 0x80 and self.knobs.close_on_negative_puback:
            self.session.expiry_s = 0
            raise _CloseError(reason)
        self.broker.pump(self.session)

    def _on_subscribe(self, reader: _Reader) -> None:
        packet_id = reader.take(2)
        if self.v5:
            reader.properties()
        wanted: list[tuple[str, int]] = []
        while not reader.empty:
            wanted.append((reader.text(), reader.number(1)))
        self._see(
            Subscribe(
                at=self._loop.time(),
                filters=tuple(name for name, _ in wanted),
                options=tuple(options for _, options in wanted),
            )
        )
        limit = self.knobs.max_filters_per_subscribe
        if not wanted or (limit is not None and len(wanted) > limit):
            raise _CloseError
        if any(self.knobs.close_on_subscribe(name) for name, _ in wanted):
            raise _CloseError
        codes: list[int] = []
        fresh: list[tuple[str, int, bool]] = []
        assert self.session is not None
        for name, options in wanted:
            refusal = self.knobs.suback(name)
            if refusal is not None and refusal >= 0x80:
                codes.append(refusal if self.v5 else 0x80)
                continue
            granted = min(options & 3, 1 if refusal is None else refusal)
            fresh.append((name, options & ~3 | granted, name not in self.session.subscriptions))
            self.session.subscriptions[name] = options & ~3 | granted
            codes.append(granted)
        self.send(_packet(Packet.SUBACK, packet_id + (b"\0" if self.v5 else b"") + bytes(codes)))
        for name, options, new in fresh:
            self.broker.send_retained(self.session, name, options, new=new)

    def _on_unsubscribe(self, reader: _Reader) -> None:
        assert self.session is not None
        packet_id = reader.take(2)
        if self.v5:
            reader.properties()
        names: list[str] = []
        while not reader.empty:
            names.append(reader.text())
        self._see(Unsubscribe(at=self._loop.time(), filters=tuple(names)))
        known = [self.session.subscriptions.pop(name, None) is not None for name in names]
        codes = b"\0" + bytes(0 if found else 0x11 for found in known) if self.v5 else b""
        self.send(_packet(Packet.UNSUBACK, packet_id + codes))

    def _on_disconnect(self, reader: _Reader) -> None:
        reason = 0 if reader.empty else reader.number(1)
        if not reader.empty and self.session is not None:
            expiry = reader.properties().number(Property.SESSION_EXPIRY)
            self.session.expiry_s = self.session.expiry_s if expiry is None else expiry
        if reason != 0x04:  # 0x04: disconnect with Will Message
            self.will = None
        self._see(Disconnect(at=self._loop.time(), reason=reason))

    def deliver(self, message: _Message, *, packet_id: int, qos: int, retain: bool, dup: bool = False) -> None:
        """Send an application message to this client."""
        assert self.record is not None
        body = _prefixed(message.topic.encode())
        if qos:
            body += packet_id.to_bytes(2, "big")
        if self.v5:
            body += message.properties_now(self._loop.time()).encode()
        data = _packet(Packet.PUBLISH, body + message.payload, flags=dup << 3 | qos << 1 | retain)
        limit = self.record.connect.maximum_packet_size
        if limit is None or len(data) <= limit:
            self.send(data)


class ScriptedBroker:
    """The server: ``async with ScriptedBroker(personality) as broker: ... broker.port``.

    Leaving the block ends every connection; it raises ``AssertionError`` when a client broke the protocol, unless the
    test has emptied ``errors``.

    Attributes:
        personality: the knobs; connections look at the object that was there when they were accepted.
        connections: one record per CONNECT, in order, refused ones included.
        publishes: every PUBLISH of every connection, in order of arrival.
        retained: topic -> payload, as a new subscriber would get it.
        errors: violations of the protocol by clients.
        too_large: packets above ``maximum_packet_size``.
        accepted: TCP connections, with or without CONNECT.
    """

    def __init__(self, personality: Personality | None = None) -> None:
        self.personality = personality or Personality()
        self.port = 0
        self.connections: list[Connection] = []
        self.publishes: list[Publish] = []
        self.errors: list[str] = []
        self.too_large = 0
        self.accepted = 0
        self.topic_counts: Counter[str] = Counter()
        self._retained: dict[str, _Message] = {}
        self._sessions: dict[str, _Session] = {}
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._waiters: set[asyncio.Event] = set()

    # ------------------------------------------------------------ for tests
    @property
    def url(self) -> str:
        """``mqtt://127.0.0.1:PORT``."""
        return f"mqtt://{HOST}:{self.port}"

    @property
    def connect_times(self) -> list[float]:
        """Loop time of each CONNECT."""
        return [connection.connect.at for connection in self.connections]

    @property
    def max_unacknowledged(self) -> int:
        """The most PUBLISHes that any connection had waiting for an acknowledgement at once."""
        return max((connection.max_unacknowledged for connection in self.connections), default=0)

    @property
    def retained(self) -> dict[str, bytes]:
        """Retained messages: topic -> payload."""
        return {topic: message.payload for topic, message in self._retained.items()}

    def published(self, topic_filter: str) -> list[Publish]:
        """Return every PUBLISH whose topic matches a filter, in order of arrival."""
        return [publish for publish in self.publishes if topic_matches(topic_filter, publish.topic)]

    async def wait_for(self, predicate: Callable[[], bool], timeout: float = 30.0) -> None:  # noqa: ASYNC109 - a deadline for the test
        """Wait until a condition on what the broker saw holds; it is looked at whenever the broker sees something.

        Raises:
            AssertionError: it does not hold after ``timeout`` seconds of loop time.
        """
        event = asyncio.Event()
        self._waiters.add(event)
        try:
            async with asyncio.timeout(timeout):
                while not predicate():
                    event.clear()
                    await event.wait()
        except TimeoutError:
            raise AssertionError(f"not seen within {timeout} s; seen: {self.summary()}") from None
        finally:
            self._waiters.discard(event)

    def summary(self) -> str:
        """Return what was seen, short enough for an assertion's message."""
        lines = [f"{len(self.connections)} connections, {len(self.publishes)} publishes"]
        for connection in self.connections[-3:]:
            lines += [f"  {seen}"[:200] for seen in connection.seen[-8:]]
        return "\n".join(lines)

    def inject(self, topic: str, payload: bytes, qos: int = 1, *, retain: bool = False, **properties: object) -> int:
        """Publish from the broker's side; return how many clients' sessions it is for.

        Args:
            topic: the topic.
            payload: the payload.
            qos: 0 or 1.
            retain: whether the broker keeps it.
            properties: MQTT 5: ``response_topic``, ``correlation_data``, ``message_expiry``, ``content_type`` and
                ``user`` (a list of pairs).
        """
        user = properties.pop("user", [])
        values = {Property[name.upper()].value: value for name, value in properties.items()}
        assert isinstance(user, list)
        assert all(isinstance(value, int | str | bytes) for value in values.values()), properties
        message = _Message(
            topic,
            payload,
            qos,
            retain,
            Properties({key: value for key, value in values.items() if isinstance(value, int | str | bytes)}, user),
            asyncio.get_running_loop().time(),
        )
        return self.route(message)

    def drop_clients(self) -> None:
        """Cut every connection without a word, as a network does."""
        for link in list(self._links):
            link.abort()

    def forget_sessions(self) -> None:
        """Lose every session that has no connection now and every retained message, as a broker without a disk does."""
        self._retained.clear()
        self._sessions = {name: session for name, session in self._sessions.items() if session.link is not None}

    async def stop_listening(self) -> None:
        """Refuse new connections; those that stand stay."""
        assert self._server is not None, "the broker does not listen"
        self._server.close()
        self._server = None
        await asyncio.sleep(0)

    async def listen_again(self) -> None:
        """Listen on the same port."""
        assert self._server is None, "the broker listens already"
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, self.port))
        self.port = listener.getsockname()[1]
        self._server = await asyncio.start_server(self._accept, sock=listener)

    async def __aenter__(self) -> Self:
        """Listen."""
        await self.listen_again()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End everything."""
        if self._server is not None:
            await self.stop_listening()
        while self._tasks:
            self.drop_clients()
            await asyncio.wait(self._tasks)
        for session in self._sessions.values():
            if session.will_timer is not None:
                session.will_timer.cancel()
        assert kind is not None or not self.errors, f"a client broke the protocol: {self.errors}"

    # ------------------------------------------------------------ inside
    def changed(self) -> None:
        """Wake whoever waits for something to be seen."""
        for event in self._waiters:
            event.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        link = _Link(self, reader, writer)
        self.accepted += 1
        self._tasks.add(task)
        self._links.add(link)
        try:
            await link.serve()
        finally:
            self._tasks.discard(task)
            self._links.discard(link)
            self.changed()

    def adopt(self, link: _Link, client_id: str) -> bool:
        """Give a connection its session, taking it over from an older one; return whether it existed."""
        assert link.record is not None
        connect = link.record.connect
        session = self._sessions.get(client_id)
        if session is not None and session.link is not None:
            older = session.link
            older.say_goodbye(0x8E)
            self.lose(older, discard=connect.clean_start)
        if session is not None and session.will_timer is not None:
            session.will_timer.cancel()
            session.will_timer = None
        now = asyncio.get_running_loop().time()
        present = session is not None and not connect.clean_start and not session.expired(now)
        if session is None or not present:
            session = self._sessions[client_id] = _Session(client_id)
        announced = link.knobs.session_expiry if connect.protocol == MQTT_5 else None
        session.expiry_s = connect.session_expiry if announced is None else announced
        session.link, link.session = link, session
        return present

    def lose(self, link: _Link, *, discard: bool = False) -> None:
        """Part a connection from its session: its Will is due, and the session's life begins to count down."""
        session, link.session = link.session, None
        will, link.will = link.will, None
        if session is None or session.link is not link:
            return
        session.link = None
        loop = asyncio.get_running_loop()
        session.ended_at = loop.time()
        if will is None:
            return
        delay = 0 if discard else min(link.will_delay, session.expiry_s)
        if delay:
            session.will_timer = loop.call_later(delay, self.route, will)
        else:
            self.route(will)

    def resume(self, link: _Link) -> None:
        """Send again what the session's last connection did not acknowledge, then what waited."""
        session = link.session
        assert session is not None
        for packet_id, (message, retain) in session.unacknowledged.items():
            link.deliver(message, packet_id=packet_id, qos=1, retain=retain, dup=True)
        self.pump(session)

    def route(self, message: _Message) -> int:
        """Keep a message if it is to be retained and give it to every session that wants it; return how many do."""
        if message.retain and message.payload:
            self._retained[message.topic] = message
        elif message.retain:
            self._retained.pop(message.topic, None)
        reached = 0
        for session in list(self._sessions.values()):
            matching = [
                options for name, options in session.subscriptions.items() if topic_matches(name, message.topic)
            ]
            no_local = session.client_id == message.sender
            matching = [options for options in matching if not (options & 4 and no_local)]
            if not matching or session.expired(message.received_at):
                continue
            reached += 1
            options = max(matching, key=lambda option: option & 3)
            self._give(session, message, qos=min(message.qos, options & 3), retain=message.retain and bool(options & 8))
        self.changed()
        return reached

    def send_retained(self, session: _Session, topic_filter: str, options: int, *, new: bool) -> None:
        """Send what is retained under a filter that was just subscribed, as its Retain Handling says."""
        handling = options >> 4 & 3
        if handling == 2 or (handling == 1 and not new):
            return
        now = asyncio.get_running_loop().time()
        for topic, message in list(self._retained.items()):
            if message.remaining(now) == 0:
                del self._retained[topic]
            elif topic_matches(topic_filter, topic):
                self._give(session, message, qos=min(message.qos, options & 3), retain=True)

    def _give(self, session: _Session, message: _Message, *, qos: int, retain: bool) -> None:
        if qos:
            session.queue.append((message, retain))
            self.pump(session)
        elif session.link is not None:
            session.link.deliver(message, packet_id=0, qos=0, retain=retain)

    def pump(self, session: _Session) -> None:
        """Send what waits, as far as the client's Receive Maximum allows."""
        link = session.link
        if link is None or link.record is None or link.record.connack != 0:
            return
        now = asyncio.get_running_loop().time()
        for message, retain in self._sendable(session, link.record.connect.receive_maximum):
            if message.remaining(now) == 0:
                continue
            packet_id = session.allocate()
            session.unacknowledged[packet_id] = (message, retain)
            link.deliver(message, packet_id=packet_id, qos=1, retain=retain)

    @staticmethod
    def _sendable(session: _Session, window: int) -> Iterator[tuple[_Message, bool]]:
        while session.queue and len(session.unacknowledged) < window:
            yield session.queue.popleft()
