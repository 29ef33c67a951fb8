"""Watches the fleet: keeps one clean connection, subscribes, and tells what happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from edge_agent.core.connection import Attempt, Closing, ConnectionPolicy, Suspect, SuspectKind
from edge_agent.core.fleet import Change, Fleet, printable
from edge_agent.core.timebase import later, seconds
from edge_agent.core.topics import parse_up
from edge_agent.errors import ConnectFailedError
from edge_agent.ports import REFUSED_FROM, Clock, Connection, Connector, Delivery
from edge_agent.services.session import until_closed

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


class Watcher:
    """The connection of an operator; ``run`` is its task.

    Attributes:
        obstacle: why the broker was never reached; ``None`` once it was.
    """

    def __init__(
        self,
        connector: Connector,
        policy: ConnectionPolicy,
        *,
        clock: Clock,
        fleet: Fleet,
        topics: tuple[str, Sequence[str]],
        tell: Callable[[Happening], None],
    ) -> None:
        """Prepare.

        Args:
            connector: makes connections, with a client id of their own and without a session.
            policy: decides which, and when.
            clock: where the time comes from.
            fleet: takes in what the devices say.
            topics: the prefix, and the filters to subscribe to.
            tell: is called with everything that happens.
        """
        self._connector = connector
        self._policy = policy
        self._clock = clock
        self._fleet = fleet
        self._prefix, self._filters = topics
        self._tell = tell
        self._asked: list[Suspect] = []
        self.obstacle: str | None = "the broker did not answer in time"

    async def run(self) -> None:
        """Keep watching; cancelled, disconnect."""
        while True:
            attempt = self._policy.next_attempt(self._clock.monotonic())
            await self._clock.sleep_until(later(self._clock.monotonic(), attempt.wait))
            try:
                connection = await self._connector.connect(attempt, None)
            except ConnectFailedError as error:
                self._policy.failed(error, self._clock.monotonic())
                reason = printable(str(error))
                self.obstacle = self.obstacle and reason
                self._tell(Link("failed", reason))
                continue
            self.obstacle = None
            self._policy.connected(self._clock.monotonic(), will_retained=attempt.will_retained)
            await self._use(connection, attempt)

    async def _use(self, connection: Connection, attempt: Attempt) -> None:
        self._asked = []
        protocol = "5" if connection.protocol == 5 else "3.1.1"
        self._tell(Link("connected", f"{attempt.broker} (MQTT {protocol})"))
        try:
            closing = await self._serve(connection)
        except asyncio.CancelledError:
            await connection.disconnect()
            raise
        self._policy.closed(closing, frozenset(self._asked), self._clock.monotonic())
        self._fleet.doubt()
        self._tell(Link("lost", _reason(closing)))

    async def _serve(self, connection: Connection) -> Closing:
        work = self._receive(connection), self._subscribe(connection), self._look_for_silence()
        return await until_closed(connection, *work)

    async def _receive(self, connection: Connection) -> None:
        while (delivery := await connection.receive()) is not None:
            connection.acknowledge(delivery)
            change = self._hear(delivery)
            if change is not None:
                self._tell(change)

    def _hear(self, delivery: Delivery) -> Change | None:
        where = parse_up(delivery.topic, self._prefix)
        if where is None:
            self._fleet.nonsense += 1
            return None
        return self._fleet.apply(*where, delivery.payload, self._clock.monotonic())

    async def _subscribe(self, connection: Connection) -> None:
        """Subscribe to all; to what the broker closed a connection for, again when its time has come."""
        while True:
            batches = self._policy.batches(self._filters, self._clock.monotonic())
            asked = {name for batch in batches for name in batch}
            for name in self._filters:
                if name not in asked:
                    self._tell(Link("refused", f"{name}: the broker closed the connection on it"))
            for batch in batches:
                if not await self._ask(connection, batch):
                    return
            review = self._policy.next_review(self._clock.monotonic())
            if review is None:
                return
            await self._clock.sleep_until(review)

    async def _ask(self, connection: Connection, batch: tuple[str, ...]) -> bool:
        self._asked = [Suspect(SuspectKind.FILTER, name) for name in batch]
        reasons = await connection.subscribe_to(batch)
        if reasons is None:
            return False
        self._asked = []
        for name, reason in zip(batch, reasons, strict=True):
            if reason >= REFUSED_FROM:
                self._tell(Link("refused", f"{name}: 0x{reason:02X}; may this user subscribe to it?"))
        return True

    async def _look_for_silence(self) -> None:
        while True:
            await self._clock.sleep_until(later(self._clock.monotonic(), LOOK_FOR_SILENCE_EVERY))
            for change in self._fleet.silences(self._clock.monotonic()):
                self._tell(change)


def _reason(closing: Closing) -> str:
    code = "" if closing.reason is None else f"reason 0x{closing.reason:02X}"
    return printable(": ".join(part for part in (f"ended by {closing.by.value}", closing.detail, code) if part))
