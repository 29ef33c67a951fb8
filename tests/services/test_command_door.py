"""The door of MQTT: what is taken for a command, when it is acknowledged, and what is said to whom."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import orjson
import pytest

from edge_agent.core.config_types import BrokerUrl
from edge_agent.core.connection import ConnectionPolicy
from edge_agent.core.records import Priority
from edge_agent.core.timebase import seconds
from edge_agent.core.topics import Topics
from edge_agent.ports import Delivery, Message
from edge_agent.services.command_door import MAX_UNSAID, CommandDoor
from edge_agent.services.session import Session
from tests.fakes import EPOCH, FakeBroker, FakeConnector
from tests.support.dispatching import Desk, Handlers

pytestmark = pytest.mark.virtual
DOWN = "edge/dev-1/down/cmd/"
UP = "edge/dev-1/up/"


class At:
    """A door with a session behind it."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.broker = FakeBroker()
        self.door = CommandDoor(
            desk.dispatcher,
            Topics("edge", "dev-1"),
            advertised=lambda: self.advertised,
            clock=desk.clock,
        )
        self.advertised: dict[str, Any] = {"commands": []}
        self.acknowledged: list[int] = []
        self.packet = 0

    async def connect(self) -> Session:
        """Begin another session."""
        policy = ConnectionPolicy(
            (BrokerUrl("mqtt", "fake", 1883),), protocol=None, reconnect_max=seconds(60), uniform=lambda: 0.5
        )
        connection = await FakeConnector(self.broker).connect(policy.next_attempt(self.desk.clock.monotonic()), None)
        connection.acknowledge = lambda delivery: self.acknowledged.append(delivery.packet_id)  # type: ignore[method-assign]
        self.session = Session(connection, policy, self.desk.clock, "s1", "dev-1", "mqtt://fake", EPOCH)
        self.door.begin(self.session)
        return self.session

    def hear(self, topic: str, said: object = None, **more: Any) -> bool:  # noqa: ANN401  # fields of a delivery
        """Let a message arrive."""
        self.packet += 1
        payload = said if isinstance(said, bytes) else b"" if said is None else orjson.dumps(said)
        return self.door.hear(Delivery(topic, payload, more.pop("retained", False), 1, self.packet, **more))

    def said(self) -> list[Message]:
        """Return what was said on the spot."""
        return self.broker.log

    def states(self) -> list[tuple[str, str]]:
        """Return the topics and states of that."""
        return [(one.topic, orjson.loads(one.payload)["data"]["state"]) for one in self.said()]


async def door(folder: Path, handlers: Handlers | None = None, **more: Any) -> At:  # noqa: ANN401
    """Return a door of an agent that runs."""
    desk = Desk(folder, (handlers or Handlers()).registry(), **more)
    await desk.start()
    await asyncio.sleep(0.1)
    at = At(desk)
    await at.connect()
    return at


async def test_a_command_is_for_the_device_its_groups_or_all(tmp_path: Path) -> None:
    """Anything else is none."""
    handlers = Handlers()
    at = await door(tmp_path, handlers)
    for topic in (f"{DOWN}do", "edge/_all/down/cmd/do", "edge/_group/plant/down/cmd/do"):
        assert at.hear(topic)
    for topic in ("edge/_group/other/down/cmd/do", "edge/dev-2/down/cmd/do", "edge/dev-1/down/config", "x/y"):
        assert not at.hear(topic)
    await asyncio.sleep(0.1)
    assert len(handlers.runs["do"]) == 3
    assert at.acknowledged == [1, 2, 3]
    await at.desk.stop()


async def test_acknowledgements_go_out_in_the_order_of_arrival(tmp_path: Path) -> None:
    """A refusal does not overtake what is still being written down; nothing is acknowledged before that."""
    at = await door(tmp_path)
    with at.desk.keeping._worker.stalled():  # type: ignore[attr-defined]
        for said in ({"id": "c-1"}, b"{", {"id": "c-2"}, {"id": "c-1"}):
            at.hear(f"{DOWN}do", said)
        at.session.acknowledge(Delivery("other", b"", retained=False, qos=1, packet_id=99))
        await asyncio.sleep(1)
        assert at.acknowledged == []
    await asyncio.sleep(0.1)
    assert at.acknowledged == [1, 2, 3, 4, 99]
    await at.desk.stop()


async def test_what_an_earlier_session_has_not_acknowledged_comes_again(tmp_path: Path) -> None:
    """It is acknowledged on the session on which it came."""
    handlers = Handlers()
    at = await door(tmp_path, handlers)
    with at.desk.keeping._worker.stalled():  # type: ignore[attr-defined]
        at.hear(f"{DOWN}do", {"id": "c-1"})
        await asyncio.sleep(0.1)
        first, at.acknowledged = at.acknowledged, []
        await at.connect()
        at.hear(f"{DOWN}do", {"id": "c-1"}, again=True)
        await asyncio.sleep(0.1)
    await asyncio.sleep(0.1)
    assert first == []
    assert sorted(at.acknowledged) == [1, 2]
    assert handlers.runs["do"] == ["c-1"]
    await at.desk.stop()


async def test_what_comes_of_a_command_is_told(tmp_path: Path) -> None:
    """To where its sender wants it, with correlation data and trace."""
    at = await door(tmp_path)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    wants = {"response_topic": f"{UP}reply/here", "correlation": b"\x00\xff", "traceparent": trace}
    at.hear(f"{DOWN}do", {"id": "c-1"}, **wants)
    await asyncio.sleep(0.1)
    assert at.states() == [(f"{UP}reply/here", "accepted"), (f"{UP}reply/here", "running")]
    message = at.said()[0]
    event = orjson.loads(message.payload)
    assert (event["type"], event["subject"], event["traceparent"]) == ("edge.reply.v1", "do", trace)
    assert message.correlation == b"\x00\xff"
    assert message.content_type == "application/cloudevents+json"
    store = at.desk.keeping._store
    assert store is not None
    (record,) = store.page(Priority.CRITICAL, 0, rows=9, max_bytes=1 << 20)[0]
    assert (record.channel, record.correlation) == ("reply/here", b"\x00\xff")
    await at.desk.stop()


@pytest.mark.parametrize(
    ("topic", "goes_to"),
    [
        ("fleet/7/answers", "fleet/7/answers"),
        (f"{UP}mine", f"{UP}mine"),
        (f"{UP}data/x", f"{UP}reply/c-1"),
        ("edge/dev-2/down/cmd/restart", f"{UP}reply/c-1"),
        (f"{UP}reply//edge/dev-2/down/cmd/restart", f"{UP}reply//edge/dev-2/down/cmd/restart"),
        ("a/+", f"{UP}reply/c-1"),
    ],
)
async def test_replies_go_where_they_may(tmp_path: Path, topic: str, goes_to: str) -> None:
    """Below the device's own ``up/``, or where the configuration allows it."""
    at = await door(tmp_path)
    at.hear(f"{DOWN}do", {"id": "c-1"}, response_topic=topic)
    await asyncio.sleep(0.1)
    assert {one.topic for one in at.said()} == {goes_to}
    await at.desk.stop()


async def test_a_refusal_says_why_and_so_many_are_said_a_second(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All are acknowledged; nothing of them is written down; of a flood most get no answer."""
    at = await door(tmp_path)
    saying = asyncio.get_running_loop().create_task(at.door.serve(at.session))
    with caplog.at_level(logging.WARNING):
        for n in range(MAX_UNSAID + 500):
            at.hear(f"{DOWN}none", {"id": f"c-{n}"}, correlation=b"x")
        await asyncio.sleep(1)
        assert 95 <= caplog.messages.count("command_refused") <= 101
        await asyncio.sleep(20)
    assert caplog.messages.count("command_refused") == MAX_UNSAID
    assert len(at.acknowledged) == MAX_UNSAID + 500
    at.broker.log.clear()
    at.hear(f"{DOWN}none", {"id": "c-1"})
    await asyncio.sleep(0.1)
    (message,) = at.said()
    event = orjson.loads(message.payload)
    assert message.topic == f"{UP}reply/c-1"
    assert event["data"]["error"]["code"] == "unknown_command"
    assert "traceparent" not in event
    assert at.desk.outbox.notes == {}
    saying.cancel()
    await at.desk.stop()


async def test_what_was_retained_and_is_cleared_is_no_command(tmp_path: Path) -> None:
    """A broker tells so with an empty retained message."""
    handlers = Handlers()
    at = await door(tmp_path, handlers)
    assert at.hear(f"{DOWN}do", retained=True)
    await asyncio.sleep(0.1)
    assert handlers.runs["do"] == []
    assert at.acknowledged == [1]
    assert at.said() == []
    await at.desk.stop()


async def test_nothing_is_said_where_there_is_no_room_or_nobody(tmp_path: Path) -> None:
    """What has to be known goes another way."""
    at = await door(tmp_path)
    await at.session.connection.disconnect()
    at.hear(f"{DOWN}do", {"id": "c-1"})
    await asyncio.sleep(0.1)
    assert at.said() == []
    assert at.desk.states() == ["succeeded"]
    assert await at.desk.dispatcher.perform("do", None)
    await at.desk.stop()


async def test_what_is_obeyed_is_said_on_each_session_and_when_it_changes(tmp_path: Path) -> None:
    """Retained."""
    at = await door(tmp_path)
    assert await at.door.advertise(at.session)
    assert await at.door.advertise(at.session)
    at.advertised = {"commands": [1]}
    assert await at.door.advertise(at.session)
    assert [orjson.loads(one.payload)["data"] for one in at.said()] == [{"commands": []}, {"commands": [1]}]
    assert all(one.retain and one.topic == f"{UP}commands" for one in at.said())
    await at.connect()
    at.session.name = "s2"
    assert await at.door.advertise(at.session)
    assert len(at.said()) == 3
    await at.desk.stop()
