"""The operator's connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import orjson
import pytest

from edge_agent.adapters.mqtt_connector import Login, MqttConnector
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.core.config_models import Tls
from edge_agent.core.config_types import BrokerUrl
from edge_agent.core.connection import ConnectionPolicy
from edge_agent.core.events import HEARTBEAT
from edge_agent.core.fleet import Change, Fleet
from edge_agent.core.timebase import seconds
from edge_agent.core.topics import fleet_filters
from edge_agent.ports import Clock, Connector, Message
from edge_agent.services.watcher import Happening, Link, Watcher
from tests.fakes import FakeBroker, FakeClock, FakeConnector
from tests.support import brokers
from tests.support.scripted_broker import Personality, ScriptedBroker

BEAT = orjson.dumps({"type": HEARTBEAT, "data": {"interval_s": 2}})


class Seen(list[Happening]):
    """What was told, and a way to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.more = asyncio.Event()

    def tell(self, happening: Happening) -> None:
        """Take note."""
        self.append(happening)
        self.more.set()

    async def until(self, found: Callable[[Happening], bool], count: int = 1) -> None:
        """Wait until so many are there."""
        while sum(map(found, self)) < count:
            self.more.clear()
            await self.more.wait()

    def kinds(self) -> list[str]:
        """Return the names of what was told."""
        return [one.kind if isinstance(one, Change) else one.event for one in self]


@contextlib.asynccontextmanager
async def watching(connector: Connector, port: int, clock: Clock) -> AsyncIterator[tuple[Seen, Fleet]]:
    """Run a watcher of the prefix ``edge``."""
    seen, fleet = Seen(), Fleet()
    broker = BrokerUrl("mqtt", "127.0.0.1", port)
    policy = ConnectionPolicy((broker,), protocol=None, reconnect_max=seconds(1), uniform=lambda: 0.1)
    watcher = Watcher(
        connector, policy, clock=clock, fleet=fleet, topics=("edge", fleet_filters("edge")), tell=seen.tell
    )
    task = asyncio.get_running_loop().create_task(watcher.run())
    try:
        yield seen, fleet
    finally:
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()


def connector() -> MqttConnector:
    """Return one without a session, as an operator's is."""
    return MqttConnector(Login("watch", seconds(30), seconds(0), seconds(0), Tls()), clock=SystemClock())


def is_change(happening: Happening) -> bool:
    """Tell what is news of a device."""
    return isinstance(happening, Change)


async def test_changes_are_told_and_deliveries_acknowledged() -> None:
    """Nonsense is acknowledged too, so that no broker waits for it."""
    async with ScriptedBroker() as broker, watching(connector(), broker.port, SystemClock()) as (seen, fleet):
        await broker.wait_for(lambda: bool(broker.connections and broker.connections[0].subscribes))
        assert broker.connections[0].subscribes[0].filters == fleet_filters("edge")
        connect = broker.connections[0].connect
        assert (connect.clean_start, connect.will_topic, connect.session_expiry) == (True, None, 0)
        broker.inject("edge/a/up/status", b"online")
        broker.inject("edge/a/up/heartbeat", b"\xff")
        broker.inject("edge/a/up/heartbeat", BEAT)
        await seen.until(is_change, 2)
        await broker.wait_for(lambda: len(broker.connections[0].pubacks) == 3)
        assert seen.kinds() == ["connected", "status", "heartbeat"]
        assert fleet.nonsense == 1
    assert broker.connections[0].disconnect is not None


async def test_a_lost_connection_is_told_and_made_again() -> None:
    """With its subscriptions, for the broker remembers nothing of a clean session."""
    async with ScriptedBroker() as broker, watching(connector(), broker.port, SystemClock()) as (seen, fleet):
        await broker.wait_for(lambda: bool(broker.connections and broker.connections[0].subscribes))
        broker.inject("edge/a/up/status", b"online", retain=True)
        await seen.until(is_change)
        await broker.stop_listening()
        broker.drop_clients()
        await seen.until(lambda one: isinstance(one, Link) and one.event == "failed")
        assert [row.status for row in fleet.rows(SystemClock().monotonic())] == ["unknown"]
        await broker.listen_again()
        await seen.until(is_change, 2)
        kinds = [kind for kind in seen.kinds() if kind != "failed"]
        assert kinds == ["connected", "status", "lost", "connected", "status"]


async def test_a_refused_subscription_is_told() -> None:
    """The others work."""
    personality = Personality(suback=lambda name: 0x87 if name.endswith("health") else None)
    async with ScriptedBroker(personality) as broker, watching(connector(), broker.port, SystemClock()) as (seen, _):
        await seen.until(lambda one: isinstance(one, Link) and one.event == "refused")
        assert seen[-1] == Link("refused", "edge/+/up/health: 0x87; may this user subscribe to it?")
        broker.inject("edge/a/up/heartbeat", BEAT)
        await seen.until(is_change)


async def test_a_filter_that_costs_the_connection_is_left_out_and_told() -> None:
    """As some clouds refuse."""
    personality = Personality(close_on_subscribe=lambda name: name.endswith("health"))
    async with ScriptedBroker(personality) as broker, watching(connector(), broker.port, SystemClock()) as (seen, _):
        await seen.until(lambda one: isinstance(one, Link) and one.event == "refused")
        assert Link("refused", "edge/+/up/health: the broker closed the connection on it") in seen
        await broker.wait_for(lambda: len(broker.connections[-1].subscribes) >= 2)
        broker.inject("edge/a/up/heartbeat", BEAT)
        await seen.until(is_change)


async def test_an_old_broker_is_spoken_to_in_its_protocol() -> None:
    """MQTT 3.1.1, after one failure."""
    async with (
        ScriptedBroker(Personality(refuse_v5="connack84")) as broker,
        watching(connector(), broker.port, SystemClock()) as (seen, _),
    ):
        await seen.until(lambda one: isinstance(one, Link) and one.event == "connected")
        assert seen.kinds() == ["failed", "connected"]
        assert seen[-1] == Link("connected", f"mqtt://127.0.0.1:{broker.port} (MQTT 3.1.1)")


@pytest.mark.virtual
async def test_silence_is_told_while_nothing_arrives() -> None:
    """In the time of the clock that was passed in."""
    broker = FakeBroker()
    async with watching(FakeConnector(broker, persistent=False), 1, FakeClock()) as (seen, _):
        await seen.until(lambda one: isinstance(one, Link) and one.event == "connected")
        await asyncio.sleep(0.1)
        broker.route(Message("edge/a/up/heartbeat", BEAT))
        broker.route(Message("elsewhere", BEAT))
        await seen.until(lambda one: isinstance(one, Change) and one.kind == "silence")
        assert asyncio.get_running_loop().time() == pytest.approx(6, abs=0.5)
        broker.crash()
        await seen.until(lambda one: isinstance(one, Link) and one.event == "failed")
        assert Link("lost", "ended by peer: crash") in seen


async def test_a_real_broker_says_what_it_retained(tmp_path: Path) -> None:
    """Who comes late still learns who is online."""
    async with brokers.mosquitto(tmp_path) as broker:
        async with watching(connector(), broker.port, SystemClock()) as (seen, _):
            await seen.until(lambda one: isinstance(one, Link) and one.event == "connected")
            publisher = MqttConnector(Login("p", seconds(30), seconds(0), seconds(0), Tls()), clock=SystemClock())
            policy = ConnectionPolicy(
                (BrokerUrl("mqtt", "127.0.0.1", broker.port),),
                protocol=5,
                reconnect_max=seconds(1),
                uniform=lambda: 0.1,
            )
            connection = await publisher.connect(policy.next_attempt(SystemClock().monotonic()), None)
            await connection.send(Message("edge/a/up/status", b"online", retain=True))
            await connection.disconnect()
            await seen.until(is_change)
        async with watching(connector(), broker.port, SystemClock()) as (seen, _):
            await seen.until(is_change)
            assert seen.kinds() == ["connected", "status"]
