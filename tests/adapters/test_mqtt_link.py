"""The window, the acknowledgements, and what is not sent."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from paho.mqtt.client import MQTTMessage
from paho.mqtt.packettypes import PacketTypes

from edge_agent.adapters import mqtt_link
from edge_agent.errors import TooLargeError
from edge_agent.ports import Delivery, Message
from tests.contracts.test_link import place_of, real_place
from tests.support.brokers import mosquitto
from tests.support.scripted_broker import Personality, ScriptedBroker


@pytest.mark.parametrize(("protocol", "announced", "window"), [(5, 5, 5), (5, None, 100), (4, None, 20)])
async def test_no_more_than_the_window_is_unacknowledged(protocol: int, announced: int | None, window: int) -> None:
    """Receive Maximum where it is announced, else our own; the rest waits for room."""
    mute = Personality(puback=lambda _topic, _n: None, receive_maximum=announced)
    async with ScriptedBroker(mute) as broker:
        connection = await real_place(broker.port, 5 if protocol == 5 else 4, broker.stop_listening).connect()
        while connection.has_room():
            _unanswered = connection.send(Message("t", b"x"))
        await broker.wait_for(lambda: len(broker.publishes) == window)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connection.room(), 0.1)
        assert broker.max_unacknowledged == window


async def test_the_window_also_counts_bytes() -> None:
    """A few large messages fill it: 256 KiB in flight is what a slow uplink holds for seconds."""
    async with ScriptedBroker(Personality(puback=lambda _topic, _n: None)) as broker:
        connection = await real_place(broker.port, 5, broker.stop_listening).connect()
        sent = 0
        while connection.has_room():
            _unanswered = connection.send(Message("t", b"x" * 100_000))
            sent += 1
        assert sent == 3
        await broker.wait_for(lambda: len(broker.publishes) == 3)


async def test_a_refusal_is_the_answer_of_the_one_that_was_refused() -> None:
    """MQTT 5 PUBACK reason codes reach whoever sent the message, and the connection stays."""
    codes = {"a": 0x00, "b": 0x87, "c": 0x10, "d": 0x97}
    async with ScriptedBroker(Personality(puback=lambda topic, _n: codes[topic])) as broker:
        connection = await real_place(broker.port, 5, broker.stop_listening).connect()
        answers = [connection.send(Message(topic, b"x")) for topic in codes]
        assert await asyncio.gather(*answers) == list(codes.values())
        assert connection.has_room()
        await connection.disconnect()


async def test_acl_refusals_of_mosquitto_are_seen_on_mqtt_5_and_cannot_be_on_3_1_1(tmp_path: Path) -> None:
    """MQTT 3.1.1 acknowledges what it drops: that is why 5 is tried first."""
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite allowed/#\n")
    async with mosquitto(tmp_path, config_lines=[f"acl_file {acl}"]) as broker:
        for protocol, answer in ((5, 0x87), (4, 0x00)):
            connection = await real_place(broker.port, 5 if protocol == 5 else 4, broker.kill).connect()
            assert await connection.send(Message("denied/x", b"x")) == answer
            await connection.disconnect()


async def test_what_is_larger_than_the_broker_accepts_is_not_sent() -> None:
    """It would end the connection, and end the next one again."""
    async with ScriptedBroker(Personality(maximum_packet_size=1000)) as broker:
        connection = await real_place(broker.port, 5, broker.stop_listening).connect()
        with pytest.raises(TooLargeError, match="the broker accepts 1000"):
            await connection.send(Message("t", b"x" * 1000))
        assert await connection.send(Message("t", b"x" * 900)) == 0
        assert (broker.too_large, len(broker.publishes)) == (0, 1)
        await connection.disconnect()


async def test_a_full_queue_of_incoming_messages_stops_the_reading_not_the_memory() -> None:
    """Nobody takes them: what the broker may still send stays with the broker; taken up again, all arrive in order."""
    async with ScriptedBroker() as broker:
        connection = await real_place(broker.port, 4, broker.stop_listening).connect()
        await connection.subscribe_to(["in"])
        for number in range(2000):
            broker.inject("in", b"%d" % number + b"x" * 2000)
        await asyncio.sleep(0.3)
        assert isinstance(connection, mqtt_link.MqttConnection)
        # what one read of the socket brought is parsed, no more
        assert len(connection._inbound) <= mqtt_link.MAX_QUEUED_INBOUND + 64 * 1024 // 2000 + 1
        for number in range(2000):
            delivery = await connection.receive()
            assert delivery is not None
            assert delivery.payload.startswith(b"%dx" % number)
            connection.acknowledge(delivery)
        await broker.wait_for(lambda: len(broker.connections[0].pubacks) == 2000)
        await connection.disconnect()


async def test_properties_are_sent_on_mqtt_5_and_left_out_on_3_1_1(tmp_path: Path) -> None:
    """Message expiry and content type, where there is a place for them."""
    for kind in ("scripted-5", "scripted-3.1.1"):
        async with place_of(kind, tmp_path) as place:
            connection = await place.connect()
            message = Message("t", b"x", expiry_s=7, content_type="text/plain")
            assert await connection.send(message) == 0
            await connection.disconnect()
    async with ScriptedBroker() as broker:
        connection = await real_place(broker.port, 5, broker.stop_listening).connect()
        await connection.send(Message("t", b"x", expiry_s=7, content_type="text/plain", correlation=b"\0"))
        assert (broker.publishes[0].expiry, broker.publishes[0].content_type) == (7, "text/plain")
        await connection.disconnect()


def test_what_a_packet_has_beside_its_payload_arrives() -> None:
    """Each where it is; nothing of it on MQTT 3.1.1."""
    message = MQTTMessage(mid=7, topic=b"t")
    message.payload, message.qos, message.retain, message.dup = b"x", 1, True, True
    assert mqtt_link._delivery("t", message) == Delivery("t", b"x", retained=True, qos=1, packet_id=7, again=True)
    traces = [f"00-{digit * 32}-{digit * 16}-01" for digit in "ab"]
    trace = [("other", "1"), ("traceparent", "nonsense"), *(("traceparent", one) for one in traces)]
    message.properties = mqtt_link.properties(
        PacketTypes.PUBLISH, MessageExpiryInterval=9, ResponseTopic="r", CorrelationData=b"\0", UserProperty=trace
    )
    found = mqtt_link._delivery("t", message)
    assert (found.expiry_s, found.response_topic, found.correlation) == (9, "r", b"\0")
    assert found.traceparent == traces[0]


async def test_correlation_data_come_back_as_they_were_sent(tmp_path: Path) -> None:
    """Through a broker."""
    async with mosquitto(tmp_path) as broker:
        connection = await real_place(broker.port, 5, broker.kill).connect()
        assert await connection.subscribe_to(["t"]) == [1]
        assert await connection.send(Message("t", b"x", expiry_s=60, correlation=b"\0\xff")) == 0
        delivery = await connection.receive()
        assert delivery is not None
        assert (delivery.correlation, delivery.expiry_s, delivery.again) == (b"\0\xff", 60, False)
        await connection.disconnect()
