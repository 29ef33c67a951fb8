"""Begins the work of a run: finds the job's kind, reads its options, and gives it what it needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from edge_agent.core.config_jobs import Job
from edge_agent.core.config_types import Section
from edge_agent.core.runs import Run
from edge_agent.errors import JobError
from edge_agent.job_ports import Context, Kind

MAX_KNOWN: Final = 16_384


class Kinds:
    """The kinds of job that there are, by name."""

    def __init__(self, kinds: Mapping[str, Kind], context: Callable[[Run, Job], Context]) -> None:
        self._kinds = kinds
        self._context = context
        self._known: dict[
            str, tuple[Job, Kind, Section]
        ] = {}  # by job, as long as its configuration is the same object

    def begin(self, run: Run, job: Job) -> Awaitable[Mapping[str, object] | None]:
        """Return the work of a run, to be awaited.

        Raises:
            JobError: there is no such kind.
        """
        known = self._known.get(run.job)
        if known is None or known[0] is not job:
            if len(self._known) >= MAX_KNOWN:  # jobs come and go
                self._known.clear()
            kind = self._kind(job.kind)
            known = self._known[run.job] = job, kind, kind.options.model_validate(job.options)
        _, kind, options = known
        return kind.run(self._context(run, job), options)

    def _kind(self, name: str) -> Kind:
        kind = self._kinds.get(name)
        if kind is None:
            names = ", ".join(sorted(self._kinds)) or "none"
            raise JobError(f"no kind {name!r} (known: {names}); install the package that brings it")
        return kind
