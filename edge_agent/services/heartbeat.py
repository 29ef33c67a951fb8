"""Says that the device is alive, on a grid that no delay shifts; while offline only the latest is kept."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from edge_agent.core.events import CONTENT_TYPE, HEARTBEAT, HeartbeatData, Stamp
from edge_agent.core.timebase import DurationNs, later, next_on_grid, seconds, to_seconds
from edge_agent.core.topics import Topics
from edge_agent.ports import Clock, Message
from edge_agent.services.link import Link
from edge_agent.services.watchdog import Liveness

LATE_BY: Final = seconds(30)  # how late the loop may wake before the watchdog calls it a hang


@dataclass(slots=True)
class Heartbeat:
    """Measures on the grid, sends when there is a session.

    Attributes:
        link: where sessions come from.
        topics: of this device.
        every: the period.
        measure: the state of the agent now; its ``session`` is filled in when it is sent.
        clock: where the time comes from.
        liveness: where progress is promised.
    """

    link: Link
    topics: Topics
    every: DurationNs
    measure: Callable[[], HeartbeatData]
    clock: Clock
    liveness: Liveness
    _latest: tuple[HeartbeatData, Stamp] | None = None
    _beaten: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Beat until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send(), name="heartbeat-send")
            group.create_task(self._beat(), name="heartbeat-beat")

    async def _beat(self) -> None:
        start = due = self.clock.monotonic()
        try:
            while True:
                await self.clock.sleep_until(due)
                self._latest = self.measure(), self.clock.now()
                self._beaten.set()
                due = next_on_grid(start, self.every, self.clock.monotonic())
                self.liveness.promise("heartbeat", later(due, LATE_BY))
        finally:
            self.liveness.release("heartbeat")

    async def _send(self) -> None:
        expiry_s = max(1, math.ceil(2 * to_seconds(self.every)))
        encoded, payload = None, b""
        while True:
            await self._beaten.wait()
            session = await self.link.session()
            self._beaten.clear()
            assert self._latest is not None, "there is one once it has beaten"
            if encoded is not self._latest:  # else it keeps its bytes: sent twice, it is the same
                data, stamp = encoded = self._latest
                payload = session.event(HEARTBEAT, replace(data, session=session.name), stamp=stamp)
            message = Message(self.topics.heartbeat, payload, expiry_s=expiry_s, content_type=CONTENT_TYPE)
            if not await session.publish(message):
                self._beaten.set()  # this one again on the next session, or the one that has replaced it by then
                await session.over.wait()
