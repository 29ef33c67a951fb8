"""Runs what is due, so many at a time, and lets nothing that one job does touch another.

Here a task is not spawned in a TaskGroup: that would wait for ever for a run that cannot be ended.
"""

from __future__ import annotations

import asyncio
import logging
import math
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal, TypeAlias

from edge_agent.core.backoff import Uniform, full_jitter
from edge_agent.core.breaker import Breaker
from edge_agent.core.config_jobs import Breaker as BreakerSettings
from edge_agent.core.config_jobs import Job
from edge_agent.core.config_jobs import Runner as Limits
from edge_agent.core.runs import FAILURES, History, Outcome, Run, Status, one_line, summary
from edge_agent.core.timebase import (
    NANOSECONDS_PER_MILLISECOND,
    NANOSECONDS_PER_SECOND,
    DurationNs,
    RawNs,
    UtcNs,
    rfc3339,
    seconds,
    to_seconds,
)
from edge_agent.core.waiting_line import WaitingLine
from edge_agent.errors import JobError, OutboxError
from edge_agent.ports import Clock
from edge_agent.services.shared_task import SharedTask

log = logging.getLogger(__name__)
runs_log: Final = logging.getLogger(f"{__name__}.runs")
"""One line per run; its own logger, so that it can be silenced alone."""

_BLANK: Final = {
    level: vars(logging.LogRecord(runs_log.name, level, "", 0, "job_run", None, None))
    for level in (logging.INFO, logging.WARNING)
}

LONGEST_PAUSE: Final = seconds(3600)
"""Between two attempts, unless the job's own ``backoff`` is longer."""

KILLING: Final = seconds(1)
"""What a run has beyond its grace, to end for good what did not end within it."""

Result: TypeAlias = Mapping[str, object] | None
Work: TypeAlias = Callable[[Run, Job], Awaitable[Result]]


class _Active:
    """A run under way: in the line, at work, in its grace, or in the pause before another attempt."""

    task: asyncio.Task[None] | None = None  # while it is at work or in its grace
    has_begun = False  # its work
    timer: asyncio.TimerHandle | None = None  # what ends its grace or its pause
    ends = math.inf  # when its work has lasted too long, in the loop's time
    started: UtcNs | None = None
    begun = RawNs(0)
    verdict: tuple[Status, str] | None = None  # how this attempt was ended early
    reason: str | None = None  # why the last attempt failed
    final = False  # no other attempt follows
    follower: _Active | None = None  # the job's next run, which waits for the end of this one
    over = False

    def __init__(self, run: Run, job: Job, fallback: Job | None) -> None:
        self.run = run
        self.job = job
        self.fallback = fallback


class Runner:
    """Runs jobs; all of it on the loop's thread.

    Of one job there is one run at a time, from its first attempt to its outcome, and at most one that follows it.

    Attributes:
        limits: how many run and wait; the number that run is never cut down at once.
        history: how the last runs ended.
        breakers: the state of each job's breaker; whoever keeps it over a restart puts it in before the first run.
        awaited: who waits for a run's outcome, by its trace.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        work: Work,
        clock: Clock,
        uniform: Uniform,
        ended: Callable[[Run, Outcome], None],
        host: str,
    ) -> None:
        """Prepare.

        Args:
            limits: how many run and wait.
            work: begins the work of a run; whatever it raises fails this run alone.
            clock: where the time comes from.
            uniform: the source of jitter.
            ended: called once for every run.
            host: the device's name in the log.
        """
        self.limits = limits
        self.history = History()
        self.breakers: dict[str, Breaker] = {}
        self.awaited: dict[str, asyncio.Future[Outcome]] = {}
        self._work = work
        self._clock = clock
        self._uniform = uniform
        self._ended = ended
        self._host = host
        self._active: dict[str, _Active] = {}
        self._line: WaitingLine[_Active] = WaitingLine()
        self._at_work = 0
        self._tasks = SharedTask(self._attempt)
        self._abandoned: dict[str, _Active] = {}
        self._asked_at = RawNs(-NANOSECONDS_PER_MILLISECOND)
        self._ahead = 0  # true time of the counter, then
        self._read = RawNs(0)  # the counter when the last run ended
        self._reader: asyncio.Task[None] | None = None  # which may go on at once
        self._stopping = False
        self._idle = asyncio.Event()
        self._watch: asyncio.TimerHandle | None = None  # one for all, as most end before

    # ---------------------------------------------------------------- what others ask of it
    def allow(self, limits: Limits) -> None:
        """Go by other limits from now on: what waits begins if there is a place now."""
        self.limits = limits
        self._fill()

    def submit(self, run: Run, job: Job, fallback: Job | None = None) -> None:
        """Run a job now, as soon as there is a place, or not at all; ``ended`` says which, perhaps before this returns.

        Args:
            run: which.
            job: its configuration.
            fallback: that of the job that ``job.fallback`` names.
        """
        new, current = _Active(run, job, fallback), self._active.get(run.job)
        if self._stopping:
            self._report(new, "interrupted", "the agent stops")
        elif current is not None:
            self._overlap(current, new)
        elif run.job in self._abandoned:  # or each slot would leave one more behind
            self._report(new, "skipped", "an earlier run of it has not ended yet, and could not be ended")
        elif job.breaker is None or self._breaker_allows(new, job.breaker):
            self._active[run.job] = new
            self._enter(new)

    def give_up(self, run: Run, job: Job, status: Status, reason: str) -> None:
        """Report how a run ended that does not begin here."""
        self._report(_Active(run, job, None), status, reason)

    def cancel(self, job: str, reason: str = "it was cancelled", *, trace: str | None = None) -> bool:
        """End a job's run, or only that of a trace, and take out the one that follows; return whether there was one."""
        active = self._active.get(job)
        is_it = active is not None and trace in (None, active.run.trace)
        return is_it and self._call_off(job, "cancelled", reason)

    def state(self, job: str) -> Literal["idle", "waiting", "running", "pausing", "abandoned"]:
        """Return what a job does; ``pausing`` before another attempt, ``abandoned`` if it cannot be ended."""
        active = self._active.get(job)
        if active is None:
            return "abandoned" if job in self._abandoned else "idle"
        if active.task is not None:
            return "running"
        return "waiting" if active.timer is None else "pausing"

    def forget(self, job: str) -> None:
        """Forget how a job's runs ended and where its breaker stands; of one under way, do so when it has ended."""
        self.history.jobs.pop(job, None)
        self.breakers.pop(job, None)

    async def stop(self) -> None:
        """Take in nothing more, give what runs its grace, and return when every run has its outcome."""
        self._stopping = True
        for job in list(self._active):
            self._call_off(job, "interrupted", "the agent stops")
        if self._active:
            await self._idle.wait()

    # ---------------------------------------------------------------- from the slot to a place
    def _overlap(self, current: _Active, new: _Active) -> None:
        policy = new.job.overlap
        if policy == "cancel":
            self._cut(current, "cancelled", "the next run took its place", follower=new)
        elif policy == "queue" and current.follower is None and (current.task or current.started) is not None:
            current.follower = new
        else:
            self._report(new, "skipped", "the run before it has not ended" if policy == "skip" else "one waits already")

    def _breaker_allows(self, new: _Active, settings: BreakerSettings) -> bool:
        run, job = new.run, new.job
        if run.cause == "manual":  # who runs it by hand wants to see
            return True
        breaker = self.breakers.setdefault(run.job, Breaker())
        advice = breaker.advise(settings, self._clock.now().time, fallback=new.fallback is not None)
        if advice == "run":
            return True
        if new.fallback is None or job.fallback is None:
            self._report(new, "skipped", "its breaker is open")
        else:  # that has no fallback in turn: they might go round in a circle
            self._report(new, "skipped", f"its breaker is open; {job.fallback} runs instead")
            self.submit(Run(job.fallback, run.slot, run.trace, "fallback"), new.fallback)
        return False

    def _enter(self, active: _Active) -> None:
        active.timer = None
        if self._at_work < self.limits.max_concurrent:
            self._begin(active)
            return
        refused = self._line.join(active, active.job.priority, limit=self.limits.max_waiting)
        if refused is not None:
            why = f"no place in the waiting line; runner.max_waiting is {self.limits.max_waiting}"
            if refused.started is None:
                self._settle(refused, "skipped", why)
            else:
                self._settle(refused, "failed", f"{refused.reason}; for another attempt {why}")

    def _fill(self) -> None:
        while self._line and self._at_work < self.limits.max_concurrent:
            self._begin(self._line.take())

    # ---------------------------------------------------------------- one attempt
    def _begin(self, active: _Active) -> None:
        self._at_work += 1
        active.task = self._tasks.put(active, active.run.job)
        if active.job.timeout is not None:
            active.ends = asyncio.get_running_loop().time() + to_seconds(active.job.timeout)
            if self._watch is None or active.ends < self._watch.when():
                self._watch_until(active.ends)

    async def _attempt(self, active: _Active, task: asyncio.Task[None]) -> None:
        """Make an attempt; nothing that it raises gets any further."""
        active.has_begun, active.task = True, task
        if active.started is None:
            raw = self._read if task is self._reader else self._clock.raw()  # in one task it is the instant before
            if raw - self._asked_at >= NANOSECONDS_PER_MILLISECOND:  # within it, true time has the counter's rate
                self._asked_at, self._ahead = raw, self._clock.now().time - raw
            active.begun, active.started = raw, UtcNs(raw + self._ahead)
        else:
            active.run = active.run._replace(attempt=active.run.attempt + 1)
        status: Status = "failed"
        reason = result = None
        try:
            result = await self._work(active.run, active.job)
            status = "succeeded"
        except asyncio.CancelledError:
            reason = "it was cancelled, but not by the agent"
        except (JobError, OutboxError) as error:
            reason = one_line(str(error))
        except (Exception, SystemExit) as error:
            log.exception("job_crashed", extra=self._who(active.run))
            reason = one_line("".join(traceback.format_exception_only(error)))
        try:
            self._attempted(active, status, reason, result)
        except Exception as bug:  # noqa: BLE001  # of ours, so not this run's alone: from a callback it ends the process
            asyncio.get_running_loop().call_soon(_raise, bug)

    def _watch_until(self, ends: float) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._watch = None if ends == math.inf else asyncio.get_running_loop().call_at(ends, self._time_out)

    def _time_out(self) -> None:
        """End what has lasted too long, and watch for the next that will have."""
        assert self._watch is not None, "it was watched for"
        for active in self._active.values():
            if active.ends <= self._watch.when():
                self._interrupt(active, "timed_out", f"it ran longer than {to_seconds(active.job.timeout):g} s")
        self._watch_until(min((active.ends for active in self._active.values()), default=math.inf))

    def _interrupt(self, active: _Active, status: Status, reason: str) -> None:
        """Have an attempt end within its grace; the first reason counts."""
        loop = asyncio.get_running_loop()
        active.ends = math.inf
        if active.task is None or active.verdict is not None:
            return
        if not active.has_begun:  # its task may be another one by then
            loop.call_soon(self._interrupt, active, status, reason)
            return
        active.verdict = status, reason
        active.timer = loop.call_later(to_seconds(DurationNs(active.job.grace + KILLING)), self._abandon, active)
        active.task.cancel()

    def _abandon(self, active: _Active) -> None:
        assert active.verdict is not None, "it is in its grace"
        status, reason = active.verdict
        self._abandoned[active.run.job] = active
        log.error("job_abandoned", extra=self._who(active.run) | {"reason": reason})
        self._at_work -= 1
        self._fill()
        self._settle(active, status, f"{reason}, and did not end in its grace")

    def _attempted(self, active: _Active, status: Status, reason: str | None, result: Result) -> None:
        if active.over:
            del self._abandoned[active.run.job]
            log.warning("job_ended_late", extra=self._who(active.run))
            return
        if active.timer is not None and active.verdict is not None:
            active.timer.cancel()
            (status, reason), result = active.verdict, None
        self._reader, active.task = active.task, None  # who waits to interrupt it comes too late
        self._at_work -= 1
        self._fill()
        if not self._at_work:
            self._watch_until(math.inf)  # or it would wake an idle device in vain
        if status in FAILURES and active.run.attempt < active.job.retry.attempts and not active.final:
            self._pause(active, reason)
        else:
            self._settle(active, status, reason, None if result is None else summary(result))

    def _pause(self, active: _Active, reason: str | None) -> None:
        active.verdict, active.has_begun, active.ends, active.reason, self._reader = None, False, math.inf, reason, None
        base = active.job.retry.backoff
        cap = max(base, LONGEST_PAUSE)
        pause = full_jitter(active.run.attempt - 1, base=base, cap=cap, uniform=self._uniform)
        log.info("job_pauses", extra=self._who(active.run) | {"reason": reason, "pause_s": to_seconds(pause)})
        active.timer = asyncio.get_running_loop().call_later(to_seconds(pause), self._enter, active)

    # ---------------------------------------------------------------- the end
    def _call_off(self, job: str, status: Status, reason: str) -> bool:
        if (active := self._active.get(job)) is not None:
            self._cut(active, status, reason, follower=None)
        return active is not None

    def _cut(self, active: _Active, status: Status, reason: str, *, follower: _Active | None) -> None:
        """End a run for good, wherever it is, and let another one follow it."""
        replaced, active.follower, active.final = active.follower, follower, True
        if active.task is not None:
            self._interrupt(active, status, reason)
        else:
            self._line.leave(active, active.job.priority)
            if active.timer is not None:
                active.timer.cancel()
            self._settle(active, status, reason)
        if replaced is not None:
            self._report(replaced, status, reason)

    def _settle(self, active: _Active, status: Status, reason: str | None, result: Result = None) -> None:
        active.over = True
        del self._active[active.run.job]
        if active.job.breaker is not None:
            breaker = self.breakers.setdefault(active.run.job, Breaker())
            breaker.ended(active.job.breaker, status, self._clock.now().time)
        self._report(active, status, reason, result)
        if (follower := active.follower) is not None:
            self.submit(follower.run, follower.job, follower.fallback)
        if self._stopping and not self._active:
            self._idle.set()

    def _report(self, active: _Active, status: Status, reason: str | None, result: Result = None) -> None:
        run, started = active.run, active.started
        if started is None:
            outcome = Outcome(status, None, self._clock.now().time, reason=reason)
        else:
            self._read = self._clock.raw()
            finished = UtcNs(started + self._read - active.begun)
            outcome = Outcome(
                status, started, finished, (started - run.slot) / NANOSECONDS_PER_MILLISECOND, reason, result
            )
        self.history.note(run, outcome)
        if self.awaited and (awaited := self.awaited.get(run.trace)) is not None and not awaited.done():
            awaited.set_result(outcome)
        level = logging.WARNING if status in FAILURES else logging.INFO
        if runs_log.isEnabledFor(level):
            self._tell(level, run, outcome)
        self._ended(run, outcome)

    def _tell(self, level: int, run: Run, outcome: Outcome) -> None:
        record = logging.LogRecord.__new__(logging.LogRecord)
        fields = record.__dict__ = _BLANK[level].copy()  # ``log`` would fill it in at five times the cost
        fields.update(
            created=self._clock.wall() / NANOSECONDS_PER_SECOND,
            task_name=run.job,
            trace_id=run.trace,
            attempt=run.attempt,
            status=outcome.status,
            duration_ms=outcome.duration_ms,
            host=self._host,
            slot=rfc3339(run.slot),
            lateness_ms=outcome.lateness_ms,
            cause=run.cause,
        )
        if outcome.reason is not None:
            fields["reason"] = outcome.reason
        runs_log.handle(record)

    def _who(self, run: Run) -> dict[str, Any]:
        return {"task_name": run.job, "trace_id": run.trace, "attempt": run.attempt}


def _raise(bug: Exception) -> None:
    raise bug
