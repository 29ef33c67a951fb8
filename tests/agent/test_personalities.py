"""A whole agent against brokers with opinions: each is a state that is seen, none is a reconnect loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.agents import DEVICE, HEALTH, HEARTBEAT, STATUS, AgentProcess, agent, config_text
from tests.support.scripted_broker import (
    Connection,
    Personality,
    RefusalOfV5,
    ScriptedBroker,
    aws_iot_core,
    azure_event_grid,
)

DOWN, ALL = "edge/dev-1/down/#", "edge/_all/down/cmd/#"


def reasons(process: AgentProcess) -> list[str]:
    """Return the reasons of the health that was told last."""
    told = process.events("health")
    return list(told[-1]["reasons"]) if told else []


async def settled(
    broker: ScriptedBroker, process: AgentProcess, *, heartbeats: int = 4, within_s: float = 40
) -> Connection:
    """Wait until one connection has carried some heartbeats; return that connection."""
    try:
        await broker.wait_for(
            lambda: any(
                sum(publish.topic == HEARTBEAT for publish in connection.publishes) >= heartbeats and connection.open
                for connection in broker.connections
            ),
            within_s,
        )
    except AssertionError as error:
        raise AssertionError(f"{error}\n{process.log_path.read_text()}") from None
    return broker.connections[-1]


async def test_an_accepting_broker_sees_one_connection(tmp_path: Path) -> None:
    """The yardstick: status, filters, health, heartbeats; all QoS 1, with what MQTT 5 allows to say."""
    async with ScriptedBroker() as broker, agent(tmp_path, config_text(broker.url, every="200ms")) as process:
        connection = await settled(broker, process)
        assert len(broker.connections) == 1
        connect = connection.connect
        assert (connect.client_id, connect.clean_start, connect.session_expiry) == ("dev-1", False, 86400)
        assert (connect.will_topic, connect.will_payload, connect.will_retain) == (STATUS, b"offline", True)
        assert (connect.will_qos, connect.will_delay) == (1, 10)
        (subscribe,) = connection.subscribes
        assert set(subscribe.filters) == {DOWN, STATUS, ALL}
        topics = [publish.topic for publish in connection.publishes]
        assert topics[:4] == [STATUS, HEALTH, f"edge/{DEVICE}/up/commands", f"edge/{DEVICE}/up/config"]
        assert set(topics[4:]) == {HEARTBEAT}
        assert all(publish.qos == 1 for publish in connection.publishes)
        assert [publish.retain for publish in connection.publishes[:5]] == [True, True, True, True, False]
        beat = connection.publishes[4]
        assert (beat.expiry, beat.content_type) == (1, "application/cloudevents+json")
        assert reasons(process) == []


@pytest.mark.parametrize("cloud", [aws_iot_core, azure_event_grid])
async def test_the_clouds_are_connected_to_once_or_nearly(cloud: Callable[[], Personality], tmp_path: Path) -> None:
    """Their limits are kept; what they do not take is left out after few tries and heartbeats flow."""
    async with ScriptedBroker(cloud()) as broker, agent(tmp_path, config_text(broker.url, every="200ms")) as process:
        await settled(broker, process, heartbeats=10)
        assert len(broker.connections) <= 8
        assert process.events("health")


async def test_a_filter_that_closes_the_connection_is_left_out(tmp_path: Path) -> None:
    """As AWS IoT Core does on a forbidden SUBSCRIBE: found in two steps, said in health, the rest is subscribed."""
    personality = Personality(close_on_subscribe=lambda name: name == ALL)
    async with (
        ScriptedBroker(personality) as broker,
        agent(tmp_path, config_text(broker.url, every="200ms")) as process,
    ):
        connection = await settled(broker, process, heartbeats=8)
        assert len(broker.connections) == 3
        assert {name for subscribe in connection.subscribes for name in subscribe.filters} == {DOWN, STATUS}
        assert reasons(process) == [f"filter_refused: {ALL}"]
        health = [publish for publish in connection.publishes if publish.topic == HEALTH][-1]
        assert json.loads(health.payload)["data"]["state"] == "degraded"


async def test_no_filter_at_all_is_still_no_loop(tmp_path: Path) -> None:
    """Every SUBSCRIBE closes: after one try for each the device is online without ears."""
    async with (
        ScriptedBroker(Personality(close_on_subscribe=lambda _name: True)) as broker,
        agent(tmp_path, config_text(broker.url, every="200ms")) as process,
    ):
        connection = await settled(broker, process, heartbeats=8)
        assert len(broker.connections) == 5
        assert connection.subscribes == []
        assert len(reasons(process)) == 3


async def test_refused_subscriptions_are_said_and_nothing_else_happens(tmp_path: Path) -> None:
    """SUBACK 0x87: one connection, a degraded health that names the filters."""
    async with (
        ScriptedBroker(Personality(suback=lambda name: 0x87 if name == ALL else None)) as broker,
        agent(tmp_path, config_text(broker.url, every="200ms")) as process,
    ):
        await settled(broker, process)
        assert len(broker.connections) == 1
        assert reasons(process) == [f"refused: {ALL} (0x87)"]


async def test_refused_publishes_are_said_and_end_when_they_are_accepted(tmp_path: Path) -> None:
    """PUBACK 0x87 on heartbeats: degraded, one connection; granted later: ok again."""
    personality = Personality(puback=lambda topic, _n: 0x87 if topic == HEARTBEAT else 0)
    async with (
        ScriptedBroker(personality) as broker,
        agent(tmp_path, config_text(broker.url, every="200ms")) as process,
    ):
        await broker.wait_for(lambda: reasons(process) == [f"refused: {HEARTBEAT} (0x87)"])
        personality.puback = lambda _topic, _n: 0
        await broker.wait_for(lambda: reasons(process) == [])
        assert len(broker.connections) == 1


async def test_a_broker_that_refuses_everything_is_not_argued_with(tmp_path: Path) -> None:
    """Status, health and heartbeat all 0x87: one connection, and no health for each refusal."""
    async with (
        ScriptedBroker(Personality(puback=lambda _topic, _n: 0x87)) as broker,
        agent(tmp_path, config_text(broker.url, every="200ms")) as process,
    ):
        connection = await settled(broker, process, heartbeats=8)
        assert len(broker.connections) == 1
        assert sum(publish.topic == HEALTH for publish in connection.publishes) <= 4


async def test_a_broker_that_closes_on_retained_messages_gets_them_unretained(tmp_path: Path) -> None:
    """Two closes find out; online and health are said all the same, and on each connect."""
    async with (
        ScriptedBroker(Personality(close_on_retained_publish=True)) as broker,
        agent(tmp_path, config_text(broker.url, every="200ms")) as process,
    ):
        connection = await settled(broker, process, heartbeats=8)
        assert len(broker.connections) <= 6
        assert not any(publish.retain for publish in connection.publishes)
        assert {STATUS, HEALTH, HEARTBEAT} <= {publish.topic for publish in connection.publishes}
        assert "retained_refused: messages" in reasons(process)


async def test_a_topic_that_closes_the_connection_is_left_out(tmp_path: Path) -> None:
    """A policy without the right to publish health: the heartbeats flow."""
    async with (
        ScriptedBroker(Personality(close_on_topic=lambda topic: topic == HEALTH)) as broker,
        agent(tmp_path, config_text(broker.url, every="200ms")) as process,
    ):
        connection = await settled(broker, process, heartbeats=8)
        assert len(broker.connections) <= 6
        assert HEALTH not in {publish.topic for publish in connection.publishes}
        assert f"topic_refused: {HEALTH}" in reasons(process)


@pytest.mark.parametrize("refusal", ["connack84", "connack01", "v4_connack", "close"])
async def test_an_old_broker_is_spoken_to_in_3_1_1(refusal: RefusalOfV5, tmp_path: Path) -> None:
    """However it says no to MQTT 5; and once known it is not asked again."""
    async with (
        ScriptedBroker(Personality(refuse_v5=refusal)) as broker,
        agent(tmp_path, config_text(broker.url, every="200ms")) as process,
    ):
        connection = await settled(broker, process)
        assert connection.connect.protocol == 4
        before = len(broker.connections)
        assert before == (3 if refusal == "close" else 2)
        broker.drop_clients()
        await broker.wait_for(lambda: len(broker.connections) > before)
        assert broker.connections[-1].connect.protocol == 4


async def test_a_retained_will_that_is_refused_by_a_close_is_left_out(tmp_path: Path) -> None:
    """Five closes without a word find out, spread by the backoff; then it is online."""
    async with (
        ScriptedBroker(Personality(close_on_retained_will=True)) as broker,
        agent(tmp_path, config_text(broker.url, every="200ms")) as process,
    ):
        connection = await settled(broker, process)
        assert connection.connect.will_retain is False
        assert "retained_refused: messages" in reasons(process)


async def test_receive_maximum_1_is_never_exceeded(tmp_path: Path) -> None:
    """One publish in flight at a time, and all of them in turn."""
    personality = Personality(receive_maximum=1, enforce_receive_maximum=True, puback_delay_s=0.02)
    async with (
        ScriptedBroker(personality) as broker,
        agent(tmp_path, config_text(broker.url, every="100ms")) as process,
    ):
        await settled(broker, process, heartbeats=10)
        assert broker.max_unacknowledged == 1
        assert len(broker.connections) == 1


async def test_a_small_maximum_packet_size_is_obeyed(tmp_path: Path) -> None:
    """What does not fit is not sent, and said; the rest flows."""
    async with (
        ScriptedBroker(Personality(maximum_packet_size=700)) as broker,
        agent(tmp_path, config_text(broker.url, every="200ms")) as process,
    ):
        await broker.wait_for(lambda: f"refused: {HEARTBEAT} (0x95)" in reasons(process))
        assert broker.too_large == 0
        assert len(broker.connections) == 1


@pytest.mark.slow
@pytest.mark.timeout_s(60)
async def test_a_mute_broker_is_left_after_20_s(tmp_path: Path) -> None:
    """It keeps the connection open and answers nothing: noticed within 25 s with a publish in flight."""
    async with (
        ScriptedBroker(Personality(silent_after=4)) as broker,
        agent(tmp_path, config_text(broker.url, every="1s")) as process,
    ):
        await broker.wait_for(lambda: len(broker.connections) == 2, 30)
        lost = process.events("disconnected")[0]
        assert lost["by"] == "silence"
        first = broker.connections[0]
        quiet_since = first.publishes[-1].at
        assert broker.connections[1].connect.at - quiet_since <= 25


async def test_acknowledgements_out_of_order_are_matched(tmp_path: Path) -> None:
    """As Azure Event Grid may send them."""
    async with (
        ScriptedBroker(Personality(reorder_pubacks=7)) as broker,
        agent(tmp_path, config_text(broker.url, every="100ms")) as process,
    ):
        await settled(broker, process, heartbeats=10)
        assert len(broker.connections) == 1
        assert reasons(process) == []


async def test_a_login_that_is_refused_is_retried_with_patience(tmp_path: Path) -> None:
    """No storm: a handful of tries within 5 s, and one line in the log."""
    async with (
        ScriptedBroker(Personality(connack_v5=0x86)) as broker,
        agent(tmp_path, config_text(broker.url)) as process,
    ):
        await process.logged("connect_failed")
        await asyncio.sleep(5)
        assert 2 <= broker.accepted <= 12
        assert len(process.events("connect_failed")) == 1
        broker.personality.connack_v5 = 0
        await settled(broker, process, heartbeats=1)


async def test_commands_are_acknowledged_though_nobody_obeys_them_yet(tmp_path: Path) -> None:
    """With a positive PUBACK, also for a flood that no queue would hold; the heartbeats go on."""
    async with ScriptedBroker() as broker, agent(tmp_path, config_text(broker.url, every="200ms")) as process:
        connection = await settled(broker, process)
        for number in range(500):
            broker.inject("edge/dev-1/down/cmd/ping", b'{"id":"c-%d"}' % number)
        await broker.wait_for(lambda: sum(ack.reason < 0x80 for ack in connection.pubacks) >= 500)
        assert all(ack.reason == 0 for ack in connection.pubacks)
        assert len(broker.connections) == 1
