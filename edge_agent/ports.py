"""The seams between the services and the outside world, and what crosses them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from edge_agent.core.connection import Attempt, Closing, ProtocolVersion
from edge_agent.core.submission import Submission
from edge_agent.core.timebase import MonotonicNs, UtcNs

REFUSED_FROM: Final = 0x80
"""Reason codes from here on are refusals (MQTT 5 §2.4); so is 0x80 in a SUBACK of MQTT 3.1.1."""


class Clock(Protocol):
    """The device's clocks, and the only way to wait."""

    def monotonic(self) -> MonotonicNs:
        """Return the steady counter; it never goes back."""
        ...

    def utc(self) -> UtcNs:
        """Return the operating system's idea of UTC; it may be wrong and may step."""
        ...

    async def sleep_until(self, deadline: MonotonicNs) -> None:
        """Return at ``deadline``, never before it; at once when it has passed."""
        ...


@dataclass(frozen=True, slots=True)
class Message:
    """What is published, always with QoS 1.

    Attributes:
        topic: a topic name without wildcards.
        payload: the bytes of the message.
        retain: whether the broker keeps it as the topic's last value.
        expiry_s: seconds after which the broker may drop it undelivered (MQTT 5 §3.3.2.3.3); ``None`` = never.
        content_type: MQTT 5 §3.3.2.3.9.
    """

    topic: str
    payload: bytes
    retain: bool = False
    expiry_s: int | None = None
    content_type: str | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """What arrived; it is acknowledged to the broker only by ``Connection.acknowledge``.

    Attributes:
        topic: where it was published.
        payload: at most ``MAX_INBOUND`` bytes.
        retained: whether it was published with the RETAIN flag (MQTT 5) or is the topic's old value (MQTT 3.1.1).
        qos: 0 or 1.
        packet_id: identifies it in the acknowledgement.
    """

    topic: str
    payload: bytes
    retained: bool
    qos: int
    packet_id: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What the broker said of itself in its CONNACK (MQTT 5 §3.2.2.3); the defaults are the protocol's own.

    Attributes:
        receive_maximum: how many QoS 1 messages may be unacknowledged at once.
        maximum_packet_size: bytes of the largest packet it accepts.
        maximum_qos: 1, or 0 for a broker without QoS 1.
        retain_available: whether it keeps retained messages.
    """

    receive_maximum: int = 65535
    maximum_packet_size: int = 268_435_455
    maximum_qos: int = 1
    retain_available: bool = True


class Connection(Protocol):
    """One established MQTT connection; when it ends, a new one is made, never this one again."""

    @property
    def protocol(self) -> ProtocolVersion:
        """The protocol in use."""
        ...

    @property
    def limits(self) -> Limits:
        """What the broker said of itself."""
        ...

    @property
    def session_present(self) -> bool:
        """Whether the broker still had the session."""
        ...

    def has_room(self) -> bool:
        """Return whether the window has room for one more message."""
        ...

    async def room(self) -> bool:
        """Wait until the window has room; return ``False`` when the connection ended first."""
        ...

    def send(self, message: Message) -> asyncio.Future[int | None]:
        """Hand a message to the connection; call it only while ``has_room()``.

        Returns:
            a future of the PUBACK's reason code; ``None`` when the connection ended before it came, so that nobody
            knows whether the broker has the message. It must not be cancelled.

        Raises:
            TooLargeError: the broker does not accept so large a message; nothing was sent.
        """
        ...

    async def subscribe_to(self, filters: Sequence[str]) -> list[int] | None:
        """Subscribe with QoS 1; return a reason code per filter, ``None`` when the connection ended first."""
        ...

    async def receive(self) -> Delivery | None:
        """Return the next message that arrived; ``None`` after the connection has ended."""
        ...

    def acknowledge(self, delivery: Delivery) -> None:
        """Send the PUBACK; for a connection that has ended it does nothing: the broker will send the message again."""
        ...

    async def closed(self) -> Closing:
        """Wait for the end of the connection and return how it ended."""
        ...

    async def disconnect(self) -> None:
        """End the connection with a DISCONNECT packet; the broker then discards the Will."""
        ...


class Connector(Protocol):
    """Makes connections."""

    async def connect(self, attempt: Attempt, will: Message | None) -> Connection:
        """Connect as the attempt says; its wait is the caller's business.

        Raises:
            ConnectFailedError: it was not possible; the message says what to do.
        """
        ...

    async def reachable(self, attempt: Attempt) -> bool:
        """Return whether a TCP connection to the attempt's broker can be made now."""
        ...


class Accept(Protocol):
    """The way into the outbox, for every door."""

    async def __call__(self, submission: Submission) -> str:
        """Return the record's id (``<stream>.<seq>``) once it is on disk or acknowledged by the broker.

        A submission with a key that was accepted before returns the id of that time.

        Raises:
            OutboxError: it was not accepted; the message says why.
        """
        ...


class Notifier(Protocol):
    """The service manager that watches this process."""

    def ready(self, status: str) -> None:
        """Say that start-up is complete."""
        ...

    def reloading(self) -> None:
        """Say that the configuration is being read again; ``ready`` ends it."""
        ...

    def stopping(self) -> None:
        """Say that the stop has begun."""
        ...

    def alive(self) -> None:
        """Feed the watchdog."""
        ...
