"""Keeping time with servers, steps and sleeps that are made up, in virtual time, with a real outbox."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from edge_agent.clock_ports import HostClock
from edge_agent.commands.clock import commands as clock_commands
from edge_agent.core.config_models import Time
from edge_agent.core.discipline import Discipline
from edge_agent.core.ntp import Rejection
from edge_agent.core.records import TIME_STATES
from edge_agent.core.sample import Sample
from edge_agent.core.saved_clock import SavedClock
from edge_agent.core.timebase import DurationNs, RawNs, UtcNs, seconds
from edge_agent.services.device_clock import DeviceClock
from edge_agent.services.timekeeping import Timekeeping, policy
from tests.fakes import EPOCH, FakeBroker, FakeClock
from tests.support.commands import asked
from tests.support.flow import Flow, online

pytestmark = pytest.mark.virtual


class Machine(FakeClock):
    """A machine whose counter and wall clock can be upset.

    Attributes:
        asleep_ns: how long it has slept.
        wall_off_ns: wall clock minus true time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asleep_ns = 0
        self.wall_off_ns = 0

    @override
    def raw(self) -> RawNs:
        """Return the loop's time and the sleeps."""
        return RawNs(self.monotonic() + self.asleep_ns)

    @override
    def wall(self) -> Any:
        """Return what the operating system believes."""
        return self.true() + self.wall_off_ns

    def true(self) -> UtcNs:
        """Return true time."""
        return UtcNs(EPOCH + self.raw())

    @override
    def slept(self) -> DurationNs:
        """Return how long it has slept."""
        return DurationNs(self.asleep_ns)


class Servers:
    """Servers that are right, or say what a test wants.

    Attributes:
        asked: (when, whom).
        answers: what a server says instead of the time.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.asked: list[tuple[float, str]] = []
        self.answers: dict[str, Rejection] = {}

    async def ask(self, server: str, *, within: DurationNs) -> Sample | Rejection:
        """Answer after 20 ms."""
        self.asked.append((asyncio.get_running_loop().time(), server))
        assert within > 0
        await asyncio.sleep(0.02)
        if server in self.answers:
            return self.answers[server]
        return Sample(server, RawNs(self.machine.raw() - 10**7), UtcNs(self.machine.true() - 10**7), 20_000_000, 1000)

    def address(self, server: str) -> str | None:
        """Return an address of nobody's own network."""
        return "192.0.2.1" if server else None

    def count(self, since: float = 0.0) -> int:
        """Return how many requests there were since a time."""
        return sum(at >= since for at, _ in self.asked)


class Rig:
    """Timekeeping on a made-up machine, with a real outbox behind it."""

    def __init__(
        self,
        folder: Path,
        *names: str,
        wall_off_s: float = 0.0,
        saved: SavedClock | None = None,
        **config: Any,  # noqa: ANN401  # as the model takes it
    ) -> None:
        self.machine = Machine()
        self.machine.wall_off_ns = seconds(wall_off_s)
        self.servers = Servers(self.machine)
        self.names = names
        self.config = Time(**config)
        self.discipline = Discipline(policy(self.config, names), saved=saved, boot="b")
        self.flow = Flow(folder, FakeBroker())
        self.flow.outbox._clock = DeviceClock(self.machine, self.discipline)
        self.saved: list[SavedClock] = []
        self.stepped, self.changed = asyncio.Event(), asyncio.Event()
        self.vote: Sample | None = None
        host = HostClock(lambda: self.vote, self._wait(self.stepped), self._wait(self.changed), self._save)
        self.time = Timekeeping(
            self.discipline,
            self.servers,
            host,
            clocks=self.machine,
            outbox=self.flow.outbox,
            uniform=lambda: 0.5,
        )

    @staticmethod
    def _wait(event: asyncio.Event) -> Any:  # noqa: ANN401  # a coroutine function
        async def wait() -> None:
            await event.wait()
            event.clear()

        return wait

    async def _save(self, saved: SavedClock) -> None:
        self.saved.append(saved)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run it while the block does, online."""
        async with self.flow.running():
            await online(self.flow)
            task = asyncio.get_running_loop().create_task(self.time.run(self.config, lambda: self.names))
            try:
                yield
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    def said(self, what: str) -> list[dict[str, Any]]:
        """Return the clock events of a kind that the broker has."""
        return [e["data"] for e in self.flow.events("event/clock") if e["data"]["what"] == what]


async def test_time_is_known_within_twenty_seconds_and_asked_for_ever_more_rarely(tmp_path: Path) -> None:
    """And said once; the heartbeat's part says how well."""
    rig = Rig(tmp_path, "a", "b", "c")
    rig.machine.wall_off_ns = -seconds(0.02)
    async with rig.running():
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(20)
        assert rig.time.measure().state == "synced"
        await asyncio.sleep(6 * 3600)
        data = rig.time.measure()
        assert data.offset_ms == pytest.approx(-20, abs=1)
        assert data.source in ("a", "b", "c")
        assert len(rig.said("sync_gained")) == 1
        assert rig.servers.count(began + 5 * 3600) <= 3 * 5
        assert rig.said("offset_alarm") == []


async def test_an_operating_system_s_clock_that_is_off_is_an_alarm_until_it_is_not(tmp_path: Path) -> None:
    """Once each."""
    rig = Rig(tmp_path, "a", wall_off_s=120, alarm_offset="50ms")
    async with rig.running():
        await asyncio.sleep(300)
        (alarm,) = rig.said("offset_alarm")
        assert alarm["offset_ms"] == pytest.approx(120_000, abs=1)
        rig.machine.wall_off_ns = 0
        rig.stepped.set()
        await asyncio.sleep(300)
        assert len(rig.said("offset_cleared")) == 1
        (step,) = rig.said("wall_stepped")
        assert step["by_ms"] == pytest.approx(-120_000, abs=1)
        assert rig.time.measure().steps == 1


async def test_a_step_right_after_another_one_is_told_too(tmp_path: Path) -> None:
    """Within the second for which nobody listens, so that a clock that is set all the time costs little."""
    rig = Rig(tmp_path, "a")
    async with rig.running():
        await asyncio.sleep(100)
        for off_s in (3600, 0):
            rig.machine.wall_off_ns = seconds(off_s)
            rig.stepped.set()
            await asyncio.sleep(0.3)
            rig.stepped.clear()
        await asyncio.sleep(2)
        assert [round(step["by_ms"]) for step in rig.said("wall_stepped")] == [3_600_000, -3_600_000]
        assert rig.time.steps == 2


async def test_a_step_that_nobody_reports_is_found_at_the_next_look(tmp_path: Path) -> None:
    """Within a minute or so."""
    rig = Rig(tmp_path, "a")
    async with rig.running():
        await asyncio.sleep(100)
        rig.machine.wall_off_ns = seconds(3600)
        await asyncio.sleep(70)
        assert rig.time.steps == 1
        assert abs(rig.flow.outbox._clock.now().time - rig.machine.true()) < 10**6


async def test_a_sleep_is_noticed_told_and_followed_by_a_burst(tmp_path: Path) -> None:
    """The clock goes on right, with a bound that says that the sleep was measured badly."""
    rig = Rig(tmp_path, "a", "b")
    async with rig.running():
        await asyncio.sleep(3600)
        now = asyncio.get_running_loop().time()
        rig.machine.asleep_ns += seconds(7200)
        rig.stepped.set()
        await asyncio.sleep(30)
        assert rig.said("resumed") == [{"what": "resumed", "slept_s": 7200.0}]
        assert rig.servers.count(now) >= 16
        assert rig.time.measure().state == "synced"
        assert rig.said("wall_stepped") == []


async def test_a_sleep_while_the_agent_was_stopped_is_noticed_when_it_is_started(tmp_path: Path) -> None:
    """Time is known as badly as after any sleep, though it is the same boot."""
    rig = Rig(tmp_path, "a")
    async with rig.running():
        await asyncio.sleep(3600)
        known = rig.time.measure().error_ms
    (tmp_path / "again").mkdir()
    again = Rig(tmp_path / "again", "a", saved=rig.saved[-1])
    again.machine.asleep_ns = seconds(7200)
    again.servers.answers["a"] = Rejection.UNREACHABLE
    async with again.running():
        await asyncio.sleep(10)
        assert again.said("resumed") == [{"what": "resumed", "slept_s": 7200.0}]
        assert known is not None
        assert again.time.measure().error_ms == pytest.approx(known + 4000, rel=0.8)


async def test_a_network_that_comes_is_used_at_once_and_one_that_flaps_is_no_reason_to_be_rude(tmp_path: Path) -> None:
    """Synced within 20 s; twenty changes in a minute are few requests."""
    rig = Rig(tmp_path, "a")
    rig.servers.answers["a"] = Rejection.UNREACHABLE
    async with rig.running():
        await asyncio.sleep(5000)
        assert rig.time.measure().state == "unsynced"
        rig.servers.answers.clear()
        rig.changed.set()
        await asyncio.sleep(20)
        assert rig.time.measure().state == "synced"
        await asyncio.sleep(2000)
        now = asyncio.get_running_loop().time()
        for _ in range(20):
            rig.changed.set()
            await asyncio.sleep(3)
        assert rig.servers.count(now) <= 20


async def test_a_kiss_of_death_is_told_and_obeyed(tmp_path: Path) -> None:
    """For a day, whatever happens."""
    rig = Rig(tmp_path, "a")
    rig.servers.answers["a"] = Rejection.KISS_DENY
    async with rig.running():
        await asyncio.sleep(3600)
        rig.changed.set()
        await asyncio.sleep(3600)
        assert rig.said("kiss_o_death") == [{"what": "kiss_o_death", "source": "a", "code": "DENY"}]
        assert len(rig.servers.asked) == 1
        assert rig.time.report()["sources"][0]["standing"] == "kiss_deny"


async def test_what_is_known_is_saved_rarely_and_at_the_stop(tmp_path: Path) -> None:
    """Once it is known, then every quarter of an hour."""
    rig = Rig(tmp_path, "a")
    async with rig.running():
        await asyncio.sleep(3600)
        assert 4 <= len(rig.saved) <= 5
        before = len(rig.saved)
    assert len(rig.saved) == before + 1
    assert abs(rig.saved[-1].utc - EPOCH - rig.saved[-1].raw) < 10**6


async def test_records_from_before_the_first_sync_get_their_time_when_they_are_sent(tmp_path: Path) -> None:
    """Placed by what has elapsed since; what was known at once needs no correction."""
    rig = Rig(tmp_path, "a")
    rig.flow.broker.up = False
    rig.machine.wall_off_ns = -EPOCH  # 1970
    rig.servers.answers["a"] = Rejection.UNREACHABLE
    async with rig.flow.running():
        task = asyncio.get_running_loop().create_task(rig.time.run(rig.config, lambda: rig.names))
        happened = []
        for n in range(3):
            await asyncio.sleep(100)
            happened.append(rig.machine.true())
            record = rig.flow.put(n)
            assert TIME_STATES[record.time_state] == "unsynced"
        rig.servers.answers.clear()
        rig.changed.set()
        await asyncio.sleep(30)
        rig.flow.put(3)
        rig.flow.broker.up = True
        await online(rig.flow)
        await asyncio.sleep(30)
        events = rig.flow.events("data/")
        assert [event["timestate"] for event in events] == ["estimated"] * 3 + ["synced"]
        for event, truth in zip(events, happened, strict=False):
            assert abs(_ns(event["time"]) - truth) <= event["timeerrorms"] * 10**6
            assert event["timeerrorms"] < 1000
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_boot_that_ended_idle_with_a_power_cut_dates_no_record_of_the_next_one(tmp_path: Path) -> None:
    """It left no record by which to tell how long it was, but it knew the time: that is nothing the next one knows."""
    rig = Rig(tmp_path / "before", "a")
    async with rig.running():
        await asyncio.sleep(3600)
        assert rig.flow.outbox.state.records == 0
        shutil.copytree(tmp_path / "before", tmp_path / "after")
    after = Flow(tmp_path / "after")
    await after.outbox.open()
    record = after.put(1)
    after.outbox.past.correct(record)
    await after.keeping.abandon()
    assert TIME_STATES[record.time_state] == "unsynced"


def _ns(text: str) -> int:
    from datetime import datetime  # noqa: PLC0415  # here alone

    return round(datetime.fromisoformat(text).timestamp() * 1e6) * 1000


async def test_without_servers_the_kernel_s_word_is_passed_on(tmp_path: Path) -> None:
    """The state says so; records are synced only if somebody keeps the host's clock right."""
    rig = Rig(tmp_path)
    async with rig.running():
        await asyncio.sleep(100)
        assert rig.time.measure().state == "os"
        assert rig.flow.outbox._clock.now().state == "unsynced"
        rig.vote = Sample("host", rig.machine.raw(), rig.machine.true(), 0, 2_000_000)
        await asyncio.sleep(100)
        assert rig.flow.outbox._clock.now().state == "synced"
        assert rig.time.measure().error_ms == 2


async def test_without_servers_the_past_is_placed_once_the_kernel_vouches_for_its_clock(tmp_path: Path) -> None:
    """As when the host's own daemon has set it; no offset is told, for there is nothing to compare it with."""
    rig = Rig(tmp_path)
    rig.flow.broker.up = False
    rig.machine.wall_off_ns = -EPOCH  # 1970
    async with rig.flow.running():
        task = asyncio.get_running_loop().create_task(rig.time.run(rig.config, lambda: rig.names))
        await asyncio.sleep(100)
        happened = rig.machine.true()
        rig.flow.put(0)
        await asyncio.sleep(100)
        rig.machine.wall_off_ns = 0
        rig.vote = Sample("host", rig.machine.raw(), rig.machine.true(), 0, 2_000_000)
        rig.stepped.set()
        await asyncio.sleep(1)
        rig.flow.broker.up = True
        await online(rig.flow)
        await asyncio.sleep(30)
        (event,) = rig.flow.events("data/")
        assert event["timestate"] == "estimated"
        assert abs(_ns(event["time"]) - happened) <= event["timeerrorms"] * 10**6 < 10**9
        assert rig.time.measure().offset_ms is None
        assert rig.saved == []
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_other_servers_of_the_host_are_taken_up(tmp_path: Path) -> None:
    """As they come by DHCP after the start."""
    rig = Rig(tmp_path)
    async with rig.running():
        await asyncio.sleep(10)
        rig.names = ("a",)
        rig.changed.set()
        await asyncio.sleep(30)
        assert rig.time.measure().state == "synced"


async def test_servers_that_are_named_without_a_word_of_the_network_are_found_at_the_next_look(tmp_path: Path) -> None:
    """A lease may be written down some time after the address has changed."""
    rig = Rig(tmp_path)
    async with rig.running():
        await asyncio.sleep(10)
        rig.names = ("a",)
        await asyncio.sleep(64 + 20)
        assert rig.time.measure().state == "synced"


async def test_a_server_that_stays_keeps_what_it_has_asked_for_when_others_come(tmp_path: Path) -> None:
    """It is not asked again because of them; nor because of other limits."""
    rig = Rig(tmp_path, "a")
    rig.servers.answers["a"] = Rejection.KISS_DENY
    async with rig.running():
        await asyncio.sleep(100)
        rig.names = ("a", "b")
        rig.changed.set()
        await asyncio.sleep(100)
        assert rig.time.measure().source == "b"
    rig.config = Time.model_validate({"poll_min": "128s"})
    async with rig.running():
        await asyncio.sleep(2000)
    assert [name for _, name in rig.servers.asked].count("a") == 1
    sources = {face["name"]: face for face in rig.time.report()["sources"]}
    assert sources["b"]["poll_s"] >= 128


async def test_what_the_control_socket_offers(tmp_path: Path) -> None:
    """A report, a trace of which one can ask for the rest, and a burst for who asks."""
    rig = Rig(tmp_path, "a")
    async with rig.running():
        await asyncio.sleep(30)
        methods = rig.time.methods()
        commands = clock_commands(rig.time.report, rig.time.hurry)
        report = await asked(commands, "clock-status")
        assert (report["state"], report["sources"][0]["standing"]) == ("synced", "selected")
        trace: Any = await methods["clock-trace"]({"after": 3})
        assert [entry["n"] for entry in trace["entries"]] == list(range(4, len(rig.servers.asked) + 1))
        await asyncio.sleep(600)
        before = len(rig.servers.asked)
        await asked(commands, "clock-sync")
        await asyncio.sleep(20)
        assert len(rig.servers.asked) >= before + 8
