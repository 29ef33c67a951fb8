"""What may be asked of the jobs while the agent runs: how they stand, and to change them; the same at every door."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from edge_agent.core.config_jobs import Job
from edge_agent.core.config_types import NAME_PATTERN
from edge_agent.core.runs import Outcome, Run
from edge_agent.core.scheduled import Entry
from edge_agent.core.timebase import DurationNs, rfc3339
from edge_agent.core.units import format_duration
from edge_agent.errors import JobError
from edge_agent.services.control import Method
from edge_agent.services.runner import Runner
from edge_agent.services.scheduler import Scheduler

MAX_PUT: Final = 100
"""Jobs that were put at run time; what is remembered of each has its place in the store."""


class JobTools:
    """The methods ``job-…``; each takes ``{"job": NAME}``, and ``job-put`` also the job's table as ``config``."""

    def __init__(self, scheduler: Scheduler, runner: Runner) -> None:
        self._scheduler = scheduler
        self._runner = runner

    def methods(self) -> dict[str, Method]:
        """Return them by name."""
        return {
            "job-list": self._list,
            "job-get": self._get,
            "job-put": self._put,
            "job-delete": self._delete,
            "job-run": self._run,
            "job-cancel": self._cancel,
            "job-pause": self._pause,
            "job-resume": self._resume,
        }

    async def _list(self, _params: object) -> object:
        return {"jobs": [self._face(entry) for _, entry in sorted(self._scheduler.entries.items())]}

    async def _get(self, params: object) -> object:
        entry = self._scheduler.find(_name(params))
        past = self._runner.history.jobs.get(entry.name)
        return {
            **self._face(entry),
            "config": entry.job.model_dump(mode="json", exclude_unset=True),
            "owed": [rfc3339(slot) for slot in entry.memory.owed],
            "counts": {} if past is None else past.counts,
            "history": [] if past is None else [_told(*one) for one in past.last],
        }

    async def _put(self, params: object) -> object:
        name = _name(params)
        document = params.get("config") if isinstance(params, Mapping) else None
        if not isinstance(document, Mapping):
            raise JobError('the job is missing, like {"config": {"kind": "system", "every": "5m"}}')
        book = self._scheduler.book
        if sum(book.memory(one).job is not None for one in book.names()) >= MAX_PUT and book.memory(name).job is None:
            raise JobError(f"{MAX_PUT} jobs were put at run time, more are not kept; delete one, or use a file")
        book.put(name, document)
        return await self._settled(name)

    async def _delete(self, params: object) -> object:
        name = self._scheduler.find(_name(params)).name
        self._scheduler.book.delete(name)
        await self._settled(name)
        return {}

    async def _pause(self, params: object) -> object:
        self._scheduler.pause(_name(params), paused=True)
        return await self._settled(_name(params))

    async def _resume(self, params: object) -> object:
        self._scheduler.pause(_name(params), paused=False)
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
        breaker = self._runner.breakers.get(entry.name)
        due = self._scheduler.next_due(entry.name)
        state: str = self._runner.state(entry.name)
        if state == "idle" and (entry.memory.paused or not entry.job.enabled):
            state = "paused" if entry.memory.paused else "disabled"
        return {
            "name": entry.name,
            "kind": entry.job.kind,
            "origin": entry.origin,
            "schedule": schedule(entry.job),
            "state": state,
            "next": None if due is None else rfc3339(due),
            "last": None if past is None else _told(*past.last[-1]),
            "streak": 0 if past is None else past.streak,
            "missed": entry.missed,
            "breaker": None if entry.job.breaker is None else "closed" if not breaker or not breaker.opened else "open",
        }


def schedule(job: Job) -> str:
    """Return when a job is due, as people write it."""
    if job.every is not None:
        return f"every {format_duration(job.every)}"
    if job.cron is not None:
        return f"cron {job.cron}"
    return f"at {rfc3339(job.at)}" if job.at is not None else f"after {format_duration(job.after or DurationNs(0))}"


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
        raise JobError('the name of a job is needed, like {"job": "sync"}')
    return name
