"""What the device says of itself."""

from __future__ import annotations

import json
from importlib.resources import files

import jsonschema
import pytest

from edge_agent.ports import Delivery
from edge_agent.services.presence import Presence
from tests.fakes import FakeBroker, FakeClock
from tests.services.test_session import TOPICS, session_on


@pytest.mark.virtual
async def test_health_is_said_once_for_each_state_of_each_session() -> None:
    """Not again while nothing changes; again when it gets worse, and when it gets better."""
    broker = FakeBroker()
    session = await session_on(broker)
    presence = Presence(TOPICS, groups=(), clock=FakeClock())
    for refused in ({}, {}, {"t": 0x87}, {"t": 0x87}, {}):
        session.refused = dict(refused)
        assert await presence.tell_health(session)
    states = [json.loads(message.payload)["data"] for message in broker.log]
    assert [data["state"] for data in states] == ["ok", "degraded", "ok"]
    assert states[1]["reasons"] == ["refused: t (0x87)"]
    assert all(message.retain for message in broker.log)
    schema = json.loads((files("edge_agent") / "schemas/edge.health.v1.json").read_text())
    for message in broker.log:
        jsonschema.validate(json.loads(message.payload), schema, format_checker=jsonschema.FormatChecker())


@pytest.mark.virtual
async def test_a_new_session_hears_the_health_anew() -> None:
    """Nothing relies on the broker having retained it."""
    broker = FakeBroker()
    presence = Presence(TOPICS, groups=(), clock=FakeClock())
    for name in ("s1", "s2"):
        assert await presence.tell_health(await session_on(broker, name=name))
    assert len(broker.log) == 2


def test_only_the_status_topic_is_heard() -> None:
    """Whatever else arrives is somebody else's business."""
    presence = Presence(TOPICS, groups=("g",), clock=FakeClock())
    assert presence.hear(Delivery(TOPICS.status, b"online", retained=True, qos=1, packet_id=1))
    assert not presence._contradicted.is_set()
    assert presence.hear(Delivery(TOPICS.status, b"offline", retained=True, qos=1, packet_id=1))
    assert presence._contradicted.is_set()
    assert not presence.hear(Delivery("edge/dev-1/down/cmd/ping", b"{}", retained=False, qos=1, packet_id=1))


def test_the_will_is_the_retained_offline() -> None:
    """On the topic that says online."""
    will = Presence(TOPICS, groups=(), clock=FakeClock()).will
    assert (will.topic, will.payload, will.retain) == (TOPICS.status, b"offline", True)
