"""One connection after another, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest
from typing_extensions import override

from edge_agent.adapters.mqtt_connector import Login, MqttConnector
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.core.config_models import Tls
from edge_agent.core.config_types import BrokerUrl
from edge_agent.core.connection import Attempt, ClosedBy, Closing, ConnectionPolicy, Suspect
from edge_agent.core.timebase import later, seconds
from edge_agent.core.topics import Topics
from edge_agent.ports import Connection, Delivery, Message
from edge_agent.services.link import Link
from edge_agent.services.presence import Presence
from edge_agent.services.session import Session
from edge_agent.services.watchdog import Liveness
from tests.fakes import ClosedDoor, FakeBroker, FakeClock, FakeConnection, FakeConnector, fake_link
from tests.support.agents import observer
from tests.support.brokers import free_port, mosquitto

STATUS, HEALTH = "edge/dev-1/up/status", "edge/dev-1/up/health"
A, B = BrokerUrl("mqtt", "a", 1883), BrokerUrl("mqtt", "b", 1883)


@contextlib.asynccontextmanager
async def running(link: Link) -> AsyncIterator[asyncio.Task[None]]:
    """Run a link; cancel it at the end."""
    task = asyncio.get_running_loop().create_task(link.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait((task,))


def statuses(broker: FakeBroker) -> list[bytes]:
    """Return what was said on the status topic."""
    return [message.payload for message in broker.log if message.topic == STATUS]


@pytest.mark.virtual
async def test_a_session_is_handed_out_once_all_is_said_and_heard() -> None:
    """Online, subscriptions, health; then the others may speak."""
    broker = FakeBroker()
    link, _ = fake_link(broker, clock=FakeClock(), groups=("g",))
    async with running(link):
        session = await link.session()
        assert [message.topic for message in broker.log] == [STATUS, HEALTH]
        assert broker.sessions["fake"].filters == {
            "edge/dev-1/down/#",
            STATUS,
            "edge/_all/down/cmd/#",
            "edge/_group/g/down/cmd/#",
        }
        assert (session.name, await link.session()) == ("s1", session)


@pytest.mark.virtual
async def test_a_week_without_a_broker_costs_a_try_a_minute_at_most() -> None:
    """At the longest waits: 30 or so tries in the first 2 minutes, then one a minute; and back within one wait."""
    broker = FakeBroker()
    clock = FakeClock()
    link, _ = fake_link(broker, clock=clock)
    async with running(link):
        await link.session()
        await asyncio.sleep(60)
        broker.crash()
        await asyncio.sleep(7 * 86400)
        assert len(broker.attempts) <= 50 + 7 * 1440
        late = [at for at, _ in broker.attempts[-100:]]
        assert min(b - a for a, b in pairwise(late)) >= 59
        broker.up = True
        await asyncio.sleep(60)
        assert (await link.session()).name == "s2"


@pytest.mark.virtual
async def test_a_stop_says_offline_and_leaves_nothing_behind() -> None:
    """Cancelled while connected; the Will is not needed."""
    broker = FakeBroker()
    link, _ = fake_link(broker, clock=FakeClock())
    async with running(link):
        await link.session()
    assert statuses(broker) == [b"online", b"offline"]
    assert broker.sessions["fake"].connection is None


@pytest.mark.virtual
async def test_a_stop_does_not_wait_for_a_broker_that_does_not_answer() -> None:
    """The farewell is bounded: 2 s."""
    broker = FakeBroker()
    link, _ = fake_link(broker, clock=FakeClock())
    async with running(link) as task:
        await link.session()
        broker.puback = lambda _topic: None
        begun = asyncio.get_running_loop().time()
        task.cancel()
        await asyncio.wait((task,))
        assert asyncio.get_running_loop().time() - begun <= 2.1


@pytest.mark.virtual
async def test_an_offline_about_itself_is_contradicted_at_most_once_a_second() -> None:
    """Two who disagree do not do so at the speed of the network."""
    broker = FakeBroker()
    link, _ = fake_link(broker, clock=FakeClock())
    async with running(link):
        await link.session()
        for _ in range(100):
            broker.route(Message(STATUS, b"offline", retain=True))
            await asyncio.sleep(0.05)
        await asyncio.sleep(2)
        assert statuses(broker)[-1] == b"online"
        assert statuses(broker).count(b"online") <= 8


@pytest.mark.virtual
async def test_what_was_left_out_is_tried_again_after_an_hour() -> None:
    """On the same connection: the filter may be allowed by now."""
    broker = FakeBroker()
    link, _ = fake_link(broker, clock=FakeClock())
    closing = {"edge/_all/down/cmd/#"}
    plain_suback = broker.suback

    def suback(name: str) -> int:
        if name in closing:
            broker.crash()
            broker.up = True
        return plain_suback(name)

    broker.suback = suback
    async with running(link):
        session = await link.session()
        assert session.policy.reasons(FakeClock().monotonic()) == ["filter_refused: edge/_all/down/cmd/#"]
        assert "edge/_all/down/cmd/#" not in broker.sessions["fake"].filters
        closing.clear()
        await asyncio.sleep(3601)
        assert "edge/_all/down/cmd/#" in broker.sessions["fake"].filters
        assert (await link.session()).name == session.name


@pytest.mark.virtual
async def test_a_refusal_and_the_end_in_one_turn_do_not_hang_it() -> None:
    """While a review is pending: what waits for it must neither miss the refusal nor swallow its cancellation."""
    broker, clock = FakeBroker(), FakeClock()
    link, _ = fake_link(broker, clock=clock)
    async with running(link):
        session = await link.session()
        session.policy._current.left_out[Suspect("topic", "x")] = later(clock.monotonic(), seconds(3600))
        session.changed.set()  # so that it waits with the review in mind
        await asyncio.sleep(1)
        connection = session.connection
        assert isinstance(connection, FakeConnection)
        session.refused["t"] = 0x87
        session.changed.set()
        connection.end(Closing(ClosedBy.PEER, 0x87))
        await asyncio.sleep(10)
        assert (await link.session()).name == "s2"


@pytest.mark.virtual
async def test_each_broker_s_failure_is_logged_once_while_it_is_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """Two brokers down for an hour: a line for each every 10 minutes, not one for each try."""
    link, _ = fake_link(FakeBroker(up=False), clock=FakeClock(), brokers=(A, B))
    async with running(link):
        await asyncio.sleep(3600)
    said = [record.__dict__["error"] for record in caplog.records if record.getMessage() == "connect_failed"]
    assert set(said) == {f"{A}: down", f"{B}: down"}
    assert len(said) <= 2 * 7


async def test_a_return_leaves_offline_on_the_broker_that_it_left(tmp_path: Path) -> None:
    """On two real brokers: the device hears its own farewell, and must not contradict it."""
    first_port, clock, topics = free_port(), SystemClock(), Topics("edge", "dev-1")
    async with mosquitto(tmp_path) as second, observer(second.url) as seen:
        brokers = [BrokerUrl("mqtt", "127.0.0.1", port) for port in (first_port, second.port)]
        link = Link(
            MqttConnector(Login("dev-1", seconds(60), seconds(60), seconds(0), Tls()), clock=clock),
            ConnectionPolicy(brokers, protocol=None, reconnect_max=seconds(1), uniform=lambda: 0.1),
            presence=Presence(topics, groups=(), clock=clock),
            doors=[ClosedDoor()],
            clock=clock,
            liveness=Liveness(),
            new_name=lambda: "s",
        )
        link._return_wait = seconds(0.3)
        async with running(link):
            await seen.wait(STATUS, b"online")
            async with mosquitto(tmp_path, port=first_port) as first, observer(first.url) as seen_first:
                await seen_first.wait(STATUS, b"online")
                async with observer(second.url) as later_seen:
                    assert (await later_seen.wait(STATUS)).payload == b"offline"


@pytest.mark.virtual
async def test_on_a_fall_back_broker_it_looks_for_the_first_and_returns() -> None:
    """Five minutes after, in a planned way: offline is said, and online again."""
    broker = FakeBroker(down={"a"})
    link, _ = fake_link(broker, clock=FakeClock(), brokers=(A, B))
    async with running(link):
        await link.session()
        await asyncio.sleep(700)
        assert len(broker.attempts) == 2
        broker.down.clear()
        assert broker.attempts[-1][1].broker == B
        await asyncio.sleep(310)
        assert broker.attempts[-1][1].broker == A
        assert statuses(broker)[-3:] == [b"online", b"offline", b"online"]
        await asyncio.sleep(3600)
        assert len(broker.attempts) == 3


@pytest.mark.virtual
async def test_the_watchdog_hears_of_an_attempt_that_hangs() -> None:
    """An attempt is bounded, so a link that is not back from one within a minute is stuck."""

    class Hanging(FakeConnector):
        @override
        async def connect(self, attempt: Attempt, will: Message | None) -> Connection:
            assert attempt.broker == A
            assert will
            await asyncio.Event().wait()
            raise AssertionError

    broker, clock, liveness = FakeBroker(), FakeClock(), Liveness()
    link, _ = fake_link(broker, clock=clock, liveness=liveness, brokers=(A,))
    link.connector = Hanging(broker)
    async with running(link):
        await asyncio.sleep(50)
        assert liveness.overdue(clock.monotonic()) == []
        await asyncio.sleep(30)
        assert liveness.overdue(clock.monotonic()) == ["link"]


@pytest.mark.virtual
async def test_being_offline_or_online_starves_no_watchdog() -> None:
    """Neither a day without a broker nor a day of silence on a connection is a broken promise."""
    broker, clock, liveness = FakeBroker(), FakeClock(), Liveness()
    link, _ = fake_link(broker, clock=clock, liveness=liveness)
    async with running(link):
        await asyncio.sleep(86400)
        assert liveness.overdue(clock.monotonic()) == []
        broker.crash()
        await asyncio.sleep(86400)
        assert liveness.overdue(clock.monotonic()) == []


@pytest.mark.virtual
async def test_a_bug_in_a_session_task_ends_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not swallowed: the process ends and the service manager restarts it."""
    broker = FakeBroker()
    link, _ = fake_link(broker, clock=FakeClock())

    def broken(_presence: Presence, delivery: Delivery) -> bool:
        raise ZeroDivisionError(delivery.topic)

    monkeypatch.setattr(Presence, "hear", broken)
    with pytest.raises(ExceptionGroup) as raised:
        await link.run()  # it hears its own online
    assert raised.group_contains(ZeroDivisionError)


@pytest.mark.virtual
async def test_the_waits_follow_the_policy_in_time() -> None:
    """At the longest draw: 1, 2, 4, 4 … seconds apart."""
    broker = FakeBroker()
    link, _ = fake_link(broker, clock=FakeClock())
    async with running(link):
        await link.session()
        await asyncio.sleep(40)
        broker.crash()
        start = len(broker.attempts)
        await asyncio.sleep(30)
        times = [at for at, _ in broker.attempts[start:]]
    gaps = [round(b - a) for a, b in pairwise(times)]
    assert gaps[:4] == [2, 4, 4, 4]


class NotingDoor(ClosedDoor):
    """Takes what is on some topics, and notes what it is asked."""

    def __init__(self, name: str, notes: list[str], topic: str) -> None:
        self.name, self.notes, self.topic = name, notes, topic
        self.sessions: list[Session] = []

    @override
    def begin(self, session: Session) -> None:
        self.sessions.append(session)

    @override
    async def advertise(self, _session: Session) -> bool:
        self.notes.append(f"{self.name} advertises")
        return True

    @override
    async def serve(self, session: Session) -> None:
        self.notes.append(f"{self.name} serves {session.name}")
        await asyncio.Event().wait()

    @override
    def hear(self, delivery: Delivery) -> bool:
        self.notes.append(f"{self.name} hears {delivery.topic}")
        if delivery.topic == self.topic and delivery.payload == b"x":
            self.sessions[-1].acknowledge(delivery)
            return True
        return False


@pytest.mark.virtual
async def test_each_door_is_asked_in_its_turn_until_one_takes_what_arrives() -> None:
    """What none takes is acknowledged all the same; each lives as long as a session."""
    broker, notes, mine = FakeBroker(), list[str](), "edge/dev-1/down/x"
    link, _ = fake_link(broker, clock=FakeClock())
    doors = [NotingDoor("first", notes, mine), NotingDoor("second", notes, "edge/dev-1/down/y")]
    link.doors = doors
    async with running(link):
        await link.session()
        await asyncio.sleep(1)
        own = [note for note in notes if STATUS not in note]  # it hears itself, too
        assert sorted(own) == ["first advertises", "first serves s1", "second advertises", "second serves s1"]
        notes.clear()
        for topic in (mine, "edge/dev-1/down/y", "edge/dev-1/down/z"):
            broker.route(Message(topic, b"x"))
        await asyncio.sleep(1)
        assert notes == [
            f"first hears {mine}",
            *(f"{name} hears edge/dev-1/down/{topic}" for topic in "yz" for name in ("first", "second")),
        ]
        assert not broker.sessions["fake"].unacknowledged
        notes.clear()
        link.review()
        await asyncio.sleep(1)
        assert notes == ["first advertises", "second advertises"]
        broker.cut()
        await asyncio.sleep(90)
        assert [session.name for session in doors[0].sessions] == ["s1", "s2"]


@pytest.mark.virtual
async def test_where_the_connection_ends_over_what_a_door_says_the_next_is_not_asked() -> None:
    """The session is not handed out either."""

    class EndingDoor(NotingDoor):
        @override
        async def advertise(self, session: Session) -> bool:
            await super().advertise(session)
            return len(self.sessions) > 1

    broker, notes = FakeBroker(), list[str]()
    link, _ = fake_link(broker, clock=FakeClock())
    link.doors = [EndingDoor("first", notes, ""), NotingDoor("second", notes, "")]
    async with running(link):
        await asyncio.sleep(5)
        assert "second advertises" not in notes
        assert link._open is None
        broker.cut()
        assert (await link.session()).name == "s2"
        assert notes[-1] == "second advertises"


async def test_a_review_without_a_session_is_nothing() -> None:
    """Whoever has something new to say need not know."""
    link, _ = fake_link(FakeBroker(), clock=FakeClock())
    link.review()
    assert link._current is None


@pytest.mark.virtual
@pytest.mark.parametrize(
    ("is_owed", "after_s", "is_taken_over"), [(True, 0.1, False), (True, 2, True), (False, 0.1, True)]
)
async def test_a_close_at_once_over_a_record_is_no_other_client_s_doing(
    is_owed: bool,  # noqa: FBT001
    after_s: float,
    is_taken_over: bool,  # noqa: FBT001
) -> None:
    """Though the records before it were answered; without one that is owed, or later, it may be."""
    broker, clock = FakeBroker(), FakeClock()
    link, _ = fake_link(broker, clock=clock)
    task = asyncio.get_running_loop().create_task(link.run())
    for _ in range(3):
        session = await link.session()
        session.unanswered, session.is_owed = False, is_owed
        await asyncio.sleep(after_s)
        broker.cut()
        await session.over.wait()
    assert link.policy.taken_over(clock.monotonic()) is is_taken_over
    task.cancel()
    await asyncio.wait((task,))
