"""Silence: probes, and links that die without a sign."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from edge_agent.adapters.mqtt_connector import Login, MqttConnector
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.core.config_models import Tls
from edge_agent.core.config_types import BrokerUrl
from edge_agent.core.connection import Attempt, ClosedBy
from edge_agent.core.timebase import seconds
from edge_agent.ports import Connection, Message
from tests.support.brokers import mosquitto
from tests.support.netns import namespace
from tests.support.scripted_broker import Personality, ScriptedBroker


async def connect(host: str, port: int, *, client_id: str = "quiet") -> Connection:
    """Connect with a keepalive of 5 s."""
    login = Login(client_id, seconds(5), seconds(0), seconds(0), Tls())
    attempt = Attempt(BrokerUrl("mqtt", host, port), 5, will_retained=True, wait=seconds(0))
    return await MqttConnector(login, clock=SystemClock()).connect(attempt, None)


async def test_an_idle_connection_is_probed_at_its_keepalive_and_lives() -> None:
    """One PINGREQ a keepalive, no more, and no other wake-up."""
    async with ScriptedBroker(Personality(server_keep_alive=1)) as broker:
        connection = await connect("127.0.0.1", broker.port)
        await broker.wait_for(lambda: len(broker.connections[0].pings) == 3)
        pings = broker.connections[0].pings
        assert pings[2].at - pings[0].at == pytest.approx(2, abs=0.5)
        assert await connection.send(Message("t", b"x")) == 0
        await connection.disconnect()


async def test_traffic_takes_the_place_of_probes() -> None:
    """While something is sent, nothing needs to be asked."""
    async with ScriptedBroker(Personality(server_keep_alive=1)) as broker:
        connection = await connect("127.0.0.1", broker.port)
        for _ in range(8):
            assert await connection.send(Message("t", b"x")) == 0
            await asyncio.sleep(0.25)
        assert broker.connections[0].pings == []
        await connection.disconnect()


@pytest.mark.root
@pytest.mark.timeout_s(60)
async def test_a_link_that_drops_all_packets_is_noticed(tmp_path: Path) -> None:
    """With a publish in flight within 25 s, idle within keepalive + 25 s; the keepalive here is 5 s."""
    with namespace() as space:
        async with mosquitto(tmp_path, host=space.inside, command_prefix=space.prefix) as broker:
            busy, idle = [await connect(space.inside, broker.port, client_id=name) for name in ("busy", "idle")]
            assert await busy.send(Message("t", b"x")) in {0x00, 0x10}
            space.cut()
            cut = time.monotonic()
            answer = busy.send(Message("t", b"y"))
            assert (await busy.closed()).by in {ClosedBy.SILENCE, ClosedBy.NETWORK}
            assert time.monotonic() - cut <= 25
            assert await answer is None
            assert (await idle.closed()).by in {ClosedBy.SILENCE, ClosedBy.NETWORK}
            assert time.monotonic() - cut <= 5 + 25
            space.heal()  # else the broker cannot be told to stop
