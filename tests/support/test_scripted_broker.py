"""The scripted broker, driven by aiomqtt and, where a client must misbehave, by hand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from tests.support.scripted_broker import (
    HOST,
    Connect,
    Disconnect,
    Personality,
    Ping,
    PubAck,
    Publish,
    ScriptedBroker,
    Subscribe,
    Unsubscribe,
    aws_iot_core,
    azure_event_grid,
    topic_matches,
)

V5 = aiomqtt.ProtocolVersion.V5
V311 = aiomqtt.ProtocolVersion.V311
BOTH = pytest.mark.parametrize("protocol", [V5, V311])


def properties_of(packet_type: int) -> Properties:
    """Return an empty set of MQTT 5 properties."""
    return Properties(packet_type)  # type: ignore[no-untyped-call]


def client(
    broker: ScriptedBroker,
    *,
    protocol: aiomqtt.ProtocolVersion = V5,
    name: str = "dev",
    will: aiomqtt.Will | None = None,
    keep: bool = False,
    properties: Properties | None = None,
    keepalive: int = 60,
) -> aiomqtt.Client:
    """Return a client that is not connected yet; ``keep`` asks for a session that lasts."""
    if keep and protocol == V5:
        properties = properties or properties_of(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600
    return aiomqtt.Client(
        HOST,
        broker.port,
        protocol=protocol,
        identifier=name,
        will=will,
        timeout=2,
        keepalive=keepalive,
        properties=properties,
        clean_session=not keep if protocol == V311 else None,
        clean_start=not keep if protocol == V5 else 3,
    )


@contextlib.asynccontextmanager
async def losing(opened: aiomqtt.Client) -> AsyncIterator[aiomqtt.Client]:
    """Connect, and forgive the loss of the connection at the end."""
    with contextlib.suppress(aiomqtt.MqttError):
        async with opened:
            yield opened


class RawClient:
    """Sends bytes and reads packets."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def packet(self) -> bytes:
        """Return the next packet without its length; empty when the broker has closed."""
        try:
            first, length = await self.reader.readexactly(2)
            return bytes([first]) + await self.reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionResetError):
            return b""

    def publish(self, number: int, *, topic: bytes = b"t", flags: int = 2) -> None:
        """Send a PUBLISH of MQTT 5 with QoS 1."""
        body = len(topic).to_bytes(2, "big") + topic + number.to_bytes(2, "big") + b"\0x"
        self.writer.write(bytes([0x30 | flags, len(body)]) + body)


CONNECT_5 = b"\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x03raw"
CONNECT_4 = b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03raw"


@contextlib.asynccontextmanager
async def raw(broker: ScriptedBroker, hello: bytes = CONNECT_5) -> AsyncIterator[RawClient]:
    """Open a connection and send a CONNECT; its answer is still to be read."""
    reader, writer = await asyncio.open_connection(HOST, broker.port)
    writer.write(hello)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


# ---------------------------------------------------------------- the record
async def test_it_records_everything_that_a_client_says() -> None:
    """CONNECT with a Will and properties, PUBLISH, SUBSCRIBE, UNSUBSCRIBE, PUBACK, PINGREQ, DISCONNECT: all fields."""
    connect = properties_of(PacketTypes.CONNECT)
    connect.SessionExpiryInterval = 77
    connect.ReceiveMaximum = 9
    connect.MaximumPacketSize = 10_000
    connect.UserProperty = ("a", "b")
    will_properties = properties_of(PacketTypes.WILLMESSAGE)
    will_properties.WillDelayInterval = 10
    will = aiomqtt.Will("dev/status", b"offline", 1, retain=True, properties=will_properties)
    publish = properties_of(PacketTypes.PUBLISH)
    publish.MessageExpiryInterval = 60
    publish.ContentType = "application/json"
    publish.ResponseTopic = "r"
    publish.CorrelationData = b"\x00\x01"
    publish.UserProperty = ("trace", "1")
    async with ScriptedBroker() as broker:
        opened = aiomqtt.Client(
            HOST,
            broker.port,
            protocol=V5,
            identifier="dev",
            username="me",
            password="secret",  # noqa: S106 - a test's
            will=will,
            keepalive=33,
            clean_start=False,
            properties=connect,
        )
        async with opened:
            await opened.subscribe([("down/#", 1), ("up/status", 0)])
            await opened.publish("up/x", b"1", qos=1, retain=True, properties=publish)
            assert broker.inject("down/cmd/ping", b"{}") == 1
            await anext(aiter(opened.messages))
            await broker.wait_for(lambda: bool(broker.connections[0].pubacks))
            await opened.unsubscribe("down/#")
        await broker.wait_for(lambda: broker.connections[0].disconnect is not None)
        (connection,) = broker.connections
        assert not broker.published("dev/status")
    seen = connection.seen
    assert [type(item) for item in seen] == [Connect, Subscribe, Publish, PubAck, Unsubscribe, Disconnect]
    told = connection.connect
    assert (told.client_id, told.protocol, told.keepalive, told.clean_start) == ("dev", 5, 33, False)
    assert (told.session_expiry, told.receive_maximum, told.maximum_packet_size) == (77, 9, 10_000)
    assert (told.username, told.password) == ("me", b"secret")
    assert (told.will_topic, told.will_payload, told.will_qos) == ("dev/status", b"offline", 1)
    assert (told.will_retain, told.will_delay) == (True, 10)
    assert connection.subscribes[0].filters == ("down/#", "up/status")
    (sent,) = connection.publishes
    assert (sent.topic, sent.payload, sent.qos, sent.retain, sent.dup) == ("up/x", b"1", 1, True, False)
    assert (sent.expiry, sent.content_type, sent.response_topic) == (60, "application/json", "r")
    assert (sent.correlation_data, sent.user_properties) == (b"\x00\x01", (("trace", "1"),))
    assert connection.pubacks[0].topic == "down/cmd/ping"
    assert connection.closed_at is not None
    assert broker.connect_times == [told.at]


@BOTH
async def test_a_client_receives_what_is_retained_and_its_own_messages(protocol: aiomqtt.ProtocolVersion) -> None:
    """Retained messages come with the flag, live ones without; an empty one clears."""
    async with ScriptedBroker() as broker, client(broker, protocol=protocol) as opened:
        await opened.publish("up/status", b"online", qos=1, retain=True)
        await opened.subscribe("up/+", qos=1)
        messages = aiter(opened.messages)
        first = await anext(messages)
        assert (first.payload, first.retain, first.qos) == (b"online", True, 1)
        await opened.publish("up/status", b"again", qos=1, retain=True)
        second = await anext(messages)
        assert (second.payload, second.retain) == (b"again", False)
        assert broker.retained == {"up/status": b"again"}
        await opened.publish("up/status", b"", qos=1, retain=True)
        assert broker.retained == {}
        assert broker.errors == []


async def test_subscription_options_of_mqtt_5_are_obeyed() -> None:
    """Retain As Published keeps the flag, No Local keeps one's own away, Retain Handling 2 sends nothing retained."""
    async with ScriptedBroker() as broker, client(broker) as opened:
        broker.inject("a", b"old", retain=True)
        options = SubscribeOptions(qos=1, noLocal=True, retainAsPublished=True, retainHandling=2)
        await opened.subscribe("a", options=options)
        await opened.publish("a", b"mine", qos=1)
        broker.inject("a", b"new", retain=True, response_topic="r", correlation_data=b"c", user=[("k", "v")])
        message = await anext(aiter(opened.messages))
        assert (message.payload, message.retain) == (b"new", True)
        found = vars(message.properties)
        assert (found["ResponseTopic"], found["CorrelationData"], found["UserProperty"]) == ("r", b"c", [("k", "v")])


@pytest.mark.virtual
async def test_messages_expire() -> None:
    """A retained message is gone after its expiry."""
    async with ScriptedBroker() as broker:
        broker.inject("a", b"x", retain=True, message_expiry=10)
        await asyncio.sleep(11)
        async with client(broker) as opened:
            await opened.subscribe("#", qos=1)
            broker.inject("b", b"y")
            assert str((await anext(aiter(opened.messages))).topic) == "b"


# ---------------------------------------------------------------- sessions, Wills, takeover
@BOTH
async def test_a_session_that_lasts_gets_what_it_missed(protocol: aiomqtt.ProtocolVersion) -> None:
    """Commands sent during an outage arrive after it, in order; a session that was not asked for is gone."""
    async with ScriptedBroker() as broker:
        async with losing(client(broker, protocol=protocol, keep=True)) as opened:
            await opened.subscribe("down/#", qos=1)
            broker.drop_clients()
            await broker.wait_for(lambda: not broker.connections[0].open)
            for number in range(3):
                assert broker.inject("down/cmd", b"%d" % number) == 1
        async with client(broker, protocol=protocol, keep=True) as opened:
            messages = aiter(opened.messages)
            assert [(await anext(messages)).payload for _ in range(3)] == [b"0", b"1", b"2"]
        async with client(broker, protocol=protocol) as opened:
            assert broker.inject("down/cmd", b"x") == 0


async def test_what_was_not_acknowledged_is_sent_again_with_dup() -> None:
    """A client that vanishes before its PUBACK gets the message again, marked."""
    lasting = b"\x10\x15\x00\x04MQTT\x05\x00\x00\x3c\x05\x11\x00\x00\x0e\x10\x00\x03raw"
    async with ScriptedBroker() as broker:
        async with raw(broker, lasting) as first:
            assert (await first.packet())[1] == 0
            first.writer.write(b"\x82\x07\x00\x01\x00\x00\x01t\x01")
            assert (await first.packet())[0] == 0x90
            broker.inject("t", b"x")
            assert (await first.packet())[0] == 0x32
        await broker.wait_for(lambda: not broker.connections[0].open)
        async with raw(broker, lasting) as second:
            assert (await second.packet())[1] == 1, "session present"
            again = await second.packet()
            assert again[0] == 0x3A
            second.writer.write(b"\x40\x02" + again[4:6])
            await broker.wait_for(lambda: bool(broker.connections[1].pubacks))


@BOTH
async def test_the_same_client_id_takes_over(protocol: aiomqtt.ProtocolVersion) -> None:
    """The older connection ends; an MQTT 5 client is told 0x8E first."""
    async with ScriptedBroker() as broker:
        hello = CONNECT_5 if protocol == V5 else CONNECT_4
        async with raw(broker, hello) as older, raw(broker, hello) as newer:
            assert (await older.packet())[0] == 0x20
            assert (await newer.packet())[0] == 0x20
            goodbye = await older.packet()
            assert goodbye == (b"\xe0\x8e\x00" if protocol == V5 else b"")
            assert await older.packet() == b""
            assert [connection.open for connection in broker.connections] == [False, True]


@BOTH
async def test_a_will_is_published_after_a_loss_and_not_after_a_goodbye(protocol: aiomqtt.ProtocolVersion) -> None:
    """The Will appears, retained, when the connection is cut."""
    will = aiomqtt.Will("up/status", b"offline", 1, retain=True)
    async with ScriptedBroker() as broker:
        async with client(broker, protocol=protocol, will=will):
            pass
        await broker.wait_for(lambda: not broker.connections[0].open)
        assert broker.retained == {}
        async with losing(client(broker, protocol=protocol, will=will)):
            broker.drop_clients()
            await broker.wait_for(lambda: broker.retained == {"up/status": b"offline"})


@pytest.mark.virtual
async def test_a_delayed_will_waits_and_is_called_off_by_a_return() -> None:
    """The Will Delay Interval is honoured; a client that is back in time has none published."""
    properties = properties_of(PacketTypes.WILLMESSAGE)
    properties.WillDelayInterval = 10
    will = aiomqtt.Will("up/status", b"offline", 1, retain=True, properties=properties)
    loop = asyncio.get_running_loop()
    async with ScriptedBroker() as broker:
        async with losing(client(broker, will=will, keep=True)):
            broker.drop_clients()
            await broker.wait_for(lambda: not broker.connections[0].open)
            await asyncio.sleep(9)
        async with losing(client(broker, will=will, keep=True)):
            await asyncio.sleep(5)
            assert broker.retained == {}
            broker.drop_clients()
            await broker.wait_for(lambda: not broker.connections[1].open)
            cut = loop.time()
            await broker.wait_for(lambda: bool(broker.retained), timeout=60)
            assert loop.time() - cut == pytest.approx(10)


# ---------------------------------------------------------------- acknowledgements
async def test_pubacks_follow_the_script() -> None:
    """A reason code by topic and count, no answer at all, and what is refused is not routed."""

    def script(topic: str, n: int) -> int | None:
        return {"refused": 0x87, "mute": None}.get(topic, 0x97 if n == 2 else 0)

    async with ScriptedBroker(Personality(puback=script)) as broker, raw(broker) as client_:
        await client_.packet()
        client_.writer.write(b"\x82\x0d\x00\x09\x00\x00\x07refused\x01")
        assert (await client_.packet())[0] == 0x90
        for number, topic in enumerate([b"t", b"refused", b"mute", b"t", b"t"], start=1):
            client_.publish(number, topic=topic)
        answers = [await client_.packet() for _ in range(4)]
        assert answers == [b"\x40\0\1", b"\x40\0\2\x87\0", b"\x40\0\4\x97\0", b"\x40\0\5"]
        assert broker.max_unacknowledged == 2


async def test_mqtt_311_has_no_negative_puback() -> None:
    """What is refused is acknowledged all the same, and goes nowhere."""
    async with (
        ScriptedBroker(Personality(puback=lambda _topic, _n: 0x87)) as broker,
        client(broker, protocol=V311) as opened,
    ):
        await opened.publish("t", b"x", qos=1, retain=True)
        assert broker.retained == {}


async def test_a_receive_maximum_is_announced_counted_and_enforced() -> None:
    """The broker counts what is in flight, and closes with 0x93 beyond the limit."""
    personality = Personality(receive_maximum=5, enforce_receive_maximum=True, puback=lambda _topic, _n: None)
    async with ScriptedBroker(personality) as broker, raw(broker) as client_:
        assert await client_.packet() == b"\x20\0\0\x03\x21\0\x05"
        for number in range(1, 7):
            client_.publish(number)
        assert await client_.packet() == b"\xe0\x93\0"
        assert broker.max_unacknowledged == 6


async def test_pubacks_come_shuffled_but_complete() -> None:
    """Every PUBACK arrives, in an order that the seed decides."""
    async with ScriptedBroker(Personality(reorder_pubacks=7)) as broker, raw(broker) as client_:
        await client_.packet()
        for number in range(1, 21):
            client_.publish(number)
        order = [(await client_.packet())[2] for _ in range(20)]
        assert sorted(order) == list(range(1, 21))
        assert order != sorted(order)


async def test_pubacks_can_be_late() -> None:
    """A delay holds each PUBACK back."""
    async with ScriptedBroker(Personality(puback_delay_s=0.1)) as broker, client(broker) as opened:
        begun = asyncio.get_running_loop().time()
        await asyncio.gather(*(opened.publish("t", b"x", qos=1) for _ in range(5)))
        assert asyncio.get_running_loop().time() - begun >= 0.1
        assert broker.max_unacknowledged == 5


# ---------------------------------------------------------------- refusals and closings
@pytest.mark.parametrize(
    ("personality", "answer"),
    [
        (Personality(connack_v5=0x87), b"\x20\0\x87\0"),
        (Personality(refuse_v5="connack84"), b"\x20\0\x84\0"),
        (Personality(refuse_v5="connack01"), b"\x20\0\x01\0"),
        (Personality(refuse_v5="v4_connack"), b"\x20\0\x01"),
        (Personality(refuse_v5="close"), b""),
    ],
)
async def test_mqtt_5_can_be_refused_in_every_way(personality: Personality, answer: bytes) -> None:
    """The bytes are as the script says, then the connection ends; 3.1.1 is let in."""
    async with ScriptedBroker(personality) as broker:
        async with raw(broker) as client_:
            assert await client_.packet() == answer
            assert await client_.packet() == b""
        async with raw(broker, CONNECT_4) as client_:
            assert await client_.packet() == b"\x20\0\0"


async def test_a_server_that_misreads_mqtt_5_stays_open_and_mute() -> None:
    """A 3.1.1 CONNACK with success answers an MQTT 5 CONNECT, then nothing."""
    personality = Personality(refuse_v5="v4_connack", v4_connack_code=0)
    async with ScriptedBroker(personality) as broker, raw(broker) as client_:
        assert await client_.packet() == b"\x20\0\0"
        client_.writer.write(b"\xc0\0")
        await broker.wait_for(lambda: len(broker.connections[0].pings) == 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client_.packet(), 0.1)


async def test_mqtt_311_can_be_refused() -> None:
    """The return code stands in the CONNACK."""
    async with ScriptedBroker(Personality(connack_v4=5)) as broker, raw(broker, CONNECT_4) as client_:
        assert await client_.packet() == b"\x20\0\x05"
        assert await client_.packet() == b""


async def test_limits_are_announced() -> None:
    """CONNACK carries every limit that is set, as the client's library reads it."""
    personality = Personality(
        receive_maximum=7,
        maximum_packet_size=9999,
        maximum_qos=1,
        retain_available=False,
        server_keep_alive=17,
        session_expiry=99,
        assigned_client_id="you",
    )
    async with ScriptedBroker(personality) as broker:
        opened = client(broker, name="")
        told: list[object] = []
        on_connect = opened._client.on_connect
        assert on_connect is not None

        def listen(*arguments: object) -> None:
            told.extend(item.json() for item in arguments if isinstance(item, Properties))  # type: ignore[no-untyped-call]
            on_connect(*arguments)  # type: ignore[arg-type]

        opened._client.on_connect = listen
        async with opened:
            assert told[0] == {
                "SessionExpiryInterval": 99,
                "ReceiveMaximum": 7,
                "MaximumQoS": 1,
                "RetainAvailable": 0,
                "MaximumPacketSize": 9999,
                "AssignedClientIdentifier": "you",
                "ServerKeepAlive": 17,
            }


@pytest.mark.parametrize(
    ("personality", "topic", "flags", "goodbye"),
    [
        (Personality(close_on_topic=lambda topic: topic == "no"), b"no", 2, b""),
        (Personality(close_on_retained_publish=True), b"t", 3, b""),
        (Personality(retain_available=False), b"t", 3, b"\xe0\x9a\0"),
        (Personality(maximum_qos=1), b"t", 4, b"\xe0\x9b\0"),
        (Personality(maximum_packet_size=18), b"longer than that", 2, b"\xe0\x95\0"),
        (Personality(publishes_per_second=0), b"t", 2, b"\xe0\x96\0"),
    ],
)
async def test_a_forbidden_publish_ends_the_connection(
    personality: Personality, topic: bytes, flags: int, goodbye: bytes
) -> None:
    """Silently or with the reason, as the script says."""
    async with ScriptedBroker(personality) as broker, raw(broker) as client_:
        await client_.packet()
        client_.publish(1, topic=topic, flags=flags)
        assert await client_.packet() == goodbye
        assert await client_.packet() == b""
        await broker.wait_for(lambda: not broker.connections[0].open)


@pytest.mark.virtual
async def test_the_rate_is_counted_over_a_second() -> None:
    """So many in one second are fine for ever, one more is not."""
    async with ScriptedBroker(Personality(publishes_per_second=10)) as broker, losing(client(broker)) as opened:
        for _ in range(5):
            await asyncio.gather(*(opened.publish("t", b"x", qos=1) for _ in range(10)))
            await asyncio.sleep(1.01)
        assert broker.connections[0].open
        await asyncio.gather(*(opened.publish("t", b"x", qos=0) for _ in range(11)))
        await broker.wait_for(lambda: not broker.connections[0].open)


def _refuse_x(topic_filter: str) -> bool:
    return topic_filter == "x"


@pytest.mark.parametrize(
    ("personality", "filters"),
    [
        (Personality(close_on_subscribe=_refuse_x), ["a", "x"]),
        (Personality(max_filters_per_subscribe=8), [f"f{number}" for number in range(9)]),
    ],
)
async def test_a_forbidden_subscribe_ends_the_connection(personality: Personality, filters: list[str]) -> None:
    """No SUBACK, just the end; what was asked for is on record."""
    async with ScriptedBroker(personality) as broker, losing(client(broker)) as opened:
        with pytest.raises(aiomqtt.MqttError):
            await opened.subscribe([(name, 1) for name in filters], timeout=0.5)
        assert broker.connections[0].subscribes[0].filters == tuple(filters)
        await broker.wait_for(lambda: not broker.connections[0].open)


@pytest.mark.parametrize(("protocol", "code"), [(V5, 0x87), (V311, 0x80)])
async def test_a_filter_can_be_refused_alone(protocol: aiomqtt.ProtocolVersion, code: int) -> None:
    """SUBACK says which; the other filter works."""
    personality = Personality(suback=lambda name: 0x87 if name == "x" else None)
    async with ScriptedBroker(personality) as broker, client(broker, protocol=protocol) as opened:
        granted = await opened.subscribe([("a", 1), ("x", 1)])
        assert [getattr(item, "value", item) for item in granted] == [1, code]
        assert broker.inject("x", b"") == 0
        assert broker.inject("a", b"") == 1


async def test_a_negative_puback_ends_connection_and_session() -> None:
    """As one cloud does; the queued message is lost with the session."""
    lasting = b"\x10\x15\x00\x04MQTT\x05\x00\x00\x3c\x05\x11\x00\x00\x0e\x10\x00\x03raw"
    async with ScriptedBroker(Personality(close_on_negative_puback=True)) as broker:
        async with raw(broker, lasting) as client_:
            await client_.packet()
            client_.writer.write(b"\x82\x07\x00\x01\x00\x00\x01t\x01")
            await client_.packet()
            broker.inject("t", b"x")
            message = await client_.packet()
            client_.writer.write(b"\x40\x04" + message[4:6] + b"\x87\0")
            assert await client_.packet() == b"\xe0\x87\0"
        await broker.wait_for(lambda: not broker.connections[0].open)
        async with raw(broker, lasting) as client_:
            assert (await client_.packet())[1] == 0, "no session present"


async def test_it_can_close_soon_after_connack() -> None:
    """The connection stands for as long as the script says."""
    async with ScriptedBroker(Personality(close_after_connack_s=0.05)) as broker, raw(broker) as client_:
        assert (await client_.packet())[0] == 0x20
        assert await client_.packet() == b""


@pytest.mark.virtual
async def test_it_falls_silent_and_keeps_the_socket() -> None:
    """After n publishes nothing is answered, not even a ping; a client notices by its keepalive."""
    async with ScriptedBroker(Personality(silent_after=2)) as broker, losing(client(broker, keepalive=10)) as opened:
        for _ in range(2):
            await opened.publish("t", b"x", qos=1)
        with pytest.raises(aiomqtt.MqttError):
            await opened.publish("t", b"x", qos=1, timeout=1)
        assert broker.connections[0].open
        assert len(broker.publishes) == 3


async def test_a_silent_client_is_closed_by_its_keepalive() -> None:
    """One and a half keepalives without a packet end the connection with 0x8D."""
    quick = b"\x10\x10\x00\x04MQTT\x05\x02\x00\x01\x00\x00\x03raw"
    async with ScriptedBroker() as broker, raw(broker, quick) as client_:
        await client_.packet()
        client_.writer.write(b"\xc0\0")
        assert await client_.packet() == b"\xd0"
        assert isinstance(broker.connections[0].seen[-1], Ping)
        assert await client_.packet() == b"\xe0\x8d\0"


# ---------------------------------------------------------------- the network, and mistakes
async def test_it_stops_listening_and_listens_again_on_the_same_port() -> None:
    """In between, connecting is refused; old connections stand until they are dropped."""
    async with ScriptedBroker() as broker:
        port = broker.port
        async with raw(broker) as client_:
            await client_.packet()
            await broker.stop_listening()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(HOST, port)
            client_.publish(1)
            assert await client_.packet() == b"\x40\0\1"
            broker.drop_clients()
            assert await client_.packet() == b""
        await broker.listen_again()
        assert broker.port == port
        async with raw(broker) as client_:
            assert (await client_.packet())[0] == 0x20


@pytest.mark.parametrize(
    "mistake",
    [
        pytest.param(b"\x32\x05\x00\x01t\x00\x00", id="QoS 1 without a packet identifier"),
        pytest.param(b"\x30\x04\x00\x01#\x00", id="publish to a wildcard"),
        pytest.param(b"\x40\x02\x00\x09", id="PUBACK for nothing"),
        pytest.param(b"\x30\x03\x00\x09t", id="cut off"),
        pytest.param(b"\xf0\x00", id="unknown packet"),
    ],
)
async def test_a_client_that_breaks_the_protocol_fails_the_test(mistake: bytes) -> None:
    """The connection ends, and leaving the block raises."""
    with pytest.raises(AssertionError, match="broke the protocol"):  # noqa: PT012 - leaving the block raises
        async with ScriptedBroker() as broker, raw(broker) as client_:
            await client_.packet()
            client_.writer.write(mistake)
            assert await client_.packet() == b"\xe0\x82\0"


@pytest.mark.virtual
async def test_waiting_in_vain_says_what_was_seen() -> None:
    """The assertion's message lists the last packets."""
    async with ScriptedBroker() as broker, client(broker) as opened:
        await opened.publish("a/b", b"x", qos=1)
        with pytest.raises(AssertionError, match="a/b"):
            await broker.wait_for(lambda: False, timeout=0.5)


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/+", "a/b", True),
        ("a/+", "a/b/c", False),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("#", "$SYS/x", False),
        ("+", "/a", False),
        ("a", "a/b", False),
    ],
)
def test_filters_match_as_the_standard_says(topic_filter: str, topic: str, *, expected: bool) -> None:
    """MQTT 5 section 4.7."""
    assert topic_matches(topic_filter, topic) is expected


# ---------------------------------------------------------------- the named ones
async def test_the_clouds_are_strict() -> None:
    """AWS wants 8 filters at most and shallow topics, Azure nothing retained, not even a Will."""
    azure_will = aiomqtt.Will("up/status", b"offline", 1, retain=True)
    async with ScriptedBroker(azure_event_grid()) as broker:
        with pytest.raises(aiomqtt.MqttError):
            async with client(broker, will=azure_will):
                pass
        assert broker.connections[0].connack is None
        async with client(broker) as opened:
            await opened.publish("t", b"x", qos=1)
    async with ScriptedBroker(aws_iot_core()) as broker, losing(client(broker)) as opened:
        await asyncio.gather(*(opened.publish("a/b/c/d/e/f/g/h", b"x", qos=1) for _ in range(50)))
        await opened.publish("a/b/c/d/e/f/g/h/i", b"x", qos=0)
        await broker.wait_for(lambda: not broker.connections[0].open)


async def test_a_thousand_publishes_are_quick() -> None:
    """The broker keeps up with a pipelining client."""
    async with ScriptedBroker() as broker, raw(broker) as client_:
        await client_.packet()
        for number in range(1, 1001):
            client_.publish(number)
        acks = [await client_.packet() for _ in range(1000)]
        assert [int.from_bytes(ack[1:3], "big") for ack in acks] == list(range(1, 1001))
        assert len(broker.published("t")) == 1000


def test_personalities_do_not_share_knobs() -> None:
    """Each call returns a fresh one."""
    makers: list[Callable[[], Personality]] = [aws_iot_core, azure_event_grid]
    for make in makers:
        assert make() is not make()
