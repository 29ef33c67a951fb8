"""The seams between the services and the outside world, and what crosses them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, TypeVar

from edge_agent.core.batch import Batch, Committed, DeadLetter, Identity, Salvaged, StoreFacts
from edge_agent.core.config_types import BrokerUrl
from edge_agent.core.connection import Attempt, Closing, ProtocolVersion
from edge_agent.core.events import Stamp
from edge_agent.core.records import Gap, Priority, Record
from edge_agent.core.submission import Submission
from edge_agent.core.timebase import DurationNs, MonotonicNs, RawNs, WallNs

T = TypeVar("T")

REFUSED_FROM: Final = 0x80
"""Reason codes from here on are refusals (MQTT 5 §2.4); so is 0x80 in a SUBACK of MQTT 3.1.1."""


class Clock(Protocol):
    """The device's clocks, and the only way to wait."""

    def monotonic(self) -> MonotonicNs:
        """Return the steady counter; it never goes back."""

    def raw(self) -> RawNs:
        """Return the counter that nobody disciplines and that goes on in suspend; it never goes back."""

    def wall(self) -> WallNs:
        """Return the operating system's idea of UTC; it may be wrong and may step."""

    def now(self) -> Stamp:
        """Return true time and how well it is known."""

    async def sleep_until(self, deadline: MonotonicNs) -> None:
        """Return at ``deadline``, never before it; at once when it has passed."""


class Message(NamedTuple):
    """What is published, always with QoS 1.

    Attributes:
        topic: a topic name without wildcards.
        payload: the bytes of the message.
        retain: whether the broker keeps it as the topic's last value.
        expiry_s: seconds after which the broker may drop it undelivered (MQTT 5 §3.3.2.3.3); ``None`` = never.
        content_type: MQTT 5 §3.3.2.3.9.
        correlation: correlation data, MQTT 5 §3.3.2.3.6.
    """

    topic: str
    payload: bytes
    retain: bool = False
    expiry_s: int | None = None
    content_type: str | None = None
    correlation: bytes | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """What arrived; it is acknowledged to the broker only by ``Connection.acknowledge``.

    Attributes:
        topic: where it was published.
        payload: at most ``MAX_INBOUND`` bytes.
        retained: whether it was published with the RETAIN flag (MQTT 5) or is the topic's old value (MQTT 3.1.1).
        qos: 0 or 1.
        packet_id: identifies it in the acknowledgement.
        again: whether it may have been sent before (DUP).
        expiry_s: what is left of its message expiry (MQTT 5 §3.3.2.3.3); ``None`` = it has none.
        response_topic: where an answer is wanted (MQTT 5 §3.3.2.3.5).
        correlation: what is to be sent back with it (MQTT 5 §3.3.2.3.6).
        traceparent: the user property of that name (W3C trace context for MQTT).
    """

    topic: str
    payload: bytes
    retained: bool
    qos: int
    packet_id: int
    again: bool = False
    expiry_s: int | None = None
    response_topic: str | None = None
    correlation: bytes | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What the broker said of itself in its CONNACK (MQTT 5 §3.2.2.3); the defaults are the protocol's own.

    Attributes:
        receive_maximum: how many QoS 1 messages may be unacknowledged at once.
        maximum_packet_size: bytes of the largest packet it accepts.
        retain_available: whether it keeps retained messages.
    """

    receive_maximum: int = 65535
    maximum_packet_size: int = 268_435_455
    retain_available: bool = True


class Connection(Protocol):
    """One established MQTT connection; when it ends, a new one is made, never this one again.

    Attributes:
        protocol: in use.
        limits: what the broker said of itself.
    """

    protocol: ProtocolVersion
    limits: Limits

    def has_room(self) -> bool:
        """Return whether the window has room for one more message."""

    async def room(self) -> bool:
        """Wait until the window has room; return ``False`` when the connection ended first."""

    def send(self, message: Message) -> asyncio.Future[int | None]:
        """Hand a message to the connection; call it only while ``has_room()``.

        Returns:
            a future of the PUBACK's reason code; ``None`` when the connection ended before it came, so that nobody
            knows whether the broker has the message. It must not be cancelled.

        Raises:
            TooLargeError: the broker does not accept so large a message; nothing was sent.
        """

    async def subscribe_to(self, filters: Sequence[str]) -> list[int] | None:
        """Subscribe with QoS 1; return a reason code per filter, ``None`` when the connection ended first."""

    async def receive(self) -> Delivery | None:
        """Return the next message that arrived; ``None`` after the connection has ended.

        Who takes them must not wait for ``room`` in between: while many wait, nothing is read, nor any PUBACK.
        """

    def acknowledge(self, delivery: Delivery) -> None:
        """Send the PUBACK; for a connection that has ended it does nothing: the broker will send the message again."""

    async def closed(self) -> Closing:
        """Wait for the end of the connection and return how it ended."""

    async def disconnect(self) -> None:
        """End the connection with a DISCONNECT packet; the broker then discards the Will."""


class Connector(Protocol):
    """Makes connections."""

    async def connect(self, attempt: Attempt, will: Message | None) -> Connection:
        """Connect as the attempt says; its wait is the caller's business.

        Raises:
            ConnectFailedError: it was not possible; the message says what to do.
        """

    async def reachable(self, broker: BrokerUrl) -> bool:
        """Return whether a TCP connection to a broker can be made now."""


class Store(Protocol):
    """The open file behind the outbox; every method blocks, and belongs on the store's own thread.

    Raises:
        StoreError: by any of them; nothing of what was asked has happened.
    """

    @property
    def facts(self) -> StoreFacts:
        """What it knew when it was opened."""

    def commit(self, batch: Batch) -> Committed:
        """Write a batch, all or nothing."""

    def page(
        self, priority: Priority, after: int, *, rows: int, max_bytes: int
    ) -> tuple[list[Record], list[int], bool]:
        """Return records beyond a key, the keys of damaged ones, and whether that is all; they are not dropped now."""

    def peek(self, after: int, *, rows: int) -> tuple[list[Record], list[int], int | None]:
        """Return records beyond a key, of all priorities; the keys of damaged ones; and where to go on, if anywhere."""

    def choose(self, priority: Priority | None, channel: str | None) -> list[int]:
        """Return the keys of all records of a priority and a channel; ``None`` = any."""

    def structure(self) -> str:
        """Return what is wrong with the file; ``ok`` = nothing."""

    def announce(self, limit: int) -> list[tuple[int, Gap]]:
        """Return gaps that no event has named yet, by number; from now on they stay as they are."""

    def known(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        """Return which of these keys were accepted before, and the records' ids."""

    def dead_letters(self) -> list[DeadLetter]:
        """Return the dead letters, the oldest first."""

    def expired(self, before: int) -> list[int]:
        """Return keys of some of the oldest records that were made before an age."""

    def take_in(self, salvaged: Salvaged) -> Committed:
        """Take in what was got out of a store that was put aside."""

    def shrink(self, pages: int) -> bool:
        """Give some free pages back to the disk; return whether there is more to give."""

    def resize(self, max_bytes: int) -> None:
        """Change the room for records."""

    def close(self, *, meta: Mapping[str, object] | None = None) -> None:
        """Close it; with ``meta`` the stop is a clean one."""


class StoreFile(Protocol):
    """The place of the store on disk; blocks as the store does."""

    def open(
        self, *, max_bytes: int, name: str, reserved: Mapping[Priority, int] | None = None, resume: bool = False
    ) -> Store:
        """Open the store, or make one under that name."""

    def identity(self) -> Identity | None:
        """Return what a damaged store still says of itself."""

    def put_aside(self) -> Identity | None:
        """Return which store was put aside as damaged and not salvaged to its end."""

    def set_aside(self, *, known: Identity | None) -> None:
        """Move the closed store out of the way."""

    def notes(self) -> Mapping[str, bytes]:
        """Return the notes of stores that were put aside and that nobody has taken yet."""

    def notes_taken(self) -> None:
        """Take note that they are safe elsewhere."""

    def salvage(self) -> Iterator[Salvaged]:
        """Read what can be read of stores that were put aside."""

    def salvaged(self) -> None:
        """Take note that what was read is safe elsewhere."""

    def is_writable(self) -> bool:
        """Return whether something can be written there now."""

    def throw_ballast(self) -> bool:
        """Give room to a full disk; return whether there was any to give."""

    def lay_ballast(self) -> bool:
        """Take it back; return whether it is there."""


class StoreWorker(Protocol):
    """The thread of the store."""

    def run(self, call: Callable[[], T]) -> asyncio.Future[T]:
        """Have a call made after those before it."""

    def stop(self) -> None:
        """End once all is done that was asked for."""


class Accept(Protocol):
    """The way into the outbox, for every door."""

    async def __call__(self, submission: Submission) -> str:
        """Return the record's id (``<stream>.<seq>``) once it is on disk or acknowledged by the broker.

        A submission with a key that was accepted before returns the id of that time.

        Raises:
            OutboxError: it was not accepted; the message says why.
        """


@dataclass(frozen=True, slots=True)
class Arrival:
    """A file that another program put into the inbox.

    Attributes:
        name: of the file.
        identity: tells it from another file that takes its name.
        key: the same file has the same key after a restart, too; no other has it.
        content: what it holds; empty when there is a fault.
        fault: why it cannot be read; trying again will not help.
    """

    name: str
    identity: tuple[int, int, int]
    key: str = ""
    content: bytes = b""
    fault: str | None = None


class Inbox(Protocol):
    """The folder through which other programs hand in records."""

    async def watch(self, changed: Callable[[], None]) -> None:
        """Call ``changed()`` now and whenever a file is put in; return when it has to be called again.

        Raises:
            EdgeAgentError: the folder cannot be watched; the message says what to do.
        """

    def batches(self) -> AsyncIterator[list[Arrival]]:
        """Yield all files that are there, in order of name, some at a time.

        Raises:
            EdgeAgentError: the folder cannot be read; the message says what to do.
        """

    async def settle(self, settled: Sequence[tuple[Arrival, str | None]]) -> list[Arrival]:
        """Remove the files that were taken in, put aside those with a reason why not; return those that resist.

        Another file that has taken the name meanwhile stays.

        Raises:
            EdgeAgentError: the folder cannot be read; the message says what to do.
        """


class Notifier(Protocol):
    """The service manager that watches this process."""

    def ready(self, status: str) -> None:
        """Say that start-up is complete."""

    def reloading(self) -> None:
        """Say that the configuration is being read again; ``ready`` ends it."""

    def stopping(self, within: DurationNs, /) -> None:
        """Say that the stop has begun, and how long it may take at the utmost."""

    def alive(self) -> None:
        """Feed the watchdog."""
