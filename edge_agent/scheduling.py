"""The jobs' part of the agent: builds the scheduler and all that it needs."""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from edge_agent.adapters.host import local_zone, read_facts
from edge_agent.adapters.job_folder import remove_folder
from edge_agent.adapters.timerfd import make_alarm
from edge_agent.command_ports import Command
from edge_agent.commands.jobs import JobCommands
from edge_agent.core.config_document import dotted
from edge_agent.core.config_findings import validated
from edge_agent.core.config_jobs import Job
from edge_agent.core.config_kinds import check_jobs
from edge_agent.core.config_models import Config
from edge_agent.core.events import JobsData
from edge_agent.core.job_entry import Origin, Place
from edge_agent.core.timebase import DurationNs
from edge_agent.errors import JobError
from edge_agent.job_ports import Locals
from edge_agent.jobs import kinds
from edge_agent.ports import Clock
from edge_agent.services.kinds import Kinds
from edge_agent.services.outbox import Outbox
from edge_agent.services.run_context import RunContexts
from edge_agent.services.runner import Runner
from edge_agent.services.scheduler import Scheduler
from edge_agent.services.timers import Timers


class Scheduling:
    """Jobs: when they run, where, and what may be asked of them."""

    def __init__(
        self, config: Config, outbox: Outbox, *, clock: Clock, uniform: Callable[[], float], state_dir: Path
    ) -> None:
        """Prepare.

        Args:
            config: what the jobs are built from until the next ``configure``.
            outbox: takes records, and notes down what must not be forgotten.
            clock: of the device.
            uniform: draws from 0 to 1.
            state_dir: in which jobs keep what has to survive.
        """
        self._config = config
        self._clock = clock
        self._kinds = kinds()
        self._contexts = RunContexts(
            outbox.accept, clock, state_dir / "jobs", _locals(config), config.outbox.max_record
        )
        self._runner = Runner(
            config.runner,
            work=Kinds(lambda: self._kinds, self._contexts.of).begin,
            clock=clock,
            uniform=uniform,
            ended=lambda *ended: self._scheduler.ended(*ended),  # noqa: PLW0108  # it is made after the runner
            host=read_facts().hostname or "unknown",
        )
        timers = Timers(make_alarm, lambda: clock.now().time)
        self._scheduler = Scheduler(timers, self._runner, outbox, clock=clock, new_trace=new_trace)

    def configure(self, config: Config, cloud_jobs: Container[str] = ()) -> None:
        """Go by another configuration from now on; call it once before ``run``, when the outbox is open.

        Args:
            config: with the cloud's part of it.
            cloud_jobs: names of jobs of which that says something.
        """
        self._config, self._kinds = config, kinds()  # a package may have been installed since
        self._contexts.locals, self._contexts.max_record = _locals(config), config.outbox.max_record
        self._runner.allow(config.runner)
        place = Place(config.device.id, config.device.timezone, local_zone())
        self._scheduler.configure(config.jobs, place, self._read, cloud_jobs)

    async def run(self, first_sync_wait: DurationNs, *, trusts_os: bool) -> None:
        """Fire until cancelled; with ``trusts_os`` the operating system's clock is what there is to go by."""
        await self._scheduler.run(first_sync_wait=DurationNs(0) if trusts_os else first_sync_wait)

    def time_changed(self, stepped: bool) -> None:  # noqa: FBT001
        """Take note that true time is another than one would have expected."""
        self._scheduler.time_changed(stepped=stepped)

    def commands(self) -> list[Command]:
        """Return what may be asked."""
        check = partial(self._read, is_remote=True)
        return JobCommands(
            self._scheduler,
            self._runner,
            self._clock,
            new_trace=new_trace,
            check=check,
            forget=lambda name: remove_folder(self._contexts.folders / name),
        ).commands()

    def jobs(self) -> dict[str, tuple[Job, Origin]]:
        """Return the jobs that there are, and who says so."""
        return {name: (entry.job, entry.origin) for name, entry in self._scheduler.entries.items()}

    def graces(self) -> list[DurationNs]:
        """Return how long each job that there is has to end."""
        return [entry.job.grace for entry in self._scheduler.entries.values()]

    def measure(self) -> JobsData:
        """Return the jobs' part of the heartbeat."""
        counts = self._runner.history.counts
        return JobsData(
            ok=counts.get("succeeded", 0),
            failed=sum(counts.get(status, 0) for status in ("failed", "timed_out", "interrupted")),
            missed=self._scheduler.missed,
            skipped=counts.get("skipped", 0) + counts.get("cancelled", 0),
        )

    def _read(self, name: str, document: Mapping[str, Any], *, is_remote: bool = False) -> Job:
        if is_remote:
            self._kinds = kinds()
        job, wrong = validated(Job, document)
        if job is not None:
            config, remote = self._config.model_copy(update={"jobs": {name: job}}), (name,) if is_remote else ()
            wrong = [(path[2:], reason) for path, reason in check_jobs(config, self._kinds, remote=remote)]
        if wrong or job is None:
            raise JobError("; ".join(f"{dotted(('jobs', name, *path))}: {reason}" for path, reason in wrong))
        return job


def new_trace() -> str:
    """Return 32 hexadecimal digits that no other run has."""
    return random.getrandbits(128).to_bytes(16).hex()  # nobody must not guess it; the kernel's cost thrice as much


def _locals(config: Config) -> Locals:
    return Locals(config.programs, config.folders, config.endpoints)
