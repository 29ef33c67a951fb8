"""Watches the fleet: keeps one clean connection, subscribes, and tells what happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from edge_agent.core.connection import SPOKEN, Closing, ConnectionPolicy
from edge_agent.core.fleet import Change, Fleet, printable
from edge_agent.core.timebase import MonotonicNs, later, seconds
from edge_agent.core.topics import parse_up
from edge_agent.errors import ConnectFailedError
from edge_agent.ports import Clock, Connection, Connector, Delivery
from edge_agent.services.session import Session, until_closed

LOOK_FOR_SILENCE_EVERY: Final = seconds(1)


@dataclass(frozen=True, slots=True)
class Link:
    """What became of the connection.

    Attributes:
        event: it was made; it was lost, and is made again; an attempt failed, which is made again; a subscription was
            refused.
        text: the broker and the protocol, or what, and why.
    """

    event: Literal["connected", "lost", "failed", "refused"]
    text: str


Happening: TypeAlias = Link | Change


@dataclass(slots=True)
class Watcher:
    """The connection of an operator; ``run`` is its task.

    Attributes:
        connector: makes connections, with a client id of their own and without a session.
        policy: decides which, and when.
        clock: where the time comes from.
        fleet: takes in what the devices say.
        topics: the prefix, and the filters to subscribe to.
        tell: is called with everything that happens.
        obstacle: why the broker was never reached; ``None`` once it was.
    """

    connector: Connector
    policy: ConnectionPolicy
    clock: Clock
    fleet: Fleet
    topics: tuple[str, Sequence[str]]
    tell: Callable[[Happening], None]
    obstacle: str | None = "the broker did not answer in time"

    async def run(self) -> None:
        """Keep watching; cancelled, disconnect."""
        while True:
            attempt = self.policy.next_attempt(self.clock.monotonic())
            await self.clock.sleep_until(later(self.clock.monotonic(), attempt.wait))
            try:
                connection = await self.connector.connect(attempt, None)
            except ConnectFailedError as error:
                self.policy.failed(error, self.clock.monotonic())
                reason = printable(str(error))
                self.obstacle = self.obstacle and reason
                self.tell(Link("failed", reason))
                continue
            self.obstacle = None
            self.policy.connected(self.clock.monotonic(), will_retained=attempt.will_retained)
            since = self.clock.now().time
            await self._use(Session(connection, self.policy, self.clock, "watch", "", str(attempt.broker), since))

    async def _use(self, session: Session) -> None:
        connection = session.connection
        self.tell(Link("connected", f"{session.broker} (MQTT {SPOKEN[connection.protocol]})"))
        work = self._receive(connection), self._subscribe(session), self._look_for_silence()
        try:
            closing = await until_closed(connection, *work)
        except asyncio.CancelledError:
            await connection.disconnect()
            raise
        self.policy.closed(closing, session.suspects(), self.clock.monotonic())
        self.fleet.doubt()
        self.tell(Link("lost", _reason(closing)))

    async def _receive(self, connection: Connection) -> None:
        while (delivery := await connection.receive()) is not None:
            connection.acknowledge(delivery)
            change = self._hear(delivery)
            if change is not None:
                self.tell(change)

    def _hear(self, delivery: Delivery) -> Change | None:
        where = parse_up(delivery.topic, self.topics[0])
        if where is None:
            self.fleet.nonsense += 1
            return None
        return self.fleet.apply(*where, delivery.payload, self.clock.monotonic())

    async def _subscribe(self, session: Session) -> None:
        """Subscribe to all; to what the broker closed a connection for, again when its time has come."""
        _, filters = self.topics
        review: MonotonicNs | None = self.clock.monotonic()
        while review is not None:
            await self.clock.sleep_until(review)
            batches = self.policy.batches(filters, review)
            for name in sorted(set(filters).difference(*batches)):
                self.tell(Link("refused", f"{name}: the broker closed the connection on it"))
            for batch in batches:
                if not await session.subscribe(batch):
                    return
            for name, reason in session.refused.items():
                self.tell(Link("refused", f"{name}: 0x{reason:02X}; may this user subscribe to it?"))
            await self._subscribed(session)
            review = self.policy.next_review(self.clock.monotonic())

    async def _subscribed(self, session: Session) -> None:
        """Do what has to wait for the subscriptions: here nothing."""

    async def _look_for_silence(self) -> None:
        while True:
            await self.clock.sleep_until(later(self.clock.monotonic(), LOOK_FOR_SILENCE_EVERY))
            for change in self.fleet.silences(self.clock.monotonic()):
                self.tell(change)


def _reason(closing: Closing) -> str:
    code = "" if closing.reason is None else f"reason 0x{closing.reason:02X}"
    return printable(": ".join(part for part in (f"ended by {closing.by.value}", closing.detail, code) if part))
