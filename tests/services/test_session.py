"""One connection as the rest of the agent sees it."""

from __future__ import annotations

import asyncio
import json

import pytest

from edge_agent.core.config_types import BrokerUrl
from edge_agent.core.connection import Attempt, ClosedBy, Closing, ConnectionPolicy, Suspect
from edge_agent.core.timebase import UtcNs, seconds
from edge_agent.core.topics import Topics
from edge_agent.ports import Delivery, Limits, Message
from edge_agent.services.session import Session
from tests.fakes import FakeBroker, FakeClock, FakeConnection, FakeConnector

TOPICS = Topics("edge", "dev-1")
BROKER = BrokerUrl("mqtt", "fake", 1883)


async def session_on(broker: FakeBroker, *, name: str = "s1") -> Session:
    """Return a session on a fake broker."""
    clock = FakeClock()
    policy = ConnectionPolicy([BROKER], protocol=None, reconnect_max=seconds(60), uniform=lambda: 0.5)
    connection = await FakeConnector(broker).connect(Attempt(BROKER, 5, will_retained=True, wait=seconds(0)), None)
    policy.connected(clock.monotonic(), will_retained=True)
    return Session(connection, policy, clock, name, "dev-1", str(BROKER), UtcNs(0))


@pytest.mark.virtual
async def test_its_events_are_numbered_from_1_in_its_own_stream() -> None:
    """So that an id is never used twice."""
    session = await session_on(FakeBroker())
    ids = [json.loads(session.event("edge.x.v1", {}))["id"] for _ in range(3)]
    assert ids == ["s1.1", "s1.2", "s1.3"]


@pytest.mark.virtual
async def test_a_refusal_settles_a_message_and_is_remembered_until_it_is_accepted() -> None:
    """Trying again at once would change nothing; the change of state wakes who tells health."""
    broker = FakeBroker(puback=lambda _topic: 0x87)
    session = await session_on(broker)
    assert await session.publish(Message("t", b"x"))
    assert session.refused == {"t": 0x87}
    assert session.changed.is_set()
    session.changed.clear()
    assert await session.publish(Message("t", b"x"))
    assert not session.changed.is_set()
    broker.puback = lambda _topic: 0x10
    assert await session.publish(Message("t", b"x"))
    assert session.refused == {}
    assert session.changed.is_set()


@pytest.mark.virtual
async def test_what_is_too_large_is_refused_in_the_broker_s_place() -> None:
    """0x95, as the broker would say, but without losing the connection."""
    session = await session_on(FakeBroker(limits=Limits(maximum_packet_size=10)))
    assert await session.publish(Message("t", b"x" * 11))
    assert session.refused == {"t": 0x95}


@pytest.mark.virtual
async def test_what_was_outstanding_at_the_end_is_suspected() -> None:
    """A retained publish as such, and not what was acknowledged before."""
    broker = FakeBroker()
    session = await session_on(broker)
    assert await session.publish(Message("ok", b"x"))
    broker.puback = lambda _topic: None
    assert isinstance(session.connection, FakeConnection)

    def close(_topic: str) -> None:
        assert isinstance(session.connection, FakeConnection)
        session.connection.end(Closing(ClosedBy.PEER))

    broker.puback = close
    assert not await session.publish(Message("bad", b"x", retain=True))
    assert session.suspects() == {Suspect("retained", "bad")}


@pytest.mark.virtual
async def test_what_the_policy_leaves_out_is_not_sent() -> None:
    """Retained goes unretained, a suspended topic not at all, and both count as settled."""
    broker = FakeBroker()
    session = await session_on(broker)
    now = session.clock.monotonic()
    for suspect in (Suspect("topic", "t"), Suspect("retained", "u")):
        for _ in range(2):
            session.policy.connected(now, will_retained=True)
            session.policy.closed(Closing(ClosedBy.PEER), frozenset({suspect}), now)
    assert await session.publish(Message("t", b"x"))
    assert await session.publish(Message("v", b"x", retain=True))
    assert [(message.topic, message.retain) for message in broker.log] == [("v", False)]


@pytest.mark.virtual
async def test_subscriptions_are_noted_one_by_one() -> None:
    """Each filter has its own answer."""
    session = await session_on(FakeBroker(suback=lambda name: 0x87 if name == "b/#" else 1))
    assert await session.subscribe(("a/#", "b/#"))
    assert session.refused == {"b/#": 0x87}
    assert session.suspects() == frozenset()


@pytest.mark.virtual
async def test_who_stops_waiting_for_an_acknowledgement_leaves_no_suspicion_behind() -> None:
    """The answer is taken note of whether or not anybody waits for it by then."""
    broker = FakeBroker()
    session = await session_on(broker)
    waiting = asyncio.get_running_loop().create_task(session.publish(Message("t", b"x")))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(1)
    assert session.suspects() == frozenset()


@pytest.mark.virtual
async def test_an_offer_is_sent_at_once_or_never() -> None:
    """Where there is room, and the broker may be asked."""
    broker = FakeBroker(puback=lambda _topic: None, limits=Limits(receive_maximum=2, maximum_packet_size=10))
    session = await session_on(broker)
    session.offer(Message("a", b"x" * 11))
    session.offer(Message("a", b"1"))
    assert session.connection.has_room()
    session.offer(Message("b", b"2"))
    assert not session.connection.has_room()
    session.offer(Message("c", b"3"))
    assert session.suspects() == {Suspect("topic", "a"), Suspect("topic", "b")}


@pytest.mark.virtual
async def test_an_offer_that_was_answered_is_suspected_no_more() -> None:
    """Whatever the answer: it is not worth a word of the health."""
    session = await session_on(FakeBroker(puback=lambda _topic: 0x87))
    session.offer(Message("a", b"1"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert session.suspects() == frozenset()
    assert session.refused == {}


@pytest.mark.virtual
async def test_what_a_broker_closes_connections_over_is_not_offered_again() -> None:
    """Else a sender of commands could keep the device from being connected."""
    broker = FakeBroker(closes_on=lambda message: message.topic == "bad")
    session = await session_on(broker)
    policy, now = session.policy, session.clock.monotonic()
    for _ in range(2):
        session.offer(Message("bad", b"1"))
        policy.closed(await session.connection.closed(), session.suspects(), now)
        policy.connected(now, will_retained=True)
        again = await session_on(broker)
        session.connection = again.connection
    session.offer(Message("bad", b"1"))
    assert session.connection.has_room()
    assert not policy.may_publish("bad", now)
    assert policy.may_publish("good", now)


@pytest.mark.virtual
async def test_deliveries_are_acknowledged_in_the_order_in_which_they_came() -> None:
    """What is done sooner waits for what came before it (MQTT 5 §4.6)."""
    session = await session_on(FakeBroker())
    seen: list[int] = []
    session.connection.acknowledge = lambda delivery: seen.append(delivery.packet_id)  # type: ignore[method-assign]
    first, second = (asyncio.get_running_loop().create_future() for _ in range(2))
    for packet, once in ((1, first), (2, None), (3, second), (4, None)):
        session.acknowledge(Delivery("t", b"", retained=False, qos=1, packet_id=packet), once)
    second.set_result(None)
    await asyncio.sleep(0)
    assert seen == []
    first.cancel()
    await asyncio.sleep(0)
    assert seen == [1, 2, 3, 4]


@pytest.mark.virtual
async def test_an_event_may_have_a_subject_and_a_trace() -> None:
    """As a reply has."""
    session = await session_on(FakeBroker())
    event = json.loads(session.event("edge.reply.v1", {}, subject="ping", traceparent="00-a-b-01"))
    assert (event["subject"], event["traceparent"]) == ("ping", "00-a-b-01")
