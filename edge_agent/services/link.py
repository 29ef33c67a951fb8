"""Keeps the device connected: one connection after another, for ever, and a session on each for the others to use."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from edge_agent.core.connection import Attempt, ClosedBy, Closing, ConnectionPolicy
from edge_agent.core.timebase import DurationNs, MonotonicNs, elapsed, later, seconds, to_seconds
from edge_agent.errors import ConnectFailedError
from edge_agent.ports import Clock, Connection, Connector, Delivery
from edge_agent.services.presence import Presence
from edge_agent.services.session import Session, until_closed
from edge_agent.services.watchdog import Liveness

log = logging.getLogger(__name__)

CONNECTS_WITHIN: Final = seconds(60)  # resolver, TCP, TLS and CONNACK, each with a bound of its own
RETURN_FIRST: Final = seconds(300)  # on a broker that is not the first: when to look for the first one
RETURN_LAST: Final = seconds(3600)
SAY_FAILURE_AGAIN: Final = seconds(600)
AT_ONCE_S: Final = 0.5
"""How soon a broker that closes the connection over a record does so."""


class Door(Protocol):
    """Where something goes in that the device is told."""

    def begin(self, session: Session) -> None:
        """Take it from another session from now on."""

    async def advertise(self, session: Session) -> bool:
        """Say what is to be said of it, if that is news; return ``False`` when the connection ended first."""

    async def serve(self, session: Session) -> None:
        """Do what belongs to it for as long as a session lasts."""

    def hear(self, delivery: Delivery) -> bool:
        """Take a delivery, and acknowledge it in time, if it is this door's; return whether it was."""


@dataclass(slots=True)
class Link:
    """The connection loop; ``run`` is its task, ``session`` what others wait for.

    Attributes:
        connector: makes connections.
        policy: decides which, and when.
        presence: what is said on each connection, and heard.
        doors: take what arrives.
        clock: where the time comes from.
        liveness: where progress is promised.
        new_name: names a session; never the same twice.
    """

    connector: Connector
    policy: ConnectionPolicy
    presence: Presence
    doors: Sequence[Door]
    clock: Clock
    liveness: Liveness
    new_name: Callable[[], str]
    _current: Session | None = None
    _open: Session | None = None
    _opened: asyncio.Event = field(default_factory=asyncio.Event)
    _said: dict[str, tuple[str, MonotonicNs]] = field(default_factory=dict)  # by broker
    _return_wait: DurationNs = RETURN_FIRST

    def review(self) -> None:
        """Have told again what has changed."""
        if self._current is not None:
            self._current.changed.set()

    async def session(self) -> Session:
        """Return the session that is open, or wait for the next one."""
        while self._open is None:
            await self._opened.wait()
        return self._open

    async def run(self) -> None:
        """Keep connecting; cancelled, say ``offline`` and disconnect."""
        while True:
            attempt = self.policy.next_attempt(self.clock.monotonic())
            due = later(self.clock.monotonic(), attempt.wait)
            self.liveness.promise("link", later(due, CONNECTS_WITHIN))
            await self.clock.sleep_until(due)
            try:
                connection = await self.connector.connect(attempt, self.presence.will)
            except ConnectFailedError as error:
                self._say_failure(str(attempt.broker), str(error))
                self.policy.failed(error, self.clock.monotonic())
                continue
            self.liveness.release("link")  # from here on only the broker can have something to say
            self.policy.connected(self.clock.monotonic(), will_retained=attempt.will_retained)
            await self._use(connection, attempt)

    async def _use(self, connection: Connection, attempt: Attempt) -> None:
        name, device, since = self.new_name(), self.presence.topics.device, self.clock.now().time
        session = self._current = Session(connection, self.policy, self.clock, name, device, str(attempt.broker), since)
        for door in self.doors:
            door.begin(session)
        self._said.clear()
        said = {"broker": session.broker, "protocol": connection.protocol, "session": name}
        log.info("connected", extra=said)
        begun = self.clock.monotonic()
        try:
            closing = session.closing = await self._serve(session)
        except asyncio.CancelledError:
            await self.presence.farewell(session)
            await connection.disconnect()
            raise
        finally:
            self._open = None
            self._opened.clear()
            session.over.set()
        now = self.clock.monotonic()
        life_s = round(to_seconds(elapsed(begun, now)), 1)
        how = {"by": closing.by.value, "reason": closing.reason, "detail": closing.detail}
        level = logging.INFO if closing.by is ClosedBy.US else logging.WARNING
        log.log(level, "disconnected", extra={"broker": session.broker, **how, "after_s": life_s})
        # answers to those before it may have come just in time; another client takes longer to come back
        is_over_record = session.unanswered is True or (session.is_owed and life_s < AT_ONCE_S)
        if self.policy.closed(closing, session.suspects(), now, unanswered=is_over_record):
            reason = "another client connects with this client id; give each device its own [device] id"
            log.error("client_id_taken_over", extra={"reason": reason})

    async def _serve(self, session: Session) -> Closing:
        """Run all that belongs to a session until the connection ends."""
        work = [self._receive(session), self._begin(session), self.presence.heal(session)]
        work += [door.serve(session) for door in self.doors]
        if not self.policy.on_first_broker:
            work.append(self._return_to_first(session))
        return await until_closed(session.connection, *work)

    async def _begin(self, session: Session) -> None:
        """Say online, subscribe, say how well, let the others in; then keep what was refused under review."""
        begun = await self.presence.begin(session) and await self._subscribe(session)
        if not begun or not await self._tell(session):
            return
        self._open = session
        self._opened.set()
        if self.policy.on_first_broker:
            self._return_wait = RETURN_FIRST
        while True:
            review = self.policy.next_review(self.clock.monotonic())
            await self._changed_or(session, review)
            if review is not None and review <= self.clock.monotonic():
                await self._subscribe(session)
            await self._tell(session)

    async def _tell(self, session: Session) -> bool:
        """Say what is news; return ``False`` when the connection ended first."""
        if not await self.presence.tell_health(session):
            return False
        for door in self.doors:
            if not await door.advertise(session):
                return False
        return True

    async def _changed_or(self, session: Session, review: MonotonicNs | None) -> None:
        left = None if review is None else max(to_seconds(elapsed(self.clock.monotonic(), review)), 0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                await session.changed.wait()
                session.changed.clear()

    async def _subscribe(self, session: Session) -> bool:
        for batch in self.policy.batches(self.presence.topics.filters(self.presence.groups), self.clock.monotonic()):
            if not await session.subscribe(batch):
                return False
        return True

    async def _receive(self, session: Session) -> None:
        while (delivery := await session.connection.receive()) is not None:
            if any(door.hear(delivery) for door in self.doors):
                continue
            if not self.presence.hear(delivery):
                log.debug("message_not_used", extra={"topic": delivery.topic, "bytes": len(delivery.payload)})
            session.acknowledge(delivery)

    async def _return_to_first(self, session: Session) -> None:
        """On a fall-back broker: leave it once the preferred one can be reached again, ever more rarely if in vain."""
        first = self.policy.brokers[0]
        while True:
            await self.clock.sleep_until(later(self.clock.monotonic(), self._return_wait))
            self._return_wait = DurationNs(min(self._return_wait * 2, RETURN_LAST))
            if await self.connector.reachable(first):
                break
        log.info("returning_to_first_broker", extra={"broker": str(first)})
        await self.presence.farewell(session)
        await session.connection.disconnect()

    def _say_failure(self, broker: str, text: str) -> None:
        """Log a failure when it is news; a device may be offline for weeks."""
        now = self.clock.monotonic()
        before, when = self._said.get(broker, ("", now))
        if before != text or elapsed(when, now) >= SAY_FAILURE_AGAIN:
            self._said[broker] = (text, now)
            log.warning("connect_failed", extra={"error": text})
