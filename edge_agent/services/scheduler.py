"""Fires jobs when true time says so, and keeps the books: what was missed, and what is owed.

A job's slots are instants of true time. While that is not known, jobs with an interval run by what the clock says all
the same; what has a date, and the books, wait for a while. When the clock turns out to have been wrong, nothing was
missed by that, and an instant that was only believed in may come once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Container, Mapping
from functools import partial
from typing import Final

import orjson

from edge_agent.core.breaker import Breaker
from edge_agent.core.config_jobs import Job
from edge_agent.core.job_entry import Entry, Origin, Place
from edge_agent.core.job_memory import MAX_OWED, is_remembered
from edge_agent.core.records import Priority
from edge_agent.core.runs import FAILURES, Cause, Outcome, Run
from edge_agent.core.slots import Misfire, decide
from edge_agent.core.submission import Submission
from edge_agent.core.timebase import DurationNs, UtcNs, later, rfc3339, seconds
from edge_agent.core.triggers import own_part, trigger
from edge_agent.errors import JobError, OutboxError
from edge_agent.job_ports import Notebook
from edge_agent.ports import Clock
from edge_agent.services.job_book import JobBook, ReadJob
from edge_agent.services.runner import Runner
from edge_agent.services.timers import Timers

log = logging.getLogger(__name__)

ON_TIME: Final = seconds(60)
"""A slot that is late by less was not missed; a job more frequent than that runs only its newest."""

CATCH_UP_WITHIN: Final = seconds(30)
"""What was missed is caught up with at a device's own instant within such a time: a whole fleet may be back at once."""

FAR: Final = seconds(86_400)
"""Slots that were decided so far ahead of the present were decided by a clock that was wrong."""

JUMP: Final = seconds(0.1)
"""A clock that nobody vouches for is followed, but by so much at once it has jumped."""


class Scheduler:
    """Hands runs to the runner when they are due.

    Attributes:
        book: which jobs there are.
        entries: those that are scheduled, by name.
        missed: how many slots were passed over since the start, those of jobs that are gone included.
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
        self._ahead: int | None = None  # of the counter, when that was looked at last
        self.book = JobBook(outbox)
        self.entries: dict[str, Entry] = {}
        self.missed = 0

    async def run(self, *, first_sync_wait: DurationNs) -> None:
        """Fire until cancelled, then give what runs its grace; believe the clock after ``first_sync_wait`` at last."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._timers.run(), name="timers")
                self.time_changed()
                await self._clock.sleep_until(later(self._clock.monotonic(), first_sync_wait))
                if not self._is_known:
                    self._has_waited = True
                    self._each(self._resume)
        finally:
            self._group = None
            await self._runner.stop()

    # -- which jobs there are

    def configure(self, jobs: Mapping[str, Job], place: Place, read: ReadJob, clouds: Container[str] = ()) -> None:
        """Schedule what files and the cloud say, and what was put; what did not change keeps its phase and its runs."""
        self._place = place
        self.book.configure(jobs, read, clouds)
        for name in {*self.book.names(), *self.entries}:
            self.settle(name)

    def settle(self, name: str) -> None:
        """Schedule a job as the book has it now; one that is the same as before goes on."""
        found, old = self.book.job(name), self.entries.get(name)
        if found is None:
            self._remove(name)
            return
        self._notice_jump()
        if old is not None and old.job.after != found[0].after:
            old.memory.put_at = None
        entry = self._entry(name, *found)
        if old is not None and (old.job, old.trigger) == (entry.job, entry.trigger):
            old.origin = entry.origin
            self._plan(old)
            return
        self.entries[name] = entry
        if old is None:
            self._recall(entry)
        else:
            entry.follow(old)
        self.book.save(name)
        if self._has_time:
            self._resume(entry)
        self._plan(entry)

    def _remove(self, name: str) -> None:
        if self.entries.pop(name, None) is not None:
            self._timers.cancel(name)
            self._runner.cancel(name, "the job was deleted")
            self._runner.forget(name)
        self.book.forget(name)

    def _entry(self, name: str, job: Job, origin: Origin) -> Entry:
        assert self._place is not None, "it was configured"
        memory, now = self.book.memory(name), self._now()
        if job.after is not None and memory.put_at is None:
            memory.put_at = now
        slots = trigger(job, **self._place._asdict(), name=name, put_at=memory.put_at or now)
        first = slots.after(now)
        second = None if first is None else slots.after(first)
        period = None if first is None or second is None else DurationNs(second - first)
        on_time = ON_TIME if period is None else DurationNs(min(ON_TIME, period - 1))
        entry = Entry(
            name,
            job,
            origin,
            memory,
            slots,
            misfire=Misfire(job.misfire, job.misfire_window, on_time, MAX_OWED),
            is_booked=is_remembered(job, period),
            last=now if job.after is None or memory.put_at is None else UtcNs(memory.put_at - 1),
            seen=self._clock.raw(),
        )
        entry.fire = partial(self._due, entry)
        return entry

    def _recall(self, entry: Entry) -> None:
        """Take up what the agent has left behind: an open breaker, runs that a crash has cut off."""
        job, memory = entry.job, entry.memory
        if job.breaker is not None and memory.breaker is not None:
            self._runner.breakers[entry.name] = Breaker.read(memory.breaker)
        cut_off, memory.begun = memory.begun, []
        for slot in cut_off:
            run = Run(entry.name, slot, self._new_trace())
            self._runner.give_up(run, job, "interrupted", "the agent ended during the run")

    # -- time

    @property
    def _has_time(self) -> bool:
        return self._is_known or self._has_waited

    def time_changed(self, *, stepped: bool = False) -> None:
        """Look at the clock again: it has learned something, or was stepped, or the device has resumed."""
        by = self._notice_jump()
        if not self._is_known and self._clock.now().state != "unsynced":
            self._is_known = True
            self._each(self._resume)
        elif stepped and self._is_known:
            self._each(partial(self._follow_step, by))
        self._timers.rearm()

    def _each(self, change: Callable[[Entry], None]) -> None:
        for entry in self.entries.values():
            change(entry)
            self.book.save(entry.name)
            self._plan(entry)

    def _follow_step(self, by: DurationNs, entry: Entry) -> None:
        """Run no slot twice, unless the clock that said so was absurd; what has no books goes on soon."""
        now = self._now()
        if entry.job.after is not None:
            entry.move(by, books=True)
        elif entry.last > now + (FAR if entry.is_booked else entry.misfire.tolerance):
            entry.last = now
        self._catch_up_later(entry)

    def _notice_jump(self) -> DurationNs:
        """Return by how much the clock has jumped; while time is not known, take that for the end of an error."""
        ahead = self._now() - self._clock.raw()
        by = DurationNs(0 if self._ahead is None else ahead - self._ahead)
        self._ahead = ahead
        if not self._is_known and abs(by) > JUMP:
            self._each(partial(Entry.move, by=by, books=self._has_waited))
        return by

    def _resume(self, entry: Entry) -> None:
        """Go on where the books end: decide what came while nobody looked, and take up what is owed."""
        memory, now, last = entry.memory, self._now(), entry.last
        if entry.is_booked and memory.last is not None and (entry.is_done or memory.last <= now + FAR):
            entry.last = memory.last
            if not entry.rests:
                self._decide(entry, now, until=UtcNs(now - (self._clock.raw() - entry.seen)))
            if not entry.is_once:
                entry.last = max(entry.last, last)
        if self._is_known or entry.job.after is None:
            keeps = entry.is_once or (entry.is_booked and entry.job.enabled)
            memory.last = entry.last if keeps else None
        late = [slot for slot in memory.owed if now - slot > entry.job.misfire_window and slot not in memory.begun]
        for slot in late:
            memory.end(slot)
        if late:
            self._pass_over(entry, len(late))
        self.book.save(entry.name)
        self._catch_up_later(entry)

    def _plan(self, entry: Entry) -> None:
        due = None if entry.rests or self.awaits_time(entry) else entry.trigger.after(entry.last)
        if due is None:
            self._timers.cancel(entry.name)
        else:
            self._timers.put(entry.name, due, entry.fire)

    def _due(self, entry: Entry) -> None:
        """Decide about the slots that have come by now."""
        if not self._is_known:
            self._notice_jump()
        self._decide(entry, self._timers.time, until=self._timers.time)

    def _decide(self, entry: Entry, now: UtcNs, *, until: UtcNs) -> None:
        """Decide about the slots that had come by an instant."""
        memory, misfire = entry.memory, entry.misfire
        is_booked = entry.is_booked and (self._has_time or entry.is_once)
        if not is_booked and misfire.rule != "skip":  # what is owed must be written down
            misfire = misfire._replace(rule="skip")
        run, missed, entry.last, following = decide(entry.trigger, misfire, last=entry.last, now=until)
        if is_booked:
            run = tuple(slot for slot in run if slot not in memory.owed)  # what was believed in may come again
            missed += memory.decide(entry.last, run)
            self.book.save(entry.name)
        if following is not None:
            self._timers.put(entry.name, following, entry.fire)
        if missed:
            self._pass_over(entry, missed)
        for slot in run:
            if now - slot <= misfire.tolerance:
                self._begin(entry, slot, "schedule")
            else:
                self._catch_up_later(entry)

    def _catch_up_later(self, entry: Entry) -> None:
        assert self._place is not None, "it was configured"
        if not entry.memory.owed:
            return
        wait = own_part(self._place.device, f"{entry.name}@", CATCH_UP_WITHIN)
        self._timers.put(f"{entry.name}@", UtcNs(self._now() + wait), partial(self._catch_up, entry))

    def _catch_up(self, entry: Entry) -> None:
        """Begin the oldest run that is owed; those after it follow when it has ended."""
        memory = entry.memory
        if self.entries.get(entry.name) is not entry:  # deleted or replaced meanwhile
            return
        if memory.owed and not (memory.begun or entry.rests) and self._runner.state(entry.name) == "idle":
            self._begin(entry, memory.owed[0], "catch_up")

    def _begin(self, entry: Entry, slot: UtcNs, cause: Cause) -> None:
        run = Run(entry.name, slot, self._new_trace(), cause)
        if slot in entry.memory.owed:
            entry.memory.begin(slot, at_least_once=entry.job.guarantee == "at_least_once")
            self.book.save(entry.name)
            assert self._group is not None, "timers fire while it runs"
            self._group.create_task(self._submit_once_written(run), name=f"begin-{entry.name}")
        else:
            self._submit(run, entry.job)

    async def _submit_once_written(self, run: Run) -> None:
        await self.book.written()
        entry = self.entries.get(run.job)
        if entry is not None and run.slot in entry.memory.begun:  # or it was deleted meanwhile
            self._submit(run, entry.job)

    def _submit(self, run: Run, job: Job) -> None:
        fallback = None if job.breaker is None or job.fallback is None else self.entries.get(job.fallback)
        self._runner.submit(run, job, None if fallback is None else fallback.job)

    # -- what became of it

    def ended(self, run: Run, outcome: Outcome) -> None:
        """Take note that a run has ended; every one does."""
        entry = self.entries.get(run.job)
        if entry is None:
            self._runner.forget(run.job)
            return
        memory = entry.memory
        is_noted = run.slot in memory.begun or run.slot in memory.owed
        if is_noted and run.cause in ("schedule", "catch_up"):  # another may only have the time of one of its slots
            cut_off = outcome.status == "interrupted"
            if cut_off and outcome.started is None and run.slot in memory.begun and entry.job.misfire != "skip":
                memory.put_off(run.slot)
            else:
                memory.end(run.slot, again=cut_off)
        if is_noted or run.job in self._runner.breakers:
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
        self.missed += count
        log.warning("job_missed", extra={"task_name": entry.name, "count": count, "misfire": entry.job.misfire})
        self._say(entry, "missed", {"count": count, "until": rfc3339(entry.last), "misfire": entry.job.misfire})

    def _say(self, entry: Entry, what: str, data: Mapping[str, object]) -> None:
        known = {key: value for key, value in data.items() if value is not None}
        body = orjson.dumps({"what": what, "job": entry.name, **known})
        with contextlib.suppress(OutboxError):
            self._outbox.put(Submission("event/job", body, Priority.NORMAL))

    # -- what may be asked

    def start(self, name: str, trace: str) -> None:
        """Run a job now, beside its schedule, under that trace id."""
        self._submit(Run(name, self._now(), trace, "manual"), self.find(name).job)

    def pause(self, name: str, *, paused: bool) -> None:
        """Let a job pause, or go on; what comes in the pause is not missed, what comes only once is put off."""
        entry = self.find(name)
        entry.memory.paused = paused
        if not entry.is_once:
            entry.last = max(entry.last, self._now())
            if self._has_time:
                entry.memory.last = entry.last
        self.book.save(name)
        if self._has_time:
            self._resume(entry)
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

    def awaits_time(self, entry: Entry) -> bool:
        """Return whether a job has a date and does not run because true time is not known."""
        if self._has_time or entry.job.every is not None or entry.trigger.after(entry.last) is None:
            return False
        return entry.job.after is None or entry.memory.last is not None  # else it counts from what is as little known

    def next_due(self, name: str) -> UtcNs | None:
        """Return when a job is due next, or catches up; ``None`` = it does not."""
        dues = (self._timers.due(name), self._timers.due(f"{name}@"))
        return min((due for due in dues if due is not None), default=None)

    def _now(self) -> UtcNs:
        return self._clock.now().time
