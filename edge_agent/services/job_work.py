"""Does the work of a run: finds its kind, gives it what it needs, and lets its records into the outbox."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from edge_agent.core.config_jobs import Job
from edge_agent.core.config_types import Section
from edge_agent.core.records import Priority
from edge_agent.core.runs import Run
from edge_agent.core.submission import Submission
from edge_agent.job_ports import Context, Kind, Locals
from edge_agent.ports import Accept, Clock
from edge_agent.services.runner import Result


@dataclass
class JobWork:
    """The work of all jobs.

    Attributes:
        kinds: by name.
        accept: the way into the outbox.
        clock: the device's clocks.
        folder: in which each job has a folder of its own.
        locals: what local files allow jobs to touch.
        max_record: bytes of the largest record.
    """

    kinds: Mapping[str, Kind]
    accept: Accept
    clock: Clock
    folder: Path
    locals: Locals
    max_record: int
    _options: dict[str, tuple[Job, Section]] = field(default_factory=dict)

    async def __call__(self, run: Run, job: Job) -> Result:
        """Do it once; see ``job_ports.Kind.run`` for what it raises."""
        kind = self.kinds[job.kind]
        known, options = self._options.get(run.job, (None, None))
        if known is not job or options is None:
            options = kind.options.model_validate(job.options)
            self._options[run.job] = job, options
        context = Context(
            job=run.job,
            slot=run.slot,
            trace=run.trace,
            locals=self.locals,
            publish=partial(self._publish, run, job),
            max_record=self.max_record,
            clock=self.clock,
            folder=self.folder / run.job,
            grace_ns=job.grace,
        )
        return await kind.run(context, options)

    async def _publish(self, run: Run, job: Job, data: bytes, *, key: str | None = None) -> str:
        submission = Submission(
            f"data/{run.job}",
            data,
            Priority[job.priority.upper()],
            latest=job.keep == "latest",
            key=None if key is None else f"{run.job}\0{key}",
            always=job.durability == "always",
        )
        return await self.accept(submission)
