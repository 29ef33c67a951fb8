"""The commands ``job-…``: what may be asked of the jobs, at every door."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, NotRequired, Self

from pydantic import Field, model_validator
from typing_extensions import TypedDict

from edge_agent.command_ports import Call, Command, CutOff, NoArgs
from edge_agent.core.breaker import Breaker
from edge_agent.core.command_request import Code, CommandError
from edge_agent.core.config_jobs import Job
from edge_agent.core.config_types import Name, Section
from edge_agent.core.job_entry import Entry
from edge_agent.core.redaction import redact
from edge_agent.core.runs import Outcome, Run
from edge_agent.core.timebase import DurationNs, UtcNs, rfc3339, seconds
from edge_agent.core.units import format_duration
from edge_agent.ports import Clock
from edge_agent.services.runner import Runner
from edge_agent.services.scheduler import Scheduler

Check = Callable[[str, Mapping[str, Any]], object]
"""Raises ``JobError`` for a job that brings paths or URLs of its own."""


# ---------------------------------------------------------------- arguments
class OneJob(Section):
    """Which job."""

    job: Name = Field(description="The job's name.")


class Put(OneJob):
    """A job to put, or one of the files' to restore."""

    config: dict[str, object] | None = Field(None, description="Its settings, as below [jobs.NAME] in a file.")
    restore: bool = Field(default=False, description="Let count again what the files say of it.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.config is None) is not self.restore:
            raise ValueError('one of config, like {"kind": "system", "every": "5m"}, and restore is needed')
        return self


class RunNow(OneJob):
    """A run beside the schedule."""

    wait: bool = Field(default=True, description="Wait for its end, and fail if it does; else say its trace at once.")


# ---------------------------------------------------------------- results
class Ran(TypedDict):
    """A run and its outcome."""

    slot: str
    cause: str
    attempt: int
    trace: str
    status: str
    finished: str
    duration_ms: float
    lateness_ms: float | None
    reason: str | None
    result: Mapping[str, Any] | None


class Face(TypedDict):
    """How a job stands."""

    name: str
    kind: str
    origin: str
    schedule: str
    state: str
    next: str | None
    last: Ran | None
    streak: int
    missed: int
    breaker: str | None


class Story(Face):
    """A job, its settings, and its last runs."""

    time: str
    config: dict[str, Any]
    owed: list[str]
    counts: Mapping[Any, int]
    history: list[Ran]


class Listing(TypedDict):
    """All jobs."""

    time: str
    jobs: list[Face]
    hidden: list[str]


class Begun(TypedDict):
    """A run that was begun, and how it ended if that was waited for."""

    trace: str
    status: NotRequired[str]
    duration_ms: NotRequired[float]
    reason: NotRequired[str | None]
    result: NotRequired[Mapping[str, Any] | None]


class Cancelled(TypedDict):
    """Whether there was a run to end."""

    cancelled: bool


class Deleted(TypedDict):
    """That it is done."""

    deleted: bool


# ---------------------------------------------------------------- the family
class JobCommands:
    """What the commands do."""

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        clock: Clock,
        *,
        new_trace: Callable[[], str],
        check: Check,
        forget: Callable[[str], Awaitable[None]],
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._clock = clock
        self._new_trace = new_trace
        self._check = check
        self._forget = forget

    def commands(self) -> list[Command]:
        """Return them."""
        change = partial(Command, touches="jobs")
        pause, resume = partial(self._pause, paused=True), partial(self._pause, paused=False)
        return [
            Command("job-list", "List the jobs: when they run, how the last run ended.", NoArgs, Listing, self._list),
            Command("job-get", "Show one job: its settings and its last runs.", OneJob, Story, self._get),
            change("job-put", "Add or replace a job, over restarts and whatever the files say.", Put, Face, self._put),
            change("job-delete", "Delete a job, also one of the files'.", OneJob, Deleted, self._delete),
            change(
                "job-run",
                "Run a job now, beside its schedule.",
                RunNow,
                Begun,
                self._run,
                timeout=seconds(7 * 86_400),  # the job's own ends it before
                cut_off=self._cut_off,
                at_once=64,
            ),
            change("job-cancel", "End a job's run.", OneJob, Cancelled, self._cancel),
            change("job-pause", "Let a job rest until it is resumed.", OneJob, Face, pause),
            change("job-resume", "Let a job go on.", OneJob, Face, resume),
        ]

    async def _list(self, _call: Call, _args: NoArgs) -> Listing:
        return {
            "time": rfc3339(self._clock.now().time),
            "jobs": [self._face(entry) for _, entry in sorted(self._scheduler.entries.items())],
            "hidden": self._scheduler.book.hidden(),
        }

    async def _get(self, call: Call, args: OneJob) -> Story:
        entry = self._scheduler.find(args.job)
        config = entry.job.model_dump(mode="json", exclude_unset=True)
        past = self._runner.history.jobs.get(entry.name)
        return {
            **self._face(entry),
            "time": rfc3339(self._clock.now().time),
            "config": config if call.local else redact({"jobs": {entry.name: config}})[0]["jobs"][entry.name],
            "owed": [rfc3339(slot) for slot in entry.memory.owed],
            "counts": {} if past is None else past.counts,
            "history": [] if past is None else [_told(*one) for one in past.last],
        }

    async def _put(self, call: Call, args: Put) -> Face:
        if args.config is not None and not call.local:
            self._check(args.job, args.config)
        self._scheduler.book.put(args.job, args.config)
        return await self._settled(args.job)

    async def _delete(self, _call: Call, args: OneJob) -> Deleted:
        if args.job not in self._scheduler.book.names():  # it may be there and of no use
            self._scheduler.find(args.job)
        self._scheduler.book.delete(args.job)
        self._scheduler.settle(args.job)
        await self._scheduler.book.written()
        await self._forget(args.job)
        return {"deleted": True}

    async def _pause(self, _call: Call, args: OneJob, *, paused: bool) -> Face:
        self._scheduler.pause(args.job, paused=paused)
        return await self._settled(args.job)

    async def _cancel(self, _call: Call, args: OneJob) -> Cancelled:
        return {"cancelled": self._runner.cancel(self._scheduler.find(args.job).name)}

    async def _run(self, _call: Call, args: RunNow) -> Begun:
        """Begin a run; whoever gives up waiting for its end, ends it."""
        trace = self._new_trace()
        ended = asyncio.get_running_loop().create_future()
        if args.wait:
            self._runner.awaited[trace] = ended
        try:
            self._scheduler.start(args.job, trace)
            if not args.wait:
                return {"trace": trace}
            outcome: Outcome = await ended
        except asyncio.CancelledError:
            self._runner.cancel(args.job, trace=trace)
            raise
        finally:
            self._runner.awaited.pop(trace, None)
        if outcome.status == "interrupted":  # the agent stops, and the command is about to be cut off
            await asyncio.get_running_loop().create_future()
        if outcome.status != "succeeded":
            raise CommandError(Code.FAILED, f"jobs.{args.job} {outcome.status}: {outcome.reason} (trace {trace})")
        return {
            "trace": trace,
            "status": outcome.status,
            "duration_ms": round(outcome.duration_ms, 1),
            "reason": None,
            "result": outcome.result,
        }

    def _cut_off(self, args: RunNow) -> CutOff:
        entry = self._scheduler.entries.get(args.job)
        again = entry is not None and entry.job.guarantee == "at_least_once"
        return CutOff.AGAIN if again else CutOff.INTERRUPTED

    async def _settled(self, name: str) -> Face:
        """Make a change count, and answer once it is durable."""
        self._scheduler.settle(name)
        await self._scheduler.book.written()
        return self._face(self._scheduler.find(name))

    def _face(self, entry: Entry) -> Face:
        past = self._runner.history.jobs.get(entry.name)
        limits, breaker = entry.job.breaker, self._runner.breakers.get(entry.name, Breaker())
        due = self._scheduler.next_due(entry.name)
        return {
            "name": entry.name,
            "kind": entry.job.kind,
            "origin": entry.origin,
            "schedule": schedule(entry.job),
            "state": self._state(entry, due),
            "next": None if due is None else rfc3339(due),
            "last": None if past is None else _told(*past.last[-1]),
            "streak": 0 if past is None else past.streak,
            "missed": entry.missed,
            "breaker": None if limits is None else breaker.state(limits, self._clock.now().time),
        }

    def _state(self, entry: Entry, due: UtcNs | None) -> str:
        state = self._runner.state(entry.name)
        if state != "idle":
            return state
        if not entry.job.enabled:
            return "disabled"
        if entry.memory.paused:
            return "paused"
        if self._scheduler.awaits_time(entry):
            return "awaits_time"
        return "done" if due is None and not entry.memory.owed else "idle"


def schedule(job: Job) -> str:
    """Return when a job is due, as people write it."""
    if job.every is not None:
        return f"every {format_duration(job.every)}"
    if job.cron is not None:
        return f"cron {job.cron} {job.timezone or ''}".rstrip()
    if job.at is not None:
        return f"at {rfc3339(job.at).replace('.000000', '')}"
    return f"after {format_duration(job.after or DurationNs(0))}"


def _told(run: Run, outcome: Outcome) -> Ran:
    return {
        "slot": rfc3339(run.slot),
        "cause": run.cause,
        "attempt": run.attempt,
        "trace": run.trace,
        "status": outcome.status,
        "finished": rfc3339(outcome.finished),
        "duration_ms": round(outcome.duration_ms, 1),
        "lateness_ms": None if outcome.lateness_ms is None else round(outcome.lateness_ms, 1),
        "reason": outcome.reason,
        "result": outcome.result,
    }
