"""Whatever happens to a device, its disk, clock and connection: each command ends once, no effect comes twice."""

from __future__ import annotations

import asyncio
import itertools
import logging
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson
import pytest
from pydantic import Field
from typing_extensions import override

from edge_agent.command_ports import Call, Command, CutOff
from edge_agent.core.authority import Authority
from edge_agent.core.command_entry import ReplyTo
from edge_agent.core.command_request import CommandError
from edge_agent.core.config_models import Commands
from edge_agent.core.config_types import Section
from edge_agent.core.timebase import MonotonicNs, UtcNs, rfc3339, seconds
from edge_agent.ports import Message
from edge_agent.services.command_door import CommandDoor
from edge_agent.services.command_runs import NO_DISK
from edge_agent.services.dispatcher import Dispatcher, Incoming
from edge_agent.services.outbox_writer import OutboxWriter
from edge_agent.services.session import Session
from tests.fakes import FakeBroker
from tests.support.dispatching import S, StoodClock
from tests.support.flow import Flow, online
from tests.support.virtual_time import VirtualTimeLoop

pytest.importorskip("hypothesis", reason="property tests need hypothesis")

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

T = TypeVar("T")
DOWN: Final = "edge/dev-1/down/cmd/"
SHM: Final = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
REPLY: Final = "edge/dev-1/up/reply/"
FINAL: Final = {"succeeded", "failed", "timed_out", "interrupted", "cancelled", "expired", "rejected"}
KINDS: Final = {"do": CutOff.INTERRUPTED, "see": CutOff.AGAIN, "end": CutOff.DONE}
HOWS: Final = ("at once", "at once", "slowly", "fails", "hangs", "deaf")
TIMES: Final = st.sampled_from(
    [{}, {}, {}, {"delay": 8}, {"delay": 200}, {"ttl": 6}, {"ttl": 400, "delay": 20}, {"expires": 300}, {"wait": 50}]
)
SPANS_S: Final = st.sampled_from([0.3, 1.7, 7, 40, 400])


class How(Section):
    """How it goes."""

    how: str = Field("at once")


@dataclass
class Sent:
    """A command, as its sender knows it.

    Attributes:
        name: its id; ``None`` = it has none.
        payload: what was published, each time.
        taken: so many times the agent took it, or took note of it once more, and was to answer.
        settled: so many of those were acknowledged on the connection on which they came.
        rejected: so many times it was refused because of the disk, at once or a moment after it was accepted.
        begun: when, in all lives.
        repeated_after_end: whether one more was refused after it had ended.
    """

    command: str
    name: str | None
    payload: bytes
    said: dict[str, Any]
    taken: int = 0
    settled: int = 0
    rejected: int = 0
    doubtful: bool = False
    begun: list[float] = field(default_factory=list)
    first_taken: float | None = None
    finals: dict[str, Any] = field(default_factory=dict)


class LoopClock(StoodClock):
    """A clock that can be read while its loop stands."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.loop = loop

    @override
    def monotonic(self) -> MonotonicNs:
        return MonotonicNs(seconds(self.loop.time()))


class Again(FakeBroker):
    """A broker that says when it delivers something once more (MQTT 5 §3.3.1.1)."""

    def mark(self) -> None:
        """Take note that the connection has ended: what is not acknowledged has been delivered."""
        for session in self.sessions.values():
            for packet, delivery in session.unacknowledged.items():
                session.unacknowledged[packet] = replace(delivery, again=True)

    @override
    def cut(self) -> None:
        super().cut()
        self.mark()


class Door(CommandDoor):
    """A door that knows what was refused after it was accepted, whether or not anybody heard of it."""

    world: Histories

    def session(self) -> Session:
        """Return the session on which commands come."""
        assert self._session is not None
        return self._session

    @override
    def _tell(self, reply: ReplyTo, data: Mapping[str, object]) -> None:
        if data["state"] == "rejected" and data["error"]["message"].endswith(NO_DISK):  # type: ignore[index]
            for one in self.world.by_name.get(str(data["id"]), ())[:1]:
                one.rejected += 1
        super()._tell(reply, data)


class Life(Flow):
    """An agent that obeys commands, on the real outbox and store, and a fake broker."""

    def __init__(self, folder: Path, world: Histories, registry: dict[str, Command]) -> None:
        super().__init__(folder, world.broker, clock=world.clock, boot=world.boot, max_record="16KiB")
        ids = itertools.count(1)
        name = next(world.lives)
        self.world = world
        self.dead = False
        authority = Authority(Commands(allow=("*",)), "dev-1", (), None)
        self.dispatcher = Dispatcher(
            registry, authority, self.outbox, clock=self.clock, new_name=lambda: f"{name}-{next(ids)}"
        )
        self.door = Door(self.dispatcher, self.topics, dict, self.clock)
        self.door.world = world
        self.link.doors = [self.door]
        take = self.dispatcher.take
        self.dispatcher.take = partial(world.take, self, take)  # type: ignore[method-assign]

    @override
    async def start(self) -> None:
        await self.outbox.open()
        self.dispatcher.recall()
        services: list[Coroutine[Any, Any, None]] = [
            OutboxWriter(self.outbox, self.keeping, clock=self.clock).run(),
            self.upkeep.run(),
            self.dispatcher.run(),
            self.link.run(),
            self.drain.run(),
        ]
        self.tasks = [asyncio.get_running_loop().create_task(service) for service in services]


class Histories(RuleBasedStateMachine):
    """Random histories of a device that is sent commands."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.root = Path(tempfile.mkdtemp(dir=SHM))  # a crash is a copy of the folder: no disk need be waited for
        self.broker = Again()
        self.lives = itertools.count(1)
        self.boot = "boot-0"
        self.folders = 0
        self.sent: list[Sent] = []
        self.by_name: dict[str, list[Sent]] = defaultdict(list)
        self.retained: dict[str, bytes] = {}
        self.off = 0.0  # so long the device slept or was off
        self.stepped = self.set_back = 0  # by so many seconds in all was true time set forward, and back
        self.heard = 0
        self.kinds = dict(KINDS)
        self.has_failed = False  # the disk has, in this life
        self.release = asyncio.Event()
        self.faults: list[str] = []
        self.clock = LoopClock(self.loop)
        self.begin()

    def within(self, coro: Coroutine[Any, Any, T]) -> T:
        """Return what a coroutine returns on the device's loop."""
        return self.loop.run_until_complete(coro)

    def world(self) -> float:
        """Return how much time has passed in the world, in seconds."""
        return self.loop.time() + self.off

    # -- the agent

    def registry(self) -> dict[str, Command]:
        """Return the commands of the next life."""
        life = next(self.lives)

        def command(name: str, cut_off: CutOff) -> Command:
            async def run(call: Call, args: How) -> object:
                self.effect(life, call.id, args)
                return await self.behave(args.how)

            return Command(name, "Try.", How, Any, run, cut_off=cut_off, at_once=2, waiting=5)

        self.alive = life
        return {name: command(name, cut_off) for name, cut_off in self.kinds.items()}

    def effect(self, life: int, name: str, args: How) -> None:
        """A handler has begun."""
        if life != self.alive:
            return
        for one in self.by_name.get(name, ())[:1]:
            one.begun.append(self.world())
            now = self.clock.now()
            said = one.said
            if one.command != "see" and len(one.begun) > 1:
                self.faults.append(f"{name} was begun twice")
            # over a reboot a delay is measured by true time: what that was corrected by cannot be told from it
            passed = self.world() + (self.stepped if self.boot != "boot-0" else 0) - (one.first_taken or 0)
            if passed < said.get("delay", 0) - 1e-6:
                self.faults.append(f"{name} was begun before its delay was over")
            if "not_before" in said and (now.state != "synced" or now.time < said["not_before"]):
                self.faults.append(f"{name} was begun before its time")
            if "expires" in said and (now.state != "synced" or now.time >= said["expires"]):
                self.faults.append(f"{name} was begun after its expiry")
            if args.how != orjson.loads(one.payload).get("args", {}).get("how"):
                self.faults.append(f"{name} was begun with other arguments")

    async def behave(self, how: str) -> object:
        """Do as a handler does."""
        if how == "fails":
            raise ValueError("why")
        if how == "slowly":
            await asyncio.sleep(9)
        while how in ("hangs", "deaf") and not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                if how == "hangs" or self.closing:
                    raise
        return how

    closing = False

    def begin(self) -> None:
        """Start the agent."""
        self.has_failed = False
        self.closing = False

        async def start() -> None:
            self.life = Life(self.root / str(self.folders), self, self.registry())
            await self.life.start()
            await asyncio.sleep(0.5)

        self.within(start())
        self.look()

    def take(self, life: Life, take: Any, incoming: Incoming) -> asyncio.Future[Any]:  # noqa: ANN401
        """See what the agent does with a command."""
        name = orjson.loads(incoming.delivery.payload).get("id", "")
        one = next((x for x in self.by_name.get(name, ()) if x.payload == incoming.delivery.payload), None)
        known = life.dispatcher.runs.book.journal.find(name) is not None
        try:
            arrived: asyncio.Future[Any] = take(incoming)
        except CommandError as error:
            if one is not None and one.finals and not (one.doubtful or life.dead):
                self.faults.append(f"{name} was refused ({error}) after it had ended")
            raise
        if life.dead:
            return arrived
        if one is None and not known:
            self.by_name.pop(name, None)  # another one has the id, for the disk never had the first
        if one is not None and not (known and incoming.delivery.retained):
            one.first_taken = self.world() if one.first_taken is None else one.first_taken
            one.taken += 1
            arrived.add_done_callback(partial(self.settle, one, life, life.door.session()))
        return arrived

    def settle(self, one: Sent, life: Life, session: Session, _arrived: object) -> None:
        """A command is acknowledged, if there is somebody to whom."""
        if not life.dead and session.connection.has_room():
            one.settled += 1

    # -- what was said

    def look(self) -> None:
        """Look at what the consumer has heard, and what has gone wrong."""
        for message in self.broker.log[self.heard :]:
            if message.topic.startswith(REPLY):
                self.hear(orjson.loads(message.payload))
        self.heard = len(self.broker.log)
        for task in self.life.tasks:
            if task.done():
                task.result()
        assert self.faults == []

    def hear(self, event: dict[str, Any]) -> None:
        """Take note of a reply."""
        data, name = event["data"], event["data"]["id"]
        if data["state"] not in FINAL or "-critical." not in event["id"] or name not in self.by_name:
            return
        one = self.by_name[name][0]
        assert data["state"] != "rejected"
        if one.finals and not one.doubtful:
            assert data in one.finals.values(), f"{name} has ended as {one.finals}, and as {data}"
        one.finals[event["id"]] = data

    def run(self, for_s: float) -> None:
        """Let time pass."""
        self.within(asyncio.sleep(for_s))
        self.look()

    # -- what happens

    def publish(self, command: str, payload: bytes, *, retained: bool = False, turns: int | None = None) -> None:
        """Publish a command, and wait a moment, or for so many turns of the loop."""

        async def route() -> None:
            self.broker.route(Message(DOWN + command, payload, retain=retained))
            if turns is None:
                await asyncio.sleep(0.01)
            for _ in range(turns or 0):
                await asyncio.sleep(0)

        self.within(route())
        self.look()

    @rule(
        command=st.sampled_from(["do", "do", "see", "see", "end", "none"]),
        how=st.sampled_from(HOWS),
        times=TIMES,
        retained=st.sampled_from([False, False, False, True]),
        anonymous=st.sampled_from([False, False, False, True]),
    )
    def receive(self, command: str, how: str, times: dict[str, int], *, retained: bool, anonymous: bool) -> None:
        """A new command arrives."""
        self.send(command, how, times, retained=retained, anonymous=anonymous)

    @rule(
        command=st.sampled_from(["do", "see", "end"]),
        how=st.sampled_from(["at once", "slowly"]),
        again=st.integers(0, 2),
        stalls=st.booleans(),
        turns=st.integers(0, 12),
    )
    def killed_on_arrival(self, command: str, how: str, again: int, turns: int, *, stalls: bool) -> None:
        """A command arrives, and a moment later the agent is killed; the disk is slow perhaps."""
        self.stall(stalls=stalls)
        one = self.send(command, how, {}, turns=turns)
        for _ in range(again):
            self.publish(command, one.payload, turns=1)
        self.kill(0, None, reboots=False)

    @rule(
        command=st.sampled_from(["do", "see", "end"]),
        stalls=st.booleans(),
        fails=st.booleans(),
        again=st.integers(0, 2),
        ends=st.sampled_from(["mend", "kill", "late kill"]),
        turns=st.integers(0, 12),
    )
    def killed_at_the_end(self, command: str, again: int, ends: str, turns: int, *, stalls: bool, fails: bool) -> None:
        """A command ends while the disk is slow or fails; then that passes, or the agent is killed."""
        one = self.send(command, "slowly", {})
        self.run(8.9)
        for _ in range(again):
            self.publish(command, one.payload)
        self.disk(fails=True) if fails else self.stall(stalls=stalls)
        self.run(0.1 if turns % 2 else 0.0999)
        for _ in range(turns):
            self.within(asyncio.sleep(0))
        if ends == "late kill":
            self.run(30)
        if ends == "mend":
            self.stall(stalls=False)
            self.disk(fails=False)
        else:
            self.kill(0, None, reboots=False)

    @rule(stalls=st.booleans())
    def stall(self, *, stalls: bool) -> None:
        """The disk takes its time, until it goes on."""
        self.within(self.go_on())
        self.life.worker._stalled = [] if stalls else None
        self.look()

    async def go_on(self) -> None:
        """Let the disk do what it was asked to."""
        calls, self.life.worker._stalled = self.life.worker._stalled or [], None
        for call in calls:
            call()
        await asyncio.sleep(0.01)

    def send(
        self,
        command: str,
        how: str,
        times: dict[str, int],
        *,
        retained: bool = False,
        anonymous: bool = False,
        turns: int | None = None,
    ) -> Sent:
        """Send a new command."""
        name = f"c-{len(self.sent)}"
        payload: dict[str, Any] = {"args": {"how": how}} | ({} if anonymous else {"id": name})
        said: dict[str, Any] = {}
        now = self.clock.now().time
        for key, value in times.items():
            if key in ("delay", "ttl"):
                said[key] = value
                payload[key] = f"{value}s"
            else:
                word = "not_before" if key == "wait" else key
                said[word] = now // 1000 * 1000 + value * S
                payload[word] = rfc3339(UtcNs(said[word]))
        one = Sent(command, None if anonymous else name, orjson.dumps(payload), said)
        self.sent.append(one)
        if not anonymous:
            self.by_name[name].append(one)
        self.publish(command, one.payload, retained=retained and not anonymous, turns=turns)
        return one

    @precondition(lambda self: self.by_name)
    @rule(data=st.data(), times=st.integers(1, 3))
    def receive_again(self, data: st.DataObject, times: int) -> None:
        """A command that was sent before is sent again."""
        one = self.by_name[data.draw(st.sampled_from(sorted(self.by_name)))][0]
        for _ in range(times):
            self.publish(one.command, one.payload)

    @precondition(lambda self: self.by_name)
    @rule(data=st.data())
    def receive_another(self, data: st.DataObject) -> None:
        """Somebody takes an id that was taken."""
        one = self.by_name[data.draw(st.sampled_from(sorted(self.by_name)))][0]
        if one.taken:
            self.publish("see", orjson.dumps({"id": one.name, "args": {"how": "slowly "}}))

    @rule(for_s=SPANS_S)
    def time_passes(self, for_s: float) -> None:
        """With all that is due."""
        self.run(for_s)

    @rule(fails=st.booleans())
    def disk(self, *, fails: bool) -> None:
        """The disk fails, or works again."""
        self.life.keeping.fails = fails
        self.has_failed = self.has_failed or fails
        if not fails:
            self.run(25)

    @rule(known=st.booleans())
    def clock_goes(self, *, known: bool) -> None:
        """Time becomes known, or is not any more."""
        self.clock.state = "synced" if known else "unsynced"
        self.life.dispatcher.time_changed()
        self.run(0.1)

    @rule(by_s=st.sampled_from([-1000, -30, 30, 1000]))
    def clock_steps(self, by_s: int) -> None:
        """True time is corrected."""
        self.clock.utc_offset = UtcNs(self.clock.utc_offset + by_s * S)
        self.stepped += max(by_s, 0)
        self.set_back += max(-by_s, 0)
        self.life.dispatcher.time_changed()
        self.run(0.1)

    @rule(for_s=st.sampled_from([5, 50, 500]))
    def sleeps(self, for_s: int) -> None:
        """The device is suspended."""
        self.pause(for_s)
        self.life.dispatcher.time_changed()
        self.run(0.1)

    def pause(self, for_s: float) -> None:
        """Time passes, and the loop does not see it."""
        self.off += for_s
        self.clock.raw_base -= seconds(for_s)
        self.clock.utc_offset = UtcNs(self.clock.utc_offset + seconds(for_s))

    @precondition(lambda self: self.by_name)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Somebody cancels one."""
        name = data.draw(st.sampled_from(sorted(self.by_name)))

        async def work() -> None:
            self.life.dispatcher.cancel(name)
            await asyncio.sleep(0.01)

        self.within(work())
        self.look()

    @rule(up=st.booleans())
    def connection_ends(self, *, up: bool) -> None:
        """And comes back, or not."""

        async def work() -> None:
            self.broker.up = up
            self.broker.cut()
            await asyncio.sleep(0.01)

        self.within(work())
        self.look()

    @rule()
    def deaf_ones_end(self) -> None:
        """Those that hang return."""

        async def work() -> None:
            self.release.set()
            await asyncio.sleep(0.01)
            self.release.clear()

        self.within(work())
        self.look()

    # -- stops and crashes

    @rule(gone=st.sampled_from([None, None, "do", "see"]), reboots=st.booleans())
    def restart(self, gone: str | None, *, reboots: bool) -> None:
        """The agent stops gracefully, and starts again, with other commands perhaps."""
        self.stall(stalls=False)
        self.within(self.life.stop())
        self.broker.mark()
        self.look()
        if self.has_failed:
            self.doubt()
        self.upgrade(gone, reboots=reboots)

    @rule(turns=st.integers(0, 4), gone=st.sampled_from([None, None, None, "see"]), reboots=st.booleans())
    def kill(self, turns: int, gone: str | None, *, reboots: bool) -> None:
        """Whatever is not on the disk is gone."""
        for _ in range(turns):
            self.within(asyncio.sleep(0))
        if self.has_failed:
            self.doubt()
        self.look()
        before, self.folders = self.root / str(self.folders), self.folders + 1
        shutil.copytree(before, self.root / str(self.folders))
        self.within(self.abandon())
        self.upgrade(gone, reboots=reboots)

    def doubt(self) -> None:
        """While the disk failed, what may run twice was answered from memory, and duplicates were not remembered."""
        book = self.life.dispatcher.runs.book
        for one in self.sent:
            entry = None if one.name is None else book.journal.find(one.name)
            if one.command == "see" and (entry is None or not entry.stored):
                one.doubtful = True
            one.settled = min(one.settled, len(one.finals))

    async def abandon(self) -> None:
        """Let go of an agent that was killed; what it says and does from now on nobody hears."""
        self.life.dead, self.alive, self.closing = True, 0, True
        up, said = self.broker.up, len(self.broker.log)
        self.broker.crash()
        for task in self.life.tasks:
            task.cancel()
        await self.go_on()
        await asyncio.wait(self.life.tasks)
        del self.broker.log[said:]
        self.broker.up = up

    def upgrade(self, gone: str | None, *, reboots: bool) -> None:
        """Start with other commands, and perhaps after a reboot."""
        self.kinds = {name: cut_off for name, cut_off in KINDS.items() if name != gone}
        if reboots:
            self.boot = f"boot-{next(self.lives)}"
            self.off += 20
            self.clock.utc_offset = UtcNs(self.clock.utc_offset + 20 * S)
            self.clock.raw_base = int(self.loop.time() * S) - S
        self.begin()

    @override
    def teardown(self) -> None:
        """In the end all have ended, and all were told."""
        try:
            if not self.faults:
                self.come_to_rest()
        finally:
            self.closing = True
            self.within(self.go_on())
            self.within(self.life.stop())
            self.loop.close()
            shutil.rmtree(self.root)

    def come_to_rest(self) -> None:
        """Give the device a good time."""
        self.stall(stalls=False)
        self.life.keeping.fails = False
        self.clock.state = "synced"
        self.release.set()
        self.broker.up = True
        self.life.dispatcher.time_changed()
        self.run(400)
        self.within(online(self.life, 1000))
        self.life.dispatcher.time_changed()
        self.run(2000 + self.set_back)
        runs = self.life.dispatcher.runs
        assert runs.open == {}, "nothing stays open"
        assert runs.book.journal.open == {}
        assert runs.book.owed == {}
        assert not any(runs.lines.waiting.values())
        assert not any(runs.lines._running.values())
        assert not any(session.unacknowledged for session in self.broker.sessions.values())
        for name, (one, *_) in self.by_name.items():
            if one.doubtful:
                continue
            assert len(one.finals) <= one.taken, f"{name} was answered {len(one.finals)} times, and sent {one.taken}"
            answered = len(one.finals) + one.rejected
            assert answered >= one.settled, f"{name} was answered {answered} times of {one.settled}"


def live_through(examples: int, steps: int, caplog: pytest.LogCaptureFixture) -> None:
    """Live through so many histories of so many steps."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    limits = settings(max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=slow)
    with caplog.at_level(logging.CRITICAL):
        run_state_machine_as_test(Histories, settings=limits)


def test_whatever_happens_each_command_ends_once(caplog: pytest.LogCaptureFixture) -> None:
    """Crashes, stops, faults of the disk, steps, suspends, connections that end; 100 random histories."""
    live_through(100, 12, caplog)


@pytest.mark.slow
def test_in_five_thousand_histories_each_command_ends_once(caplog: pytest.LogCaptureFixture) -> None:
    """The same for long."""
    live_through(5000, 25, caplog)
