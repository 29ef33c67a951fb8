"""What each run is given of the agent: a way into the outbox, what local files allow it, a folder of its own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import orjson

from edge_agent.core.config_jobs import Job
from edge_agent.core.records import Priority
from edge_agent.core.runs import Run
from edge_agent.core.submission import Submission
from edge_agent.job_ports import Context, Locals
from edge_agent.ports import Accept, Clock


@dataclass
class RunContexts:
    """Makes the context of each run.

    Attributes:
        accept: the way into the outbox.
        clock: the device's clocks.
        folders: in which each job has a folder of its own.
        locals: what local files allow jobs to touch.
        max_record: bytes of the largest record.
    """

    accept: Accept
    clock: Clock
    folders: Path
    locals: Locals
    max_record: int

    def of(self, run: Run, job: Job) -> Context:
        """Return the context of a run."""
        publish = partial(self._publish, run.job, job)
        return Context(
            run.job, run.slot, run.trace, self.locals, publish, self.max_record, self.clock, self.folders, job.grace
        )

    async def _publish(self, name: str, job: Job, data: bytes, *, key: str | None = None) -> str:
        if type(data) is not bytes:  # from a package that nobody has checked; further on it would end the agent
            raise TypeError(f"publish takes a JSON value as bytes, not {type(data).__name__}")
        orjson.loads(data)  # or it would make the whole message unreadable to all who get it
        submission = Submission(
            f"data/{name}",
            data,
            Priority[job.priority.upper()],
            latest=job.keep == "latest",
            key=None if key is None else f"{name}\0{key}",
            always=job.durability == "always",
        )
        return await self.accept(submission)
