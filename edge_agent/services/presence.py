"""Says what the device is: online, and how well; and says so again when somebody says otherwise."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from edge_agent.core.connection import SPOKEN
from edge_agent.core.events import HEALTH
from edge_agent.core.timebase import later, rfc3339, seconds
from edge_agent.core.topics import Topics
from edge_agent.ports import Clock, Delivery, Message
from edge_agent.services.session import Session

log = logging.getLogger(__name__)

ONLINE: Final = b"online"
OFFLINE: Final = b"offline"
HEAL_EVERY: Final = seconds(1)  # so that two who contradict each other do not do it at the speed of the network
FAREWELL_WITHIN_S: Final = 2.0


@dataclass(slots=True)
class Presence:
    """The device's status and health on one session after another.

    Attributes:
        topics: of this device.
        groups: that it belongs to.
        clock: where the time comes from.
        conditions: what else is less than it should be, as stable words.
    """

    topics: Topics
    groups: tuple[str, ...]
    clock: Clock
    conditions: Callable[[], list[str]] = list
    _contradicted: asyncio.Event = field(default_factory=asyncio.Event)
    _leaving: bool = False
    _said: tuple[str, tuple[str, ...]] | None = None  # the session and the reasons that were published last

    @property
    def will(self) -> Message:
        """What the broker is to say of a device that vanished."""
        return Message(self.topics.status, OFFLINE, retain=True)

    async def begin(self, session: Session) -> bool:
        """Say ``online``; return ``False`` when the connection ended first."""
        self._contradicted.clear()
        self._leaving = False
        return await session.publish(Message(self.topics.status, ONLINE, retain=True))

    async def tell_health(self, session: Session) -> bool:
        """Publish the health if it is not what was said last; return ``False`` when the connection ended first."""
        reasons = tuple(
            session.policy.reasons(self.clock.monotonic())
            + [f"refused: {name} (0x{reason:02X})" for name, reason in sorted(session.refused.items())]
            + self.conditions()
        )
        if (session.name, reasons) == self._said:
            return True
        self._said = (session.name, reasons)
        said = {"state": "degraded" if reasons else "ok", "reasons": reasons}
        log.log(logging.WARNING if reasons else logging.INFO, "health", extra=said)
        protocol, since = SPOKEN[session.connection.protocol], rfc3339(session.since)
        connection = {"broker": session.broker, "protocol": protocol, "since": since}
        data = {"session": session.name, **said, "connection": connection}
        return await session.publish_event(HEALTH, self.topics.health, data, retain=True)

    def hear(self, delivery: Delivery) -> bool:
        """Take note of what somebody says of this device on its status topic; return whether it was that."""
        if delivery.topic != self.topics.status:
            return False
        if delivery.payload == OFFLINE and not self._leaving:
            self._contradicted.set()
        return True

    async def heal(self, session: Session) -> None:
        """Say ``online`` again whenever a stale ``offline`` was seen, for as long as the session lasts."""
        while True:
            await self._contradicted.wait()
            self._contradicted.clear()
            log.warning("status_healed", extra={"reason": "the broker said offline of a device that is online"})
            await session.publish(Message(self.topics.status, ONLINE, retain=True))
            await self.clock.sleep_until(later(self.clock.monotonic(), HEAL_EVERY))

    async def farewell(self, session: Session) -> None:
        """Say ``offline`` before a planned end; bounded, for a stop must not hang on a broker."""
        self._leaving = True  # the broker may say it back before it acknowledges it
        try:
            async with asyncio.timeout(FAREWELL_WITHIN_S):
                await session.publish(self.will)
        except TimeoutError:
            log.warning("farewell_unacknowledged", extra={"within_s": FAREWELL_WITHIN_S})
