"""Whatever happens to a device and its clock, of each job exactly those slots run that its settings promise."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine, Mapping
from typing import Any, Final, TypeVar

import orjson
import pytest
from typing_extensions import override

from edge_agent.core.config_jobs import Job
from edge_agent.core.timebase import seconds
from tests.support.schedule_policy import MIDNIGHT, Expected, Rules, S
from tests.support.schedules import Device
from tests.support.virtual_time import VirtualTimeLoop

pytest.importorskip("hypothesis", reason="property tests need hypothesis")

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

T = TypeVar("T")

MINUTE: Final = 60 * S
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "often": {"every": "5m", "splay": "0s"},
    "kept": {"every": "10m", "splay": "0s", "misfire": "run_once", "misfire_window": "2h"},
    "sure": {
        "cron": "*/20 * * * *",
        "misfire": "run_all",
        "misfire_window": "2h",
        "guarantee": "at_least_once",
        "overlap": "queue",
    },
    "hourly": {"cron": "0 * * * *"},
    "fixed": {"at": "2027-01-15T03:00:00Z", "misfire": "run_once"},
    "later": {"after": "100m", "misfire": "run_once", "guarantee": "at_least_once"},
}
RULES: Final = {
    "often": Rules(5 * MINUTE, has_date=False, booked=False, window=DAY),
    "kept": Rules(10 * MINUTE, has_date=False, misfire="run_once", window=2 * HOUR),
    "sure": Rules(20 * MINUTE, misfire="run_all", window=2 * HOUR, repeats=True, queues=True),
    "hourly": Rules(HOUR, window=DAY),
    "fixed": Rules(None, MIDNIGHT + 3 * HOUR, misfire="run_once", window=DAY),
    "later": Rules(None, 100 * MINUTE, has_date=False, misfire="run_once", window=DAY, repeats=True),
}
EDITS: Final[dict[str, tuple[str, dict[str, Any], Rules]]] = {
    "as it was": ("kept", {}, RULES["kept"]),
    "disabled": ("kept", {"enabled": False}, RULES["kept"]),
    "other slots": (
        "kept",
        {"every": "15m", "misfire": "run_all"},
        Rules(15 * MINUTE, has_date=False, misfire="run_all", window=2 * HOUR),
    ),
    "no books": ("kept", {"misfire": "skip"}, Rules(10 * MINUTE, has_date=False, booked=False, window=2 * HOUR)),
    "another guarantee": (
        "kept",
        {"guarantee": "at_least_once", "misfire": "skip"},
        Rules(10 * MINUTE, has_date=False, window=2 * HOUR, repeats=True),
    ),
    "hourly as it was": ("hourly", {}, RULES["hourly"]),
    "another misfire": ("hourly", {"misfire": "run_once"}, Rules(HOUR, misfire="run_once", window=DAY)),
    "another priority": ("later", {"priority": "bulk"}, RULES["later"]),
}
NAMES: Final = st.sampled_from(sorted(SETTINGS))
LASTING: Final = {"kind": "test", "timeout": "7d"}
SPANS_S: Final = st.sampled_from([7, 61, 307, 1201, 3607, 9001])
FIRST_SYNC_WAIT_S: Final = 600.0007  # nothing else comes at such an instant


class Histories(RuleBasedStateMachine):
    """Random histories of a device."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.device = Device(**{name: LASTING | changes for name, changes in SETTINGS.items()})
        self.device.wait_s = FIRST_SYNC_WAIT_S
        self.jobs = {name: Expected(name, rules) for name, rules in RULES.items()}
        self.documents = dict(SETTINGS)
        self.missed_before: Counter[str] = Counter()
        self.told = 0
        self.is_up = self.is_known = self.has_waited = self.is_broken = False
        self.waits_until = 0.0
        self.slept = 0
        self.run(3.337)  # no span below is a multiple of a second after this: nothing comes at the instant of a slot
        self.start(known=True, wrong_s=0)

    # -- what is read

    @property
    def now(self) -> int:
        """The device's clock."""
        return self.device.clock.utc_offset + self.raw

    @property
    def raw(self) -> int:
        """The device's counter."""
        return seconds(self.loop.time()) + self.slept

    def within(self, coro: Coroutine[Any, Any, T]) -> T:
        """Return what a coroutine returns on the device's loop."""
        return self.loop.run_until_complete(coro)

    # -- time passes

    def run(self, for_s: float) -> None:
        """Let the clock run, and look what has happened."""
        ends = self.loop.time() + for_s
        if self.is_up and not (self.is_known or self.has_waited) and ends > self.waits_until:
            self._run(self.waits_until - 1e-6 - self.loop.time())
            self.has_waited = True
            self.resume()
        self._run(ends - self.loop.time())

    def _run(self, for_s: float) -> None:
        self.within(asyncio.sleep(for_s))
        self.look_back()

    def look_back(self) -> None:
        """Compare what was seen with what is promised."""
        self.is_broken = True
        now, raw = self.now, self.raw
        for when, name, slot, what in self.device.journal[self.told :]:
            if name in self.jobs:
                self.jobs[name].pass_until(when, raw - (now - when))
                self.jobs[name].saw(when, raw - (now - when), slot, what)
        self.told = len(self.device.journal)
        if self.is_up:
            for job in self.jobs.values():
                job.pass_until(now, raw)
                job.check(raw)
        missed = {name: job.missed + self.missed_before[name] for name, job in self.jobs.items()}
        said: Counter[str] = Counter()
        for one in [*self.device.said, *(self.device.notebook.said if self.told or self.is_up else [])]:
            if one["what"] == "missed":
                said[one["job"]] += one["count"]
        assert missed == {name: said[name] for name in missed}, f"missed are {missed}, told are {said}"
        self.is_broken = False

    def resume(self) -> None:
        """Time is known, or believed in at last."""
        for job in self.jobs.values():
            self.resume_one(job)
        self.look()

    def resume_one(self, job: Expected) -> None:
        """The books of a job count again; a run that is just beginning is known by them alone."""
        noted = orjson.loads(self.device.notebook.notes.get(f"job/{job.name}", b"{}"))
        job.begins(noted.get("begun", ()), noted.get("owed", ()))
        job.resume(self.now, self.raw, known=self.is_known)

    def look(self) -> None:
        """Something has happened."""
        for job in self.jobs.values():
            job.look(self.now, self.raw)

    def start(self, *, known: bool, wrong_s: float) -> None:
        """Start the agent."""
        self.device.clock.step(wrong_s)
        self.device.clock.state = "synced" if known else "unsynced"
        for job in self.jobs.values():
            job.start(self.now, self.raw)
        self.waits_until = self.loop.time() + FIRST_SYNC_WAIT_S
        self.within(self.device.start())
        self.is_up, self.is_known, self.has_waited = True, known, False
        self.wrong_s = wrong_s
        self.is_broken = True
        for _, name, slot, what in self.device.journal[self.told :]:
            if what == "interrupted" and name in self.jobs:
                self.jobs[name].saw(self.now, self.raw, slot, what)
                self.told += 1
        assert not any(job.cut for job in self.jobs.values()), "nobody told that a run was cut off"
        if known:
            self.resume()
        self.look()
        self.run(0.05)

    # -- what happens

    @rule(for_s=SPANS_S)
    def wait(self, for_s: float) -> None:
        """Nothing happens for a while."""
        self.run(for_s)

    @precondition(lambda self: self.is_up)
    @rule(name=NAMES, by_ms=st.sampled_from([4, 17, 300, 504, 515, 530]))
    def wait_for_a_slot(self, name: str, by_ms: int) -> None:
        """Until a job decides, writes, runs, ends, writes."""
        if name in self.jobs:
            coming = self.jobs[name].slots(self.now, self.now + 2 * HOUR)[:1]
            for slot in coming:
                self.run((slot - self.now) / S + by_ms / 1000)

    @precondition(lambda self: self.is_up)
    @rule(crash=st.booleans())
    def end(self, *, crash: bool) -> None:
        """The agent stops, or is killed."""
        raw = self.raw
        self.within(self.device.end(crash=crash))
        self.is_up = False
        if not crash:
            self.look_back()
        for job in self.jobs.values():
            job.stop(raw, crash=crash)

    @precondition(lambda self: not self.is_up)
    @rule(wrong_s=st.sampled_from([None, None, 0, 20, -20, 500, -500, 5000, -900, 3 * 86_400, -3 * 86_400]))
    def begin(self, wrong_s: float | None) -> None:
        """The agent starts, in the same boot or in another one, where time is not known and the clock perhaps wrong."""
        self.start(known=wrong_s is None, wrong_s=wrong_s or 0)

    @precondition(lambda self: self.is_up)
    @rule(for_s=SPANS_S)
    def sleep(self, for_s: float) -> None:
        """The device is suspended."""
        for job in self.jobs.values():
            job.slept(self.raw, seconds(for_s))
        self.slept += seconds(for_s)
        self.device.clock.sleep(for_s)
        self.changed(stepped=False)

    def changed(self, *, stepped: bool) -> None:
        """True time is another than one would have expected."""
        self.look()

        async def change() -> None:
            self.device.scheduler.time_changed(stepped=stepped)

        self.within(change())
        self.run(0.05)

    @precondition(lambda self: self.is_up and self.is_known)
    @rule(by_s=st.sampled_from([0.05, 5, -5, 45, -45, 700, -700, 4000, -4000]))
    def step(self, by_s: float) -> None:
        """True time is corrected."""
        self.device.clock.step(by_s)
        for job in self.jobs.values():
            job.stepped(self.now, seconds(by_s), self.raw)
        self.changed(stepped=True)

    @precondition(lambda self: self.is_up and self.is_known)
    @rule(by_s=st.sampled_from([3 * 86_400, -3 * 86_400]))
    def step_absurdly(self, by_s: float) -> None:
        """True time is corrected by days: slots may come again, if there is no run of them."""
        if not any(job.active or job.books.owed for job in self.jobs.values()):
            self.step(by_s)

    @precondition(lambda self: self.is_up and not self.is_known)
    @rule()
    def synchronise(self) -> None:
        """Time becomes known."""
        self.move(-self.wrong_s)
        self.device.clock.state = "synced"
        self.is_known = True
        self.resume()
        self.changed(stepped=False)

    @precondition(lambda self: self.is_up and not self.is_known)
    @rule(by_s=st.sampled_from([30, -30, 500, -500, 86_400]))
    def believe_something_else(self, by_s: float) -> None:
        """Somebody sets the clock, and nobody knows whether it is right now."""
        self.wrong_s += by_s
        self.move(by_s)
        self.changed(stepped=False)

    def move(self, by_s: float) -> None:
        """The clock that was believed in was wrong."""
        self.device.clock.step(by_s)
        for job in self.jobs.values():
            if by_s:
                job.move(seconds(by_s), believed=self.has_waited)
                job.write(self.raw)

    @precondition(lambda self: self.is_up and self.is_known)
    @rule()
    def lose_the_servers(self) -> None:
        """Time is known all the same."""
        self.device.clock.state = "holdover"
        self.changed(stepped=False)

    @rule(takes_s=st.sampled_from([0.5, 0.5, 400.0]), fails=st.booleans())
    def change_the_work(self, takes_s: float, *, fails: bool) -> None:
        """Runs take longer than the period, or fail."""
        self.device.takes_s, self.device.fails = takes_s, fails

    # -- what somebody does

    def settled(self) -> None:
        """Go on once it is durable."""
        self.within(self.device.notebook.written())
        self.run(0.05)

    @precondition(lambda self: self.is_up)
    @rule(name=NAMES, paused=st.booleans())
    def pause(self, name: str, *, paused: bool) -> None:
        """Let a job pause, or go on."""
        if name in self.jobs:
            job = self.jobs[name]
            job.pause(self.now, paused=paused)
            if job.goes:
                self.resume_one(job)
            job.write(self.raw)
            job.look(self.now, self.raw)

            async def change() -> None:
                self.device.scheduler.pause(name, paused=paused)

            self.within(change())
            self.settled()

    def put(self, name: str, document: Mapping[str, object]) -> None:
        """Put a job."""

        async def change() -> None:
            self.device.scheduler.book.put(name, {**LASTING, **document})
            self.device.scheduler.settle(name)

        self.within(change())
        self.settled()

    @precondition(lambda self: self.is_up)
    @rule(which=st.sampled_from(sorted(EDITS)))
    def edit(self, which: str) -> None:
        """Change a job; one that was deleted is there again."""
        name, changes, rules = EDITS[which]
        document = SETTINGS[name] | changes
        if self.documents.get(name) == document:
            self.put(name, document)
            return
        self.documents[name] = document
        enabled = Job.model_validate(LASTING | document).enabled
        now, raw = self.now, self.raw
        job = self.jobs.get(name)
        if job is None:
            job = self.jobs[name] = Expected(name, rules)
            job.start(now, raw)
            job.enabled = enabled
        else:
            job.edit(rules, now, raw, enabled=enabled)
        if self.is_known or self.has_waited:
            self.resume_one(job)
        job.write(raw)
        job.look(now, raw)
        self.put(name, document)

    @precondition(lambda self: self.is_up)
    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        """Delete a job."""
        if name in self.jobs:
            self.missed_before[name] += self.jobs.pop(name).missed
            del self.documents[name]

            async def change() -> None:
                self.device.scheduler.book.delete(name)
                self.device.scheduler.settle(name)

            self.within(change())
            self.settled()

    @override
    def teardown(self) -> None:
        """In the end all that is owed has run."""
        try:
            if not self.is_broken:
                self.is_broken = True
                self.come_to_rest()
        finally:
            if self.is_up:
                self.within(self.device.end(crash=True))
            self.loop.close()

    def come_to_rest(self) -> None:
        """Give the device a good time."""
        self.change_the_work(0.5, fails=False)
        if not self.is_up:
            self.start(known=True, wrong_s=0)
        elif not self.is_known:
            self.synchronise()
        for name, job in sorted(self.jobs.items()):
            if job.paused:
                self.pause(name, paused=False)
        self.run(977)
        now = self.now
        for job in self.jobs.values():
            if job.enabled:
                assert not [slot for slot in job.books.owed if slot < now - MINUTE], f"{job.name} is owed runs"


def live_through(examples: int, caplog: pytest.LogCaptureFixture) -> None:
    """Live through so many histories."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    limits = settings(max_examples=examples, stateful_step_count=30, deadline=None, suppress_health_check=slow)
    with caplog.at_level(logging.CRITICAL, logger="edge_agent"):  # a line per run would be kept
        run_state_machine_as_test(Histories, settings=limits)


def test_whatever_happens_exactly_the_slots_run_that_the_settings_promise(caplog: pytest.LogCaptureFixture) -> None:
    """Steps, suspends, crashes, restarts, reboots, edits, runs that take long; 150 random histories."""
    live_through(150, caplog)


@pytest.mark.slow
def test_in_ten_thousand_histories_exactly_the_slots_run_that_the_settings_promise(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The same for long."""
    live_through(10_000, caplog)
