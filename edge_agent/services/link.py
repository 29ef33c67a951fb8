"""Keeps the device connected: one connection after another, for ever, and a session on each for the others to use."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

from edge_agent.core.connection import Attempt, ClosedBy, Closing, ConnectionPolicy
from edge_agent.core.liveness import Liveness
from edge_agent.core.timebase import DurationNs, MonotonicNs, elapsed, later, seconds, to_seconds
from edge_agent.errors import ConnectFailedError
from edge_agent.ports import Clock, Connection, Connector, Delivery
from edge_agent.services.presence import Presence
from edge_agent.services.session import Session, until_closed

log = logging.getLogger(__name__)

CONNECTS_WITHIN: Final = seconds(60)  # resolver, TCP, TLS and CONNACK, each with a bound of its own
RETURN_FIRST: Final = seconds(300)  # on a broker that is not the first: when to look for the first one
RETURN_LAST: Final = seconds(3600)
SAY_FAILURE_AGAIN: Final = seconds(600)


class Link:
    """The connection loop; ``run`` is its task, ``session`` what others wait for."""

    def __init__(
        self,
        connector: Connector,
        policy: ConnectionPolicy,
        *,
        presence: Presence,
        clock: Clock,
        liveness: Liveness,
        new_name: Callable[[], str],
    ) -> None:
        """Prepare.

        Args:
            connector: makes connections.
            policy: decides which, and when.
            presence: what is said on each connection, and heard.
            clock: where the time comes from.
            liveness: where progress is promised.
            new_name: names a session; never the same twice.
        """
        self._connector = connector
        self._policy = policy
        self._presence = presence
        self._clock = clock
        self._liveness = liveness
        self._new_name = new_name
        self._open: asyncio.Future[Session] | None = None
        self._said: dict[str, tuple[str, MonotonicNs]] = {}  # by broker
        self._return_wait = RETURN_FIRST
        self._unused = 0

    def review(self) -> None:
        """Have the health told again if it has changed."""
        if self._open is not None and self._open.done():
            self._open.result().changed.set()

    async def session(self) -> Session:
        """Return the session that is open, or wait for the next one."""
        if self._open is None:
            self._open = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self._open)

    async def run(self) -> None:
        """Keep connecting; cancelled, say ``offline`` and disconnect."""
        while True:
            attempt = self._policy.next_attempt(self._clock.monotonic())
            due = later(self._clock.monotonic(), attempt.wait)
            self._liveness.promise("link", later(due, CONNECTS_WITHIN))
            await self._clock.sleep_until(due)
            try:
                connection = await self._connector.connect(attempt, self._presence.will)
            except ConnectFailedError as error:
                self._say_failure(str(attempt.broker), str(error))
                self._policy.failed(error, self._clock.monotonic())
                continue
            self._liveness.release("link")  # from here on only the broker can have something to say
            self._policy.connected(self._clock.monotonic(), will_retained=attempt.will_retained)
            await self._use(connection, attempt)

    async def _use(self, connection: Connection, attempt: Attempt) -> None:
        session = Session(
            connection=connection,
            policy=self._policy,
            clock=self._clock,
            name=self._new_name(),
            device=self._presence.device,
            broker=str(attempt.broker),
            since=self._clock.now().time,
        )
        self._said.clear()
        log.info(
            "connected",
            extra={"broker": session.broker, "protocol": connection.protocol, "session": session.name},
        )
        begun = self._clock.monotonic()
        try:
            closing = session.closing = await self._serve(session)
        except asyncio.CancelledError:
            await self._presence.farewell(session)
            await connection.disconnect()
            raise
        finally:
            self._close(session)
        life = elapsed(begun, self._clock.monotonic())
        log.log(
            logging.INFO if closing.by is ClosedBy.US else logging.WARNING,
            "disconnected",
            extra={
                "broker": session.broker,
                "by": closing.by.value,
                "reason": closing.reason,
                "detail": closing.detail,
                "after_s": round(to_seconds(life), 1),
            },
        )
        now = self._clock.monotonic()
        known = self._policy.taken_over(now)
        self._policy.closed(closing, session.suspects(), now, unanswered=session.unanswered is True)
        if self._policy.taken_over(now) and not known:
            log.error(
                "client_id_taken_over",
                extra={"reason": "another client connects with this client id; give each device its own [device] id"},
            )

    async def _serve(self, session: Session) -> Closing:
        """Run all that belongs to a session until the connection ends."""
        work = [self._receive(session), self._begin(session), self._presence.heal(session)]
        if not self._policy.on_first_broker:
            work.append(self._return_to_first(session))
        return await until_closed(session.connection, *work)

    async def _begin(self, session: Session) -> None:
        """Say online, subscribe, say how well, let the others in; then keep what was refused under review."""
        if not await self._presence.begin(session) or not await self._subscribe(session):
            return
        if not await self._presence.tell_health(session):
            return
        self._admit(session)
        while True:
            review = self._policy.next_review(self._clock.monotonic())
            await self._changed_or(session, review)
            if review is not None and review <= self._clock.monotonic():
                await self._subscribe(session)
            await self._presence.tell_health(session)

    async def _changed_or(self, session: Session, review: MonotonicNs | None) -> None:
        left = None if review is None else max(to_seconds(elapsed(self._clock.monotonic(), review)), 0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                await session.changed.wait()
                session.changed.clear()

    async def _subscribe(self, session: Session) -> bool:
        for batch in self._policy.batches(self._presence.filters, self._clock.monotonic()):
            if not await session.subscribe(batch):
                return False
        return True

    async def _receive(self, session: Session) -> None:
        while (delivery := await session.connection.receive()) is not None:
            if not self._presence.hear(delivery):
                self._say_unused(delivery)
            session.connection.acknowledge(delivery)

    async def _return_to_first(self, session: Session) -> None:
        """On a fall-back broker: leave it once the preferred one can be reached again, ever more rarely if in vain."""
        first = self._policy.first_attempt()
        while True:
            await self._clock.sleep_until(later(self._clock.monotonic(), self._return_wait))
            self._return_wait = DurationNs(min(self._return_wait * 2, RETURN_LAST))
            if await self._connector.reachable(first):
                break
        log.info("returning_to_first_broker", extra={"broker": str(first.broker)})
        await self._presence.farewell(session)
        await session.connection.disconnect()

    def _admit(self, session: Session) -> None:
        if self._open is None:
            self._open = asyncio.get_running_loop().create_future()
        self._open.set_result(session)
        if self._policy.on_first_broker:
            self._return_wait = RETURN_FIRST

    def _close(self, session: Session) -> None:
        if self._open is not None and self._open.done():
            self._open = None
        session.over.set()

    def _say_unused(self, delivery: Delivery) -> None:
        """Log the first, second, fourth, eighth … message that no part uses: a flood must not fill the log."""
        self._unused += 1
        if self._unused & (self._unused - 1) == 0:
            extra = {"topic": delivery.topic, "bytes": len(delivery.payload), "count": self._unused}
            log.warning("message_not_used", extra=extra)

    def _say_failure(self, broker: str, text: str) -> None:
        """Log a failure when it is news; a device may be offline for weeks."""
        now = self._clock.monotonic()
        before, when = self._said.get(broker, ("", now))
        if before != text or elapsed(when, now) >= SAY_FAILURE_AGAIN:
            self._said[broker] = (text, now)
            log.warning("connect_failed", extra={"error": text})
