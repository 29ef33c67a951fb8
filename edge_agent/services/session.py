"""One MQTT connection as the rest of the agent sees it: it names its messages, and knows what the broker refuses."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from edge_agent.core.connection import Closing, ConnectionPolicy, Suspect
from edge_agent.core.events import CONTENT_TYPE, Origin, Stamp, encode
from edge_agent.core.timebase import UtcNs
from edge_agent.errors import TooLargeError
from edge_agent.ports import REFUSED_FROM, Clock, Connection, Delivery, Message

PACKET_TOO_LARGE: Final = 0x95  # MQTT 5 §2.4


async def until_closed(connection: Connection, *work: Coroutine[Any, Any, None]) -> Closing:
    """Run what belongs to a connection until it ends, and return how it did."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in work]
        closing = await connection.closed()
        for task in tasks:
            task.cancel()
    return closing


@dataclass(slots=True)
class Session:
    """A connection, its name, and what is outstanding on it.

    Attributes:
        name: new at each connection; the stream of what is not in the outbox.
        device: the device's id.
        broker: the broker's URL.
        since: when it was made.
        refused: topics and filters that the broker refuses, with its reason code.
        changed: set when that changes.
        unanswered: whether records were sent on it and none was answered, or at least not the one over which the last
            connection may have ended; ``None`` = none was sent.
        is_owed: whether any record that was sent on it has not been answered yet.
        closing: how it ended.
        over: set once the link has let go of it and will hand it out no more.
    """

    connection: Connection
    policy: ConnectionPolicy
    clock: Clock
    name: str
    device: str
    broker: str
    since: UtcNs
    refused: dict[str, int] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    unanswered: bool | None = None
    is_owed: bool = False
    closing: Closing | None = None
    _seq: int = 0
    _outstanding: list[Suspect] = field(default_factory=list)
    _arrived: deque[tuple[Delivery, asyncio.Future[Any] | None]] = field(default_factory=deque)

    def event(
        self,
        event_type: str,
        data: object,
        *,
        stamp: Stamp | None = None,
        subject: str | None = None,
        traceparent: str | None = None,
    ) -> bytes:
        """Return an event of this session's stream, encoded, with the next number."""
        self._seq += 1
        origin = Origin(self.device, self.name, self._seq)
        made = stamp or self.clock.now()
        return encode(event_type, origin=origin, stamp=made, data=data, subject=subject, traceparent=traceparent)

    async def publish(self, message: Message) -> bool:
        """Publish and wait for the acknowledgement.

        Returns:
            whether the message is settled: the broker has it, or refuses it for a reason that trying again will not
            change. ``False`` = the connection ended first.
        """
        now = self.clock.monotonic()
        if not self.policy.may_publish(message.topic, now):
            return True
        retain = message.retain and self.policy.may_retain(now)
        suspect = Suspect("retained" if retain else "topic", message.topic)
        if not await self.connection.room():
            return False
        try:
            acknowledged = self.connection.send(message._replace(retain=retain))
        except TooLargeError:
            self._note(message.topic, PACKET_TOO_LARGE)  # said here in the broker's place
            return True
        self._outstanding.append(suspect)
        # Whether or not the caller still waits for it by then, the answer is taken note of.
        acknowledged.add_done_callback(lambda answer: self._answered(suspect, answer.result()))
        return await asyncio.shield(acknowledged) is not None

    def _answered(self, suspect: Suspect, reason: int | None) -> None:
        if reason is None:
            return  # stays outstanding: the end of the connection is explained by it
        self._outstanding.remove(suspect)
        self._note(suspect.name, reason)
        if reason < REFUSED_FROM:
            self.policy.accepted(suspect)

    def offer(self, message: Message) -> None:
        """Publish at once or not at all: what is not worth waiting for."""
        if not (self.connection.has_room() and self.policy.may_publish(message.topic, self.clock.monotonic())):
            return
        with contextlib.suppress(TooLargeError):
            acknowledged = self.connection.send(message)
            suspect = Suspect("topic", message.topic)
            self._outstanding.append(suspect)  # a broker may close the connection over it
            acknowledged.add_done_callback(
                lambda one: None if one.result() is None else self._outstanding.remove(suspect)
            )

    def acknowledge(self, delivery: Delivery, once: asyncio.Future[Any] | None = None) -> None:
        """Acknowledge a delivery, now or ``once`` something is done; never before those that came before it.

        The order is MQTT's (MQTT 5 §4.6).
        """
        self._arrived.append((delivery, once))
        if once is not None and not once.done():
            once.add_done_callback(lambda _: self._acknowledge())
        self._acknowledge()

    def _acknowledge(self) -> None:
        while self._arrived and ((once := self._arrived[0][1]) is None or once.done()):
            self.connection.acknowledge(self._arrived.popleft()[0])

    async def publish_event(self, event_type: str, topic: str, data: object, *, retain: bool = False) -> bool:
        """Encode and publish; see ``publish``."""
        payload = self.event(event_type, data)
        return await self.publish(Message(topic, payload, retain=retain, content_type=CONTENT_TYPE))

    async def subscribe(self, filters: tuple[str, ...]) -> bool:
        """Subscribe in one packet; return ``False`` when the connection ended first."""
        suspects = [Suspect("filter", name) for name in filters]
        self._outstanding += suspects
        reasons = await self.connection.subscribe_to(filters)
        if reasons is None:
            return False
        for suspect, reason in zip(suspects, reasons, strict=True):
            self._outstanding.remove(suspect)
            self._note(suspect.name, reason)
        return True

    def suspects(self) -> frozenset[Suspect]:
        """Return what was outstanding when the connection ended."""
        return frozenset(self._outstanding)

    def _note(self, name: str, reason: int) -> None:
        before = self.refused.pop(name, None)
        if reason >= REFUSED_FROM:
            self.refused[name] = reason
        if self.refused.get(name) != before:
            self.changed.set()
