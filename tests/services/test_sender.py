"""A command on its way, over connections that break."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import orjson

from edge_agent.adapters.mqtt_connector import Login, MqttConnector
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.core.command_entry import REPLY
from edge_agent.core.command_states import State
from edge_agent.core.config_models import Tls
from edge_agent.core.config_types import BrokerUrl
from edge_agent.core.connection import ConnectionPolicy
from edge_agent.core.fleet import Fleet
from edge_agent.core.sending import Replies, Reply
from edge_agent.core.timebase import seconds
from edge_agent.errors import EdgeAgentError, TooLargeError, UnreachableError
from edge_agent.ports import Message
from edge_agent.services.sender import NO_SUBSCRIBERS, Sender
from edge_agent.services.watcher import Happening
from tests.support.scripted_broker import Personality, ScriptedBroker

TOPIC, FILTERS = "edge/dev-1/down/cmd/ping", ("edge/dev-1/up/reply/c-1", "edge/dev-1/up/status")


@dataclass
class Heard:
    """What came of it."""

    sender: Sender
    replies: list[Reply] = field(default_factory=list)
    errors: list[EdgeAgentError] = field(default_factory=list)
    told: list[Happening] = field(default_factory=list)
    more: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, *, replies: int = 0, errors: int = 0) -> None:
        """Wait until so many have come."""
        while len(self.replies) < replies or len(self.errors) < errors:
            self.more.clear()
            await self.more.wait()

    def take(self, what: Reply | EdgeAgentError) -> None:
        """Take note."""
        (self.replies if isinstance(what, Reply) else self.errors).append(what)  # type: ignore[arg-type]
        self.more.set()


@contextlib.asynccontextmanager
async def sending(port: int, payload: bytes = b"{}") -> AsyncIterator[Heard]:
    """Send a ping to ``dev-1``."""
    policy = ConnectionPolicy(
        (BrokerUrl("mqtt", "127.0.0.1", port),), protocol=None, reconnect_max=seconds(1), uniform=lambda: 0.1
    )
    connector = MqttConnector(Login("send", seconds(30), seconds(0), seconds(0), Tls()), clock=SystemClock())
    told = list[Happening]()
    sender = Sender(connector, policy, SystemClock(), Fleet(), ("edge", FILTERS), told.append)
    heard = Heard(sender, told=told)
    sender.message, sender.replies = Message(TOPIC, payload), Replies("edge", "c-1", 1)
    sender.heard = sender.give_up = heard.take
    task = asyncio.get_running_loop().create_task(sender.run())
    try:
        yield heard
    finally:
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()


def reply(state: State, event: int) -> bytes:
    """Return one as the device publishes it."""
    said = {"command": "ping", "id": "c-1", "state": state}
    return orjson.dumps({"type": REPLY, "source": "/devices/dev-1", "id": f"s.{event}", "data": said})


async def test_it_subscribes_before_it_publishes() -> None:
    """Else a quick reply would be missed; what is said of the device's status is kept."""
    async with ScriptedBroker() as broker, sending(broker.port) as heard:
        await broker.wait_for(lambda: len(broker.publishes) == 1)
        (publish,) = broker.publishes
        assert (publish.topic, publish.payload, publish.qos, publish.retain) == (TOPIC, b"{}", 1, False)
        assert broker.connections[0].subscribes[0].filters == FILTERS
        broker.inject("edge/dev-1/up/status", b"offline", retain=True)
        broker.inject(FILTERS[0], b"nonsense")
        for event, state in enumerate((State.ACCEPTED, State.SUCCEEDED)):
            broker.inject(FILTERS[0], reply(state, event))
        await heard.until(replies=2)
        assert ([one.state for one in heard.replies], heard.errors) == ([State.ACCEPTED, State.SUCCEEDED], [])
        assert heard.sender.offline


async def test_after_a_lost_connection_it_is_sent_again_until_the_last_word() -> None:
    """The reply may have passed meanwhile; the device does it once all the same, and says it again."""
    async with ScriptedBroker() as broker, sending(broker.port) as heard:
        await broker.wait_for(lambda: len(broker.publishes) == 1)
        broker.drop_clients()
        await broker.wait_for(lambda: len(broker.publishes) == 2)
        assert {publish.payload for publish in broker.publishes} == {b"{}"}
        broker.inject(FILTERS[0], reply(State.SUCCEEDED, 1))
        await heard.until(replies=1)
        broker.drop_clients()
        await broker.wait_for(lambda: len(broker.connections) == 3 and bool(broker.connections[-1].subscribes))
        broker.inject("edge/dev-1/up/status", b"offline")
        while not heard.sender.offline:  # noqa: ASYNC110  # what it would have sent, it has sent before
            await asyncio.sleep(0.01)
    assert len(broker.publishes) == 2


async def test_nobody_listening_is_the_end_unless_somebody_has_before() -> None:
    """A device that restarts with a clean session comes back."""
    knobs = Personality(puback=lambda _topic, _number: NO_SUBSCRIBERS)
    async with ScriptedBroker(knobs) as broker, sending(broker.port) as heard:
        await heard.until(errors=1)
        assert isinstance(heard.errors[0], UnreachableError)
        assert str(heard.errors[0]).startswith(f"nobody listens on {TOPIC}; ")
    knobs = Personality(puback=lambda _topic, number: NO_SUBSCRIBERS if number > 1 else 0)
    async with ScriptedBroker(knobs) as broker, sending(broker.port) as heard:
        await broker.wait_for(lambda: len(broker.publishes) == 1)
        broker.drop_clients()
        await broker.wait_for(lambda: len(broker.publishes) == 2)
        broker.inject(FILTERS[0], reply(State.SUCCEEDED, 1))
        await heard.until(replies=1)
        assert heard.errors == []


async def test_what_the_broker_does_not_take_is_the_end() -> None:
    """Refused, or too large for it."""
    for knobs, kind in (
        (Personality(puback=lambda _topic, _number: 0x87), EdgeAgentError),
        (Personality(maximum_packet_size=200), TooLargeError),
    ):
        async with ScriptedBroker(knobs) as broker, sending(broker.port, b"x" * 300) as heard:
            await heard.until(errors=1)
            assert type(heard.errors[0]) is kind


async def test_without_the_replies_nothing_is_sent_and_without_the_status_it_is() -> None:
    """Also where a broker refuses by closing the connection."""
    for closing in (True, False):

        def knobs(word: str, closing: bool = closing) -> Personality:  # noqa: FBT001
            if closing:
                return Personality(close_on_subscribe=lambda name: word in name)
            return Personality(suback=lambda name: 0x87 if word in name else None)

        async with ScriptedBroker(knobs("status")) as broker, sending(broker.port):
            await broker.wait_for(lambda: len(broker.publishes) == 1)
        async with ScriptedBroker(knobs("reply")) as broker, sending(broker.port) as heard:
            while not any("up/reply" in str(one) and "refused" in str(one) for one in heard.told):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert broker.publishes == []
