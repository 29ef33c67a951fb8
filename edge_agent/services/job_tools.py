"""What may be asked of the jobs while the agent runs: how they stand, and to change them; the same at every door."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from edge_agent.core.breaker import Breaker
from edge_agent.core.config_jobs import Job
from edge_agent.core.config_types import NAME_NEEDED, NAME_PATTERN
from edge_agent.core.job_entry import Entry
from edge_agent.core.runs import Outcome, Run
from edge_agent.core.timebase import DurationNs, UtcNs, rfc3339
from edge_agent.core.units import format_duration, quoted
from edge_agent.errors import JobError
from edge_agent.ports import Clock
from edge_agent.services.control import Method
from edge_agent.services.runner import Runner
from edge_agent.services.scheduler import Scheduler


class JobTools:
    """The methods ``job-…``.

    Each takes ``{"job": NAME}``, and ``job-put`` also the job's table as ``config``, or ``"restore": true``.
    """

    def __init__(self, scheduler: Scheduler, runner: Runner, clock: Clock) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._clock = clock

    def methods(self) -> dict[str, Method]:
        """Return them by name."""
        return {
            "job-list": self._list,
            "job-get": self._get,
            "job-put": self._put,
            "job-delete": self._delete,
            "job-run": self._run,
            "job-cancel": self._cancel,
            "job-pause": partial(self._pause, paused=True),
            "job-resume": partial(self._pause, paused=False),
        }

    async def _list(self, _params: object) -> object:
        return {
            "time": rfc3339(self._clock.now().time),
            "jobs": [self._face(entry) for _, entry in sorted(self._scheduler.entries.items())],
            "hidden": self._scheduler.book.hidden(),
        }

    async def _get(self, params: object) -> object:
        entry = self._scheduler.find(_name(params))
        past = self._runner.history.jobs.get(entry.name)
        return {
            **self._face(entry),
            "time": rfc3339(self._clock.now().time),
            "config": entry.job.model_dump(mode="json", exclude_unset=True),
            "owed": [rfc3339(slot) for slot in entry.memory.owed],
            "counts": {} if past is None else past.counts,
            "history": [] if past is None else [_told(*one) for one in past.last],
        }

    async def _put(self, params: object) -> object:
        name, given = _name(params), params if isinstance(params, Mapping) else {}
        document = None if given.get("restore") is True else given.get("config", ())
        if document is not None and not isinstance(document, Mapping):
            raise JobError('the job is missing, like {"config": {"kind": "system", "every": "5m"}}')
        self._scheduler.book.put(name, document)
        return await self._settled(name)

    async def _delete(self, params: object) -> object:
        name = _name(params)
        if name not in self._scheduler.book.names():  # it may be there and of no use
            self._scheduler.find(name)
        self._scheduler.book.delete(name)
        await self._settled(name)
        return {"deleted": True}

    async def _pause(self, params: object, *, paused: bool) -> object:
        self._scheduler.pause(_name(params), paused=paused)
        return await self._settled(_name(params))

    async def _run(self, params: object) -> object:
        return {"trace": self._scheduler.start(_name(params))}

    async def _cancel(self, params: object) -> object:
        return {"cancelled": self._runner.cancel(self._scheduler.find(_name(params)).name)}

    async def _settled(self, name: str) -> object:
        """Make a change count, and answer once it is durable."""
        self._scheduler.settle(name)
        await self._scheduler.book.written()
        entry = self._scheduler.entries.get(name)
        return None if entry is None else self._face(entry)

    def _face(self, entry: Entry) -> dict[str, Any]:
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


def _told(run: Run, outcome: Outcome) -> dict[str, Any]:
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


def _name(params: object) -> str:
    name = params.get("job") if isinstance(params, Mapping) else None
    if not isinstance(name, str) or not re.fullmatch(NAME_PATTERN, name):
        shown = quoted(name) if isinstance(name, str) else "none"
        raise JobError(f'found {shown}; the job is needed, {NAME_NEEDED}, like {{"job": "sync"}}')
    return name
