"""A device's scheduler in virtual time: its clock may be unknown or be stepped, and it may crash."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from datetime import UTC
from typing import Any, Final

import orjson
from typing_extensions import override

from edge_agent.adapters.alarm import LoopAlarm
from edge_agent.core.config_jobs import Job
from edge_agent.core.config_jobs import Runner as Limits
from edge_agent.core.events import Stamp, TimeState
from edge_agent.core.job_entry import Place
from edge_agent.core.runs import Outcome, Run
from edge_agent.core.submission import Submission
from edge_agent.core.timebase import RawNs, UtcNs, seconds
from edge_agent.errors import JobError
from edge_agent.services.runner import Runner
from edge_agent.services.scheduler import Scheduler
from edge_agent.services.timers import Timers
from tests.fakes import EPOCH, FakeClock

DEVICE: Final = "gw-1"
WRITING_S: Final = 0.01
MIDNIGHT: Final = UtcNs(EPOCH - EPOCH % seconds(86_400))


class Clock(FakeClock):
    """True time: the loop's plus an offset, known or not."""

    def __init__(self) -> None:
        super().__init__()
        self.utc_offset = MIDNIGHT
        self.state: TimeState = "synced"

    @override
    def now(self) -> Stamp:
        """Return it."""
        return Stamp(UtcNs(self.utc_offset + self.monotonic()), self.state)

    @override
    def raw(self) -> RawNs:
        """Return the loop's time."""
        return RawNs(self.monotonic())

    def step(self, by_s: float) -> None:
        """Jump."""
        self.utc_offset = UtcNs(self.utc_offset + seconds(by_s))


class Notebook:
    """What was noted down, and what of it is on the disk; writing takes a moment."""

    def __init__(self) -> None:
        self.notes: dict[str, bytes] = {}
        self.disk: dict[str, bytes] = {}
        self.said: list[dict[str, Any]] = []

    def note(self, name: str, text: bytes | None) -> None:
        """Note down."""
        if text is None:
            self.notes.pop(name, None)
        else:
            self.notes[name] = text
        asyncio.get_running_loop().call_later(WRITING_S, setattr, self, "disk", dict(self.notes))

    async def written(self) -> None:
        """Write."""
        await asyncio.sleep(WRITING_S)

    def put(self, submission: Submission) -> None:
        """Keep what is said."""
        self.said.append(orjson.loads(submission.data))


class Device:
    """An agent's scheduler and runner; ``up`` runs them, and what is left afterwards is the disk.

    Attributes:
        runs: per job, the slots that were run, in seconds since midnight, in order.
        outcomes: what became of them.
        takes_s: how long a run takes.
    """

    def __init__(self, **jobs: Mapping[str, object]) -> None:
        self.clock = Clock()
        self.disk: dict[str, bytes] = {}
        self.jobs = {name: Job.model_validate({"kind": "test", **settings}) for name, settings in jobs.items()}
        self.runs: dict[str, list[float]] = {name: [] for name in jobs}
        self.outcomes: list[tuple[Run, Outcome]] = []
        self.said: list[dict[str, Any]] = []
        self.takes_s = 0.5
        self.wait_s = 600.0
        self._traces = itertools.count(1)

    def statuses(self) -> Counter[str]:
        """Return how many runs ended how."""
        return Counter(outcome.status for _, outcome in self.outcomes)

    async def _work(self, run: Run, _job: Job) -> None:
        self.runs.setdefault(run.job, []).append((run.slot - MIDNIGHT) / 1e9)
        await asyncio.sleep(self.takes_s)

    def _ended(self, run: Run, outcome: Outcome) -> None:
        self.outcomes.append((run, outcome))
        self.scheduler.ended(run, outcome)

    @contextlib.asynccontextmanager
    async def up(self, *, crash: bool = False) -> AsyncIterator[Scheduler]:
        """Run until the end; with ``crash`` nothing is left of it but what was written."""
        notebook = Notebook()
        notebook.notes, notebook.disk = dict(self.disk), self.disk
        self.notebook = notebook
        self.runner = Runner(
            Limits(), work=self._work, clock=self.clock, uniform=lambda: 0.5, ended=self._ended, host="h"
        )
        timers = Timers(LoopAlarm, lambda: self.clock.now().time)
        new_trace = lambda: f"{next(self._traces):032x}"  # noqa: E731
        self.scheduler = Scheduler(timers, self.runner, notebook, clock=self.clock, new_trace=new_trace)
        self.configure(self.jobs)
        task = asyncio.get_running_loop().create_task(self.scheduler.run(first_sync_wait=seconds(self.wait_s)))
        await asyncio.sleep(0)
        try:
            yield self.scheduler
        finally:
            kept = list(self.outcomes)
            if crash:
                self.disk = dict(notebook.disk)
            task.cancel()
            await asyncio.wait((task,))
            if crash:
                self.outcomes = kept
            else:
                await notebook.written()
                self.disk = notebook.disk
            self.said += notebook.said
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def configure(self, jobs: Mapping[str, Job]) -> None:
        """Go by these jobs from now on."""
        self.scheduler.configure(jobs, Place(DEVICE, "UTC", UTC), _read)


def _read(_name: str, document: Mapping[str, Any]) -> Job:
    try:
        return Job.model_validate(document)
    except ValueError as error:
        raise JobError(str(error)) from None
