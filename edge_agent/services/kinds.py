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

    def __init__(self, kinds: Callable[[], Mapping[str, Kind]], context: Callable[[Run, Job], Context]) -> None:
        self._kinds = kinds
        self._context = context
        self._known: dict[str, Job] = {}  # by name: as long as its configuration is the same object
        self._ways: dict[str, tuple[Kind, Section]] = {}
        self._alike: dict[tuple[str, str], tuple[Kind, Section]] = {}

    def begin(self, run: Run, job: Job) -> Awaitable[Mapping[str, object] | None]:
        """Return the work of a run, to be awaited.

        Raises:
            JobError: there is no such kind.
        """
        if self._known.get(run.job) is not job:
            self._learn(run.job, job)
        kind, options = self._ways[run.job]
        return kind.run(self._context(run, job), options)

    def _learn(self, name: str, job: Job) -> None:
        """Read a job's options; jobs with the same ones share them, as the garbage collector looks into each."""
        if len(self._known) >= MAX_KNOWN:  # jobs come and go
            self._known, self._ways, self._alike = {}, {}, {}
        kind, same = self._kind(job.kind), (job.kind, repr(job.options))
        if same not in self._alike:
            self._alike[same] = kind, kind.options.model_validate(job.options)
        self._known[name], self._ways[name] = job, self._alike[same]

    def _kind(self, name: str) -> Kind:
        known = self._kinds()
        kind = known.get(name)
        if kind is None:
            names = ", ".join(sorted(known)) or "none"
            raise JobError(f"no kind {name!r} (known: {names}); install the package that brings it")
        return kind
