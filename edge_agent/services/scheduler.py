"""Fires jobs when true time says so, and keeps the books: what was missed, and what is owed.

A job's slots are instants of true time. While that is not known, jobs with an interval run by what the clock says all
the same; what has a date, and the books, wait for a while: an instant that was only believed in may come once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import tzinfo
from functools import partial
from typing import Final, NamedTuple

import orjson

from edge_agent.core.breaker import Breaker
from edge_agent.core.config_jobs import Job
from edge_agent.core.events import JobsData
from edge_agent.core.job_memory import JobMemory, is_remembered
from edge_agent.core.records import Priority
from edge_agent.core.runs import FAILURES, Cause, Outcome, Run
from edge_agent.core.slots import Misfire, decide
from edge_agent.core.submission import Submission
from edge_agent.core.timebase import DurationNs, RawNs, UtcNs, later, rfc3339, seconds
from edge_agent.core.triggers import At, Trigger, own_part, trigger
from edge_agent.errors import JobError, OutboxError
from edge_agent.job_ports import Notebook
from edge_agent.ports import Clock
from edge_agent.services.job_book import JobBook, Origin, ReadJob
from edge_agent.services.runner import Runner
from edge_agent.services.timers import Timers

log = logging.getLogger(__name__)

ON_TIME: Final = seconds(60)
"""A slot that is late by less was not missed; a job more frequent than that runs only its newest."""

CATCH_UP_WITHIN: Final = seconds(30)
"""What was missed is caught up with at a device's own instant within such a time: a whole fleet may be back at once."""

MAX_CAUGHT_UP: Final = 100
FAR: Final = seconds(86_400)
"""Slots that were decided so far ahead of the present were decided by a clock that was wrong."""


class Place(NamedTuple):
    """What the slots of a job depend on beside itself: the device's id, its default time zone, its own time zone."""

    device: str
    timezone: str
    local: tzinfo


@dataclass(slots=True, eq=False)
class Entry:
    """A job that is scheduled.

    Attributes:
        name: the job's.
        job: its configuration.
        origin: who says so.
        memory: what is remembered of it.
        trigger: its slots.
        misfire: what becomes of those that are missed.
        is_booked: whether they are written down.
        fire: decides about slots that have come.
        last: the newest slot that is decided, in the time that the clock shows now.
        seen: when it was put, by the counter.
        missed: how many slots were passed over since the start.
        is_failing: whether its last run failed.
    """

    name: str
    job: Job
    origin: Origin
    memory: JobMemory
    trigger: Trigger
    misfire: Misfire
    is_booked: bool
    last: UtcNs
    seen: RawNs
    missed: int = 0
    is_failing: bool = False
    fire: Callable[[], None] = field(init=False)

    @property
    def is_once(self) -> bool:
        """Whether it has but one slot."""
        return isinstance(self.trigger, At)


class Scheduler:
    """Hands runs to the runner when they are due.

    Attributes:
        book: which jobs there are.
        entries: those that are scheduled, by name.
    """

    def __init__(
        self, timers: Timers, runner: Runner, outbox: Notebook, *, clock: Clock, new_trace: Callable[[], str]
    ) -> None:
        """Prepare.

        Args:
            timers: in true time; nobody else runs them.
            runner: runs; its ``ended`` is this one's.
            outbox: takes events, and notes down what must not be forgotten.
            clock: of the device.
            new_trace: draws 32 hexadecimal digits.
        """
        self._timers = timers
        self._runner = runner
        self._outbox = outbox
        self._clock = clock
        self._new_trace = new_trace
        self._place: Place | None = None
        self._group: asyncio.TaskGroup | None = None
        self._is_known = self._has_waited = False
        self.book = JobBook(outbox)
        self.entries: dict[str, Entry] = {}

    async def run(self, *, first_sync_wait: DurationNs) -> None:
        """Fire until cancelled, then give what runs its grace.

        Args:
            first_sync_wait: how long jobs with a date wait until time is known; then what the clock says is believed.
        """
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._timers.run(), name="timers")
                self.time_changed()
                await self._clock.sleep_until(later(self._clock.monotonic(), first_sync_wait))
                self._has_waited = True
                if not self._is_known:
                    for entry in self.entries.values():
                        self._resume(entry)
                    self._plan_all()
        finally:
            self._group = None
            await self._runner.stop()

    # -- which jobs there are

    def configure(self, jobs: Mapping[str, Job], place: Place, read: ReadJob) -> None:
        """Schedule what files say, and what was put at run time; what did not change keeps its phase and its runs.

        Args:
            jobs: what the files say.
            place: what slots depend on.
            read: makes a job of what was put at run time.
        """
        anew = place != self._place
        self._place = place
        self.book.configure(jobs, read)
        for name in {*self.book.names(), *self.entries}:
            self.settle(name, anew=anew)

    def settle(self, name: str, *, anew: bool = False) -> None:
        """Schedule a job as the book has it now; with ``anew`` also if it is the same as before."""
        found, old = self.book.job(name), self.entries.get(name)
        if found is None:
            if old is not None:
                del self.entries[name]
                self._timers.cancel(name)
                self._runner.cancel(name, "the job was deleted")
            return
        job, origin = found
        if old is not None and old.job == job and not anew:
            old.origin = origin
            self._plan(old)
            return
        if old is not None:
            old.memory.last = None  # of another schedule
            if old.job.after != job.after:
                old.memory.put_at = None
        entry = self.entries[name] = self._entry(name, job, origin)
        entry.fire = partial(self._due, entry)
        if job.breaker is not None and entry.memory.breaker is not None:
            self._runner.breakers[name] = Breaker.read(entry.memory.breaker)
        if self._has_time:
            self._resume(entry)
        self._plan(entry)

    def _entry(self, name: str, job: Job, origin: Origin) -> Entry:
        assert self._place is not None, "it was configured"
        memory, now = self.book.memory(name), self._now()
        is_new = job.after is not None and memory.put_at is None
        if is_new:
            memory.put_at = now
        slots = trigger(job, **self._place._asdict(), name=name, put_at=memory.put_at or now)
        first = slots.after(now)
        second = None if first is None else slots.after(first)
        booked = is_remembered(job, None if first is None or second is None else DurationNs(second - first))
        on_time = ON_TIME if job.every is None else min(ON_TIME, DurationNs(job.every - 1))
        misfire = Misfire(job.misfire, job.misfire_window, on_time, MAX_CAUGHT_UP)
        return Entry(name, job, origin, memory, slots, misfire, booked, UtcNs(now - is_new), self._clock.raw())

    # -- time

    @property
    def _has_time(self) -> bool:
        return self._is_known or self._has_waited

    def time_changed(self, *, stepped: bool = False) -> None:
        """Look at the clock again: it has learned something, or was stepped, or the device has resumed."""
        if not self._is_known and self._clock.now().state != "unsynced":
            self._is_known = True
            for entry in self.entries.values():
                self._begin_in_known_time(entry)
            self._plan_all()
        elif stepped:
            for entry in self.entries.values():
                # no slot twice, unless the clock that said so was absurd; what has no books goes on at once
                if entry.last > self._now() + (FAR if entry.is_booked else 0):
                    entry.last = self._now()
            self._plan_all()
        self._timers.rearm()

    def _begin_in_known_time(self, entry: Entry) -> None:
        """Let nothing count as missed between the time that was believed in and the one that is known."""
        now, memory = self._now(), entry.memory
        if entry.job.after is not None and memory.last is None:
            memory.put_at = UtcNs(now - (self._clock.raw() - entry.seen))
            entry.trigger = self._entry(entry.name, entry.job, entry.origin).trigger
            entry.last = UtcNs(memory.put_at - 1)
        elif not entry.is_once:
            entry.last = now
            if self._has_waited:  # the books were kept in a time that was only believed in
                memory.last = None
        self._resume(entry)

    def _resume(self, entry: Entry) -> None:
        """Go on where the books end, and take up what a crash or a stop has left owed."""
        memory, now = entry.memory, self._now()
        if not entry.is_booked:
            return
        if memory.last is None:
            memory.last = entry.last
        elif memory.last < now + FAR:
            entry.last = memory.last
        if memory.begun is not None and self._runner.state(entry.name) == "idle":
            if entry.job.guarantee == "at_most_once":
                run = Run(entry.name, memory.begun, self._new_trace())
                self._runner.give_up(run, entry.job, "interrupted", "the agent ended during the run")
            memory.begun = None
        for slot in [slot for slot in memory.owed if now - slot > entry.job.misfire_window]:
            memory.end(slot)
            self._pass_over(entry, 1)
        self.book.save(entry.name)
        if memory.owed:
            self._catch_up_later(entry)

    def _plan_all(self) -> None:
        for entry in self.entries.values():
            self._plan(entry)

    def _plan(self, entry: Entry) -> None:
        job = entry.job
        may_run = self._has_time or job.every is not None or job.after is not None
        due = entry.trigger.after(entry.last) if job.enabled and not entry.memory.paused and may_run else None
        if due is None:
            self._timers.cancel(entry.name)
        else:
            self._timers.put(entry.name, due, entry.fire)

    def _due(self, entry: Entry) -> None:
        """Decide about the slots that have come."""
        now, misfire = self._timers.time, entry.misfire
        is_booked = entry.is_booked and (self._has_time or entry.is_once)
        if not is_booked and misfire.rule != "skip":  # what is owed must be written down
            misfire = misfire._replace(rule="skip")
        decision = decide(entry.trigger, misfire, last=entry.last, now=now)
        entry.last = decision.last
        if is_booked:
            entry.memory.decide(decision.last, decision.run)
            self.book.save(entry.name)
        if decision.next is not None:
            self._timers.put(entry.name, decision.next, entry.fire)
        if decision.missed:
            self._pass_over(entry, decision.missed)
        for slot in decision.run:
            if now - slot <= misfire.tolerance:
                self._begin(entry, slot, "schedule")
            else:
                self._catch_up_later(entry)

    def _catch_up_later(self, entry: Entry) -> None:
        assert self._place is not None, "it was configured"
        wait = own_part(self._place.device, f"{entry.name}@", CATCH_UP_WITHIN)
        self._timers.put(f"{entry.name}@", UtcNs(self._now() + wait), partial(self._catch_up, entry))

    def _catch_up(self, entry: Entry) -> None:
        """Begin the oldest run that is owed; those after it follow when it has ended."""
        if self.entries.get(entry.name) is not entry:  # deleted or replaced meanwhile
            return
        if entry.memory.owed and entry.memory.begun is None and self._runner.state(entry.name) == "idle":
            self._begin(entry, entry.memory.owed[0], "catch_up")

    def _begin(self, entry: Entry, slot: UtcNs, cause: Cause) -> None:
        run = Run(entry.name, slot, self._new_trace(), cause)
        if slot in entry.memory.owed:
            entry.memory.begin(slot, at_least_once=entry.job.guarantee == "at_least_once")
            self.book.save(entry.name)
            assert self._group is not None, "timers fire while it runs"
            self._group.create_task(self._submit_once_written(run, entry.job), name=f"begin-{entry.name}")
        else:
            self._submit(run, entry.job)

    async def _submit_once_written(self, run: Run, job: Job) -> None:
        await self.book.written()
        self._submit(run, job)

    def _submit(self, run: Run, job: Job) -> None:
        fallback = None if job.fallback is None else self.entries.get(job.fallback)
        self._runner.submit(run, job, None if fallback is None else fallback.job)

    # -- what became of it

    def ended(self, run: Run, outcome: Outcome) -> None:
        """Take note that a run has ended; every one does."""
        entry = self.entries.get(run.job)
        if entry is None:
            return
        memory = entry.memory
        is_noted = run.slot == memory.begun or run.slot in memory.owed
        if outcome.status == "interrupted" and entry.job.guarantee == "at_least_once":
            memory.begun = None  # it is still owed
        elif is_noted:
            memory.end(run.slot)
        if is_noted or entry.job.breaker is not None:
            self._keep_breaker(entry)
            self.book.save(entry.name)
        if memory.owed and self._group is not None and self._timers.due(f"{entry.name}@") is None:
            self._timers.put(f"{entry.name}@", self._now(), partial(self._catch_up, entry))
        failing = outcome.status in FAILURES or (entry.is_failing and outcome.status != "succeeded")
        if failing != entry.is_failing:
            entry.is_failing = failing
            about = {"status": outcome.status, "reason": outcome.reason, "trace": run.trace}
            self._say(entry, "failing" if failing else "recovered", about)

    def _keep_breaker(self, entry: Entry) -> None:
        breaker = self._runner.breakers.get(entry.name)
        if entry.job.breaker is None or breaker is None:
            return
        was_open = bool((entry.memory.breaker or {}).get("opened"))
        document = breaker.document()
        entry.memory.breaker = document if any(document.values()) else None
        if was_open != (breaker.opened is not None):
            self._say(entry, "breaker_closed" if was_open else "breaker_opened", {"failures": breaker.failures})

    def _pass_over(self, entry: Entry, count: int) -> None:
        entry.missed += count
        log.warning("job_missed", extra={"task_name": entry.name, "count": count, "misfire": entry.job.misfire})
        self._say(entry, "missed", {"count": count, "until": rfc3339(entry.last), "misfire": entry.job.misfire})

    def _say(self, entry: Entry, what: str, data: Mapping[str, object]) -> None:
        body = orjson.dumps({"what": what, "job": entry.name, **data})
        with contextlib.suppress(OutboxError):
            self._outbox.put(Submission("event/job", body, Priority.NORMAL))

    def measure(self) -> JobsData:
        """Return the jobs' part of the heartbeat."""
        counts = self._runner.history.counts
        return JobsData(
            ok=counts.get("succeeded", 0),
            failed=sum(counts.get(status, 0) for status in ("failed", "timed_out", "interrupted")),
            missed=sum(entry.missed for entry in self.entries.values()),
            skipped=counts.get("skipped", 0) + counts.get("cancelled", 0),
        )

    # -- what may be asked

    def start(self, name: str) -> str:
        """Run a job now, beside its schedule; return the run's trace id.

        Raises:
            JobError: there is no such job.
        """
        run = Run(name, self._now(), self._new_trace(), "manual")
        self._submit(run, self.find(name).job)
        return run.trace

    def pause(self, name: str, *, paused: bool) -> None:
        """Let a job pause, or go on; what comes in the pause is not missed.

        Raises:
            JobError: there is no such job.
        """
        entry = self.find(name)
        entry.memory.paused = paused
        entry.last = max(entry.last, self._now())
        self.book.save(name)
        self._plan(entry)

    def find(self, name: str) -> Entry:
        """Return a job.

        Raises:
            JobError: there is none of that name.
        """
        entry = self.entries.get(name)
        if entry is None:
            raise JobError(f"there is no job {name[:80]!r}; known: {', '.join(sorted(self.entries)[:20]) or 'none'}")
        return entry

    def next_due(self, name: str) -> UtcNs | None:
        """Return when a job is due next; ``None`` = it is not."""
        return self._timers.due(name)

    def _now(self) -> UtcNs:
        return self._clock.now().time
