"""What every MQTT connection promises: one suite for the fake, for three real brokers and for a scripted one."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_agent.adapters.mqtt_connector import Login, MqttConnector
from edge_agent.adapters.mqtt_link import MqttConnection
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.core.config_models import Tls
from edge_agent.core.config_types import BrokerUrl
from edge_agent.core.connection import Attempt, ClosedBy, Closing, ProtocolVersion
from edge_agent.core.timebase import seconds
from edge_agent.errors import ConnectFailedError, ConnectFailure
from edge_agent.ports import Connection, Connector, Delivery, Message
from tests.fakes import FakeBroker, FakeConnection, FakeConnector
from tests.support import brokers
from tests.support.scripted_broker import Personality, ScriptedBroker

names = itertools.count(1)


@dataclass(slots=True)
class Place:
    """A broker and the way to it."""

    connector: Callable[[str], Connector]
    attempt: Attempt
    crash: Callable[[], Awaitable[None]]

    async def connect(self, client_id: str = "", *, will: Message | None = None) -> Connection:
        """Connect under a name of its own unless one is given."""
        return await self.connector(client_id or f"c{next(names)}").connect(self.attempt, will)


def login(client_id: str) -> Login:
    """Return a login with a persistent session."""
    return Login(client_id, seconds(60), seconds(3600), seconds(0), Tls())


def real_place(port: int, protocol: ProtocolVersion, crash: Callable[[], Awaitable[None]]) -> Place:
    """Return the way to a broker on loopback."""
    attempt = Attempt(BrokerUrl("mqtt", "127.0.0.1", port), protocol, will_retained=True, wait=seconds(0))
    return Place(lambda client_id: MqttConnector(login(client_id), clock=SystemClock()), attempt, crash)


@contextlib.asynccontextmanager
async def place_of(kind: str, tmp_path: Path) -> AsyncIterator[Place]:
    """Start the broker of that kind."""
    match kind:
        case "fake":
            fake = FakeBroker()

            async def crash() -> None:
                fake.crash()

            attempt = Attempt(BrokerUrl("mqtt", "fake", 1883), 5, will_retained=True, wait=seconds(0))
            yield Place(lambda client_id: FakeConnector(fake, client_id=client_id), attempt, crash)
        case "mosquitto-5" | "mosquitto-3.1.1":
            async with brokers.mosquitto(tmp_path) as broker:
                yield real_place(broker.port, 5 if kind.endswith("-5") else 4, broker.kill)
        case "nats-3.1.1":
            async with brokers.nats(tmp_path) as broker:
                yield real_place(broker.port, 4, broker.kill)
        case "iotcore-5":
            async with brokers.iotcore(tmp_path) as broker:
                yield real_place(broker.port, 5, broker.kill)
        case _:
            async with ScriptedBroker(Personality()) as scripted:

                async def drop() -> None:
                    await scripted.stop_listening()
                    scripted.drop_clients()

                yield real_place(scripted.port, 5 if kind.endswith("-5") else 4, drop)


KINDS = ["fake", "scripted-5", "scripted-3.1.1", "mosquitto-5", "mosquitto-3.1.1", "nats-3.1.1", "iotcore-5"]
PERSISTENT = [kind for kind in KINDS if not kind.startswith("scripted")]  # the scripted one keeps no sessions


def accepted(answers: list[int | None]) -> list[int]:
    """Return the reason codes; 0x10 says that nobody listens, which is none of the publisher's business."""
    assert all(answer in {0x00, 0x10} for answer in answers), answers
    return [answer for answer in answers if answer is not None]


def vanish(connection: Connection) -> None:
    """End a connection without a word, as a power cut does."""
    gone = Closing(ClosedBy.NETWORK)
    if isinstance(connection, FakeConnection):
        connection.end(gone)
    else:
        assert isinstance(connection, MqttConnection)
        connection._give_up(gone)


async def soon(connection: Connection) -> Delivery:
    """Return the next delivery; the connection must not end first."""
    async with asyncio.timeout(30):
        delivery = await connection.receive()
    assert delivery is not None
    return delivery


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_published_is_acknowledged_and_arrives(kind: str, tmp_path: Path) -> None:
    """In order, with payload and topic as they were sent."""
    async with place_of(kind, tmp_path) as place:
        connection = await place.connect()
        assert await connection.subscribe_to(["t/#", "u/+"]) == [1, 1]
        sent = [connection.send(Message("t/a", b"%d" % number)) for number in range(10)]
        assert max(accepted(await asyncio.gather(*sent))) == 0
        arrived = []
        for _ in range(10):
            delivery = await soon(connection)
            connection.acknowledge(delivery)
            arrived.append((delivery.topic, delivery.payload, delivery.qos))
        assert arrived == [("t/a", b"%d" % number, 1) for number in range(10)]
        await connection.disconnect()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_retained_message_waits_for_who_comes_later(kind: str, tmp_path: Path) -> None:
    """And it is seen to be retained."""
    async with place_of(kind, tmp_path) as place:
        first = await place.connect()
        accepted([await first.send(Message("t/kept", b"v", retain=True))])
        second = await place.connect()
        await second.subscribe_to(["t/kept"])
        delivery = await soon(second)
        assert (delivery.payload, delivery.retained) == (b"v", True)
        second.acknowledge(delivery)
        await first.disconnect()
        await second.disconnect()


@pytest.mark.parametrize("kind", PERSISTENT)
async def test_only_what_was_acknowledged_is_not_delivered_again(kind: str, tmp_path: Path) -> None:
    """The session is still there, and in it what nobody acknowledged: the agent may die before it has acted."""
    async with place_of(kind, tmp_path) as place:
        connection = await place.connect("worker")
        await connection.subscribe_to(["cmd"])
        for number in range(3):
            accepted([await connection.send(Message("cmd", b"%d" % number))])
        handled = await soon(connection)
        assert handled.payload == b"0"
        connection.acknowledge(handled)
        while (await soon(connection)).payload != b"2":
            pass
        await connection.disconnect()
        again = await place.connect("worker")
        assert [(await soon(again)).payload for _ in range(2)] == [b"1", b"2"]
        await again.disconnect()


@pytest.mark.parametrize("kind", KINDS)
async def test_the_will_speaks_for_who_vanished_and_not_for_who_left(kind: str, tmp_path: Path) -> None:
    """A DISCONNECT discards the Will; the end of the stream without one does not."""
    async with place_of(kind, tmp_path) as place:
        watcher = await place.connect()
        await watcher.subscribe_to(["w/+"])
        leaver = await place.connect(will=Message("w/leaver", b"offline"))
        await leaver.disconnect()
        assert (await leaver.closed()).by is ClosedBy.US
        vanish(await place.connect(will=Message("w/vanisher", b"offline")))
        delivery = await soon(watcher)
        assert (delivery.topic, delivery.payload) == ("w/vanisher", b"offline")
        await watcher.disconnect()


@pytest.mark.parametrize("kind", KINDS)
async def test_who_is_taken_over_is_told_and_whatever_waits_is_released(kind: str, tmp_path: Path) -> None:
    """The end is the peer's doing, with 0x8E where the protocol can say so."""
    async with place_of(kind, tmp_path) as place:
        first = await place.connect("same")
        second = await place.connect("same")
        async with asyncio.timeout(30):
            closing = await first.closed()
            assert await first.receive() is None
        assert closing.by is ClosedBy.PEER
        if kind in {"fake", "scripted-5"}:  # mosquitto 2.0.11 only closes, which is why three closes count as well
            assert closing.reason == 0x8E
        accepted([await second.send(Message("t", b"x"))])
        await second.disconnect()


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_stays_pending_when_the_broker_dies(kind: str, tmp_path: Path) -> None:
    """Publishes in flight, waits for room, for messages and for subscriptions all end at once, unanswered."""
    async with place_of(kind, tmp_path) as place:
        connection = await place.connect()
        receiving = asyncio.get_running_loop().create_task(connection.receive())
        accepted([await connection.send(Message("t", b"x"))])
        await place.crash()
        async with asyncio.timeout(30):
            closing = await connection.closed()
            assert await receiving is None
            assert await connection.send(Message("t", b"y")) is None
            assert await connection.room() is False
            assert await connection.subscribe_to(["t"]) is None
        assert closing.by is ClosedBy.PEER
        assert not connection.has_room()
        with pytest.raises(ConnectFailedError) as failed:
            await place.connect()
        assert failed.value.failure is ConnectFailure.UNREACHABLE


@pytest.mark.parametrize("kind", KINDS)
async def test_a_publish_in_flight_at_the_end_is_answered_by_nobody_knows(kind: str, tmp_path: Path) -> None:
    """Its future resolves to ``None``, at once, and never raises."""
    async with place_of(kind, tmp_path) as place:
        connection = await place.connect()
        in_flight = [connection.send(Message("t", b"x" * 100)) for _ in range(20)]
        crash = place.crash()
        await crash
        async with asyncio.timeout(30):
            answers = await asyncio.gather(*in_flight)
        accepted([answer for answer in answers if answer is not None])


@pytest.mark.parametrize("kind", KINDS)
async def test_thousands_go_through_the_window_in_order(kind: str, tmp_path: Path) -> None:
    """More than the window at once: each waits for room, none is lost, all are acknowledged."""
    async with place_of(kind, tmp_path) as place:
        connection = await place.connect()
        answers: list[asyncio.Future[int | None]] = []
        for number in range(3000):
            assert await connection.room()
            answers.append(connection.send(Message("t", b"%d" % number)))
        accepted(await asyncio.gather(*answers))
        await connection.disconnect()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_disconnect_may_be_asked_for_twice(kind: str, tmp_path: Path) -> None:
    """The second is nothing."""
    async with place_of(kind, tmp_path) as place:
        connection = await place.connect()
        await connection.disconnect()
        await connection.disconnect()
        assert (await connection.closed()).by is ClosedBy.US
