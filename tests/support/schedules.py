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

from edge_agent.adapters.timerfd import LoopAlarm
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
    """True time: the loop's and what was slept, plus an offset; known or not."""

    def __init__(self) -> None:
        super().__init__()
        self.utc_offset = MIDNIGHT
        self.state: TimeState = "synced"
        self._slept = 0

    @override
    def now(self) -> Stamp:
        """Return it."""
        return Stamp(UtcNs(self.utc_offset + self.raw()), self.state)

    @override
    def raw(self) -> RawNs:
        """Return the loop's time and what was slept."""
        return RawNs(self.monotonic() + self._slept)

    def step(self, by_s: float) -> None:
        """Jump."""
        self.utc_offset = UtcNs(self.utc_offset + seconds(by_s))

    def sleep(self, for_s: float) -> None:
        """Be suspended."""
        self._slept += seconds(for_s)


class Notebook:
    """What was noted down, and what of it is on the disk; writing takes a moment."""

    def __init__(self) -> None:
        self.notes: dict[str, bytes] = {}
        self.disk: dict[str, bytes] = {}
        self.said: list[dict[str, Any]] = []
        self._noted = self._on_disk = 0

    def note(self, name: str, text: bytes | None) -> None:
        """Note down."""
        if text is None:
            self.notes.pop(name, None)
        else:
            self.notes[name] = text
        self._noted += 1
        asyncio.get_running_loop().call_later(WRITING_S, self._write, self._noted, dict(self.notes))

    def _write(self, number: int, notes: dict[str, bytes]) -> None:
        if number > self._on_disk:  # the loop calls what is due at one instant in any order
            self._on_disk, self.disk = number, notes

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
        journal: all that was seen of runs, in order: when, job, slot, ``begun`` or how it ended.
        takes_s: how long a run takes.
        fails: whether it fails.
    """

    def __init__(self, **jobs: Mapping[str, object]) -> None:
        self.clock = Clock()
        self.disk: dict[str, bytes] = {}
        self.jobs = {name: Job.model_validate({"kind": "test", **settings}) for name, settings in jobs.items()}
        self.runs: dict[str, list[float]] = {name: [] for name in jobs}
        self.outcomes: list[tuple[Run, Outcome]] = []
        self.journal: list[tuple[UtcNs, str, UtcNs, str]] = []
        self.said: list[dict[str, Any]] = []
        self.takes_s = 0.5
        self.fails = False
        self.wait_s = 600.0
        self._traces = itertools.count(1)

    def statuses(self) -> Counter[str]:
        """Return how many runs ended how."""
        return Counter(outcome.status for _, outcome in self.outcomes)

    async def _work(self, run: Run, _job: Job) -> None:
        self.runs.setdefault(run.job, []).append((run.slot - MIDNIGHT) / 1e9)
        self.journal.append((self.clock.now().time, run.job, run.slot, "begun"))
        await asyncio.sleep(self.takes_s)
        if self.fails:
            raise JobError("it fails")

    def _ended(self, run: Run, outcome: Outcome) -> None:
        self.outcomes.append((run, outcome))
        self.journal.append((self.clock.now().time, run.job, run.slot, outcome.status))
        self.scheduler.ended(run, outcome)

    @contextlib.asynccontextmanager
    async def up(self, *, crash: bool = False) -> AsyncIterator[Scheduler]:
        """Run until the end; with ``crash`` nothing is left of it but what was written."""
        await self.start()
        try:
            yield self.scheduler
        finally:
            await self.end(crash=crash)

    async def start(self) -> None:
        """Start."""
        notebook = Notebook()
        notebook.notes, notebook.disk = dict(self.disk), self.disk
        self.notebook = notebook
        self.runner = Runner(
            Limits(max_concurrent=64),
            work=self._work,
            clock=self.clock,
            uniform=lambda: 0.5,
            ended=self._ended,
            host="h",
        )
        timers = Timers(LoopAlarm, lambda: self.clock.now().time)
        new_trace = lambda: f"{next(self._traces):032x}"  # noqa: E731
        self.scheduler = Scheduler(timers, self.runner, notebook, clock=self.clock, new_trace=new_trace)
        self.configure(self.jobs)
        self._task = asyncio.get_running_loop().create_task(
            self.scheduler.run(first_sync_wait=seconds(self.wait_s)), name="scheduler"
        )
        await asyncio.sleep(0)

    async def end(self, *, crash: bool) -> None:
        """Stop, or crash: then what happens from here on has not happened."""
        outcomes, journal, said = list(self.outcomes), list(self.journal), list(self.notebook.said)
        if crash:
            self.disk = dict(self.notebook.disk)
        self._task.cancel()
        await asyncio.wait((self._task,))
        if crash:
            self.outcomes, self.journal, self.notebook.said = outcomes, journal, said
        else:
            await self.notebook.written()
            self.disk = self.notebook.disk
        self.said += self.notebook.said
        self.notebook.said = []
        if not self._task.cancelled() and (error := self._task.exception()) is not None:
            raise error

    def configure(self, jobs: Mapping[str, Job]) -> None:
        """Go by these jobs from now on."""
        self.scheduler.configure(jobs, Place(DEVICE, "UTC", UTC), _read)


def _read(_name: str, document: Mapping[str, Any]) -> Job:
    try:
        return Job.model_validate(document)
    except ValueError as error:
        raise JobError(str(error)) from None
