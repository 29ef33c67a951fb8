"""The sign of life, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from edge_agent.core.events import AgentData, ConfigData, HeartbeatData
from edge_agent.core.timebase import seconds
from edge_agent.ports import Message
from edge_agent.services.heartbeat import Heartbeat
from edge_agent.services.watchdog import Liveness
from tests.fakes import FakeBroker, FakeClock, fake_link

BEAT = HeartbeatData(0, "boot", None, 60.0, AgentData("1", 1, 1), ConfigData("d"))
TOPIC = "edge/dev-1/up/heartbeat"


class Pulse:
    """A heartbeat service on a fake link."""

    def __init__(self, broker: FakeBroker, *, every_s: float = 60) -> None:
        self.broker, self.clock, self.liveness = broker, FakeClock(), Liveness()
        self.link, topics = fake_link(broker, clock=self.clock, liveness=self.liveness)
        self.service = Heartbeat(
            self.link,
            topics=topics,
            every=seconds(every_s),
            measure=lambda: BEAT,
            clock=self.clock,
            liveness=self.liveness,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run link and heartbeat."""
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(self.link.run()), loop.create_task(self.service.run())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def beats(self) -> list[dict[str, Any]]:
        """Return the heartbeats that the broker has."""
        return [json.loads(message.payload) for message in self.broker.log if message.topic == TOPIC]


@pytest.mark.virtual
async def test_it_beats_at_once_and_then_on_its_grid_for_two_days() -> None:
    """2,881 heartbeats, none late by drift, each id once, sequence without a hole."""
    pulse = Pulse(FakeBroker())
    async with pulse.running():
        await asyncio.sleep(2 * 86400 + 1)
        beats = pulse.beats()
    assert len(beats) == 2 * 1440 + 1
    assert len({beat["id"] for beat in beats}) == len(beats)
    offsets = {(int(beat["time"][17:19]) + int(beat["time"][20:26]) / 1e6) % 60 for beat in beats}
    assert max(offsets) - min(offsets) < 0.01


@pytest.mark.virtual
async def test_of_a_long_outage_only_the_latest_is_sent() -> None:
    """Two days away: one heartbeat when it is back, the one that was due last, with its own time."""
    pulse = Pulse(FakeBroker())
    async with pulse.running():
        await asyncio.sleep(90)
        pulse.broker.crash()
        await asyncio.sleep(2 * 86400)
        before = len(pulse.beats())
        pulse.broker.up = True
        await asyncio.sleep(61)
        fresh = pulse.beats()[before:]
    assert 1 <= len(fresh) <= 3
    first = fresh[0]
    assert first["data"]["session"] in first["id"]


@pytest.mark.virtual
async def test_one_that_was_not_acknowledged_is_sent_again_as_it_was() -> None:
    """Same id, same bytes: a consumer can tell."""
    seen: list[bytes] = []

    def unanswered(message: Message) -> int | None:
        if message.topic != TOPIC:
            return 0
        seen.append(message.payload)
        return None

    broker = FakeBroker(verdict=unanswered)
    pulse = Pulse(broker)
    async with pulse.running():
        await asyncio.sleep(10)
        broker.verdict = None
        broker.crash()
        broker.up = True
        await asyncio.sleep(10)
        seen += [message.payload for message in broker.log if message.topic == TOPIC]
    assert seen == [seen[0], seen[0]]


@pytest.mark.virtual
async def test_a_lost_one_gives_way_to_a_newer_one() -> None:
    """Unacknowledged, and the next was due before the connection was back: only the newer is sent."""
    broker = FakeBroker(puback=lambda topic: None if topic == TOPIC else 0)
    pulse = Pulse(broker)
    async with pulse.running():
        await asyncio.sleep(10)
        broker.puback = lambda _topic: 0
        broker.crash()
        await asyncio.sleep(120)
        broker.up = True
        await asyncio.sleep(5)
        assert len(pulse.beats()) == 1


@pytest.mark.virtual
async def test_a_step_of_the_wall_clock_changes_nothing_but_the_time_it_tells() -> None:
    """An hour forward and two back: the beats stay a minute apart."""
    pulse = Pulse(FakeBroker())
    arrivals: list[float] = []
    async with pulse.running():
        for step_s in (0, 3600, -7200):
            pulse.clock.utc_offset = type(pulse.clock.utc_offset)(pulse.clock.utc_offset + seconds(step_s))
            count = len(pulse.beats())
            await asyncio.sleep(600)
            arrivals.append(len(pulse.beats()) - count)
    assert all(count in {10, 11} for count in arrivals)


@pytest.mark.virtual
async def test_it_promises_its_next_beat() -> None:
    """The watchdog may know when it is late, and owes it nothing once it has ended."""
    pulse = Pulse(FakeBroker())
    async with pulse.running():
        await asyncio.sleep(30)
        now = pulse.clock.monotonic()
        assert pulse.liveness.overdue(now) == []
        assert "heartbeat" in pulse.liveness.overdue(type(now)(now + seconds(61)))
    assert pulse.liveness.overdue(type(now)(now + seconds(10**6))) == []


@pytest.mark.virtual
async def test_it_does_not_spin_between_the_end_of_a_connection_and_the_link_s_notice_of_it() -> None:
    """A publish that ends with its connection waits for the next session, and lets everybody else run meanwhile."""
    broker = FakeBroker(puback=lambda topic: None if topic == TOPIC else 0)
    pulse = Pulse(broker)
    async with pulse.running():
        await asyncio.sleep(1)
        broker.crash()
        async with asyncio.timeout(5):
            await asyncio.sleep(1)
        assert pulse.beats() == []
