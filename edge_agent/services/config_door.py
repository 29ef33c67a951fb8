"""The door of configuration from the cloud: what arrives on ``down/config``, what is said of it on ``up/config``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from edge_agent.core.authority import Authority
from edge_agent.core.cloud_config import Reasons
from edge_agent.core.config_remote import Desired, parse_desired
from edge_agent.core.timebase import DurationNs, later, seconds
from edge_agent.core.topics import Topics
from edge_agent.errors import ConfigError
from edge_agent.ports import Clock, Delivery
from edge_agent.services.config_start import reasons
from edge_agent.services.configuring import Configuring
from edge_agent.services.session import Session

CONFIG: Final = "edge.config.v1"
PAUSE_AT_LEAST: Final = seconds(1)
PAUSE_AT_MOST: Final = seconds(30)
"""After each that was looked at, longer each time that something was changed and more has come: a flood must not wear
out the flash. What was overtaken meanwhile is skipped."""


@dataclass(slots=True)
class ConfigDoor:
    """Configuration over MQTT, on one session after another.

    Attributes:
        configuring: puts it in force.
        topics: of this device.
        authority: returns who may say it.
        clock: where the time comes from.
    """

    configuring: Configuring
    topics: Topics
    authority: Callable[[], Authority]
    clock: Clock
    _session: Session | None = None
    _said: tuple[str, Mapping[str, Any]] | None = None
    _wanted: tuple[Desired | None, asyncio.Future[None]] | None = None
    _bad: tuple[int | None, Reasons] | None = None
    _more: asyncio.Event = field(default_factory=asyncio.Event)
    _pause: DurationNs = PAUSE_AT_LEAST

    def begin(self, session: Session) -> None:
        """Take it from a session from now on; what an earlier one has not acknowledged comes again."""
        self._session = session

    async def advertise(self, session: Session) -> bool:
        """Say what became of it if that is news; return ``False`` when the connection ended first."""
        said = session.name, self.configuring.said()
        if said == self._said or self.configuring.now.is_turning:  # a broker that is being left confirms nothing
            return True
        self._said = said
        is_settled = await session.publish_event(CONFIG, self.topics.config, said[1], retain=True)
        if is_settled:
            self.configuring.confirm(said[1], is_heard=self._is_heard(session))
        return is_settled

    def _is_heard(self, session: Session) -> bool:
        """Whether the broker takes what is said here, and lets the device hear what it is told."""
        now, (told, *_) = self.clock.monotonic(), self.topics.filters(())
        is_said = self.topics.config not in session.refused and session.policy.may_publish(self.topics.config, now)
        return is_said and told not in session.refused and session.policy.batches((told,), now) != []

    def hear(self, delivery: Delivery) -> bool:
        """Take a delivery if it is configuration for this device, to be acknowledged when it cannot be lost."""
        if self._session is None or delivery.topic != self.topics.desired:
            return False
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._session.acknowledge(delivery, taken)
        version: object = None
        try:
            said = self.authority().configuration(delivery.payload)
            version = None if said is None else said.get("version")
            desired = None if said is None else parse_desired(said)
        except (ConfigError, ValueError) as error:
            why = reasons(error) if isinstance(error, ConfigError) else (("", str(error)),)
            self._bad = version if type(version) is int else None, why
            taken.set_result(None)
        else:
            self._want(desired, taken)
        self._more.set()
        return True

    def _want(self, desired: Desired | None, taken: asyncio.Future[None]) -> None:
        """Take what is wanted in place of what was, unless that is newer: an old one may arrive late."""
        before, overtaken = self._wanted or (None, None)
        if desired is not None and before is not None and desired.version < before.version:
            overtaken = taken
        else:
            self._wanted, self._bad = (desired, taken), None
        if overtaken is not None:
            _resolve(overtaken)

    async def serve(self, _session: Session) -> None:
        """Have what arrives put in force, the newest each time, for as long as a session lasts."""
        while True:
            await self._more.wait()
            self._more.clear()
            changed = False
            if self._wanted is not None:
                (desired, taken), self._wanted = self._wanted, None
                changed = await self.configuring.desire(desired, partial(_resolve, taken))
            if self._bad is not None:
                (version, why), self._bad = self._bad, None
                self.configuring.refuse(version, why)
            await self.clock.sleep_until(later(self.clock.monotonic(), self._pause))
            is_flood = changed and self._more.is_set()
            self._pause = min(DurationNs(2 * self._pause), PAUSE_AT_MOST) if is_flood else PAUSE_AT_LEAST


def _resolve(taken: asyncio.Future[None]) -> None:
    if not taken.done():
        taken.set_result(None)
