"""A job that is scheduled: its slots, how far they are decided, and what is remembered of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import tzinfo
from typing import Literal, NamedTuple, TypeAlias

from edge_agent.core.config_jobs import Job
from edge_agent.core.job_memory import JobMemory
from edge_agent.core.slots import Misfire
from edge_agent.core.timebase import RawNs, UtcNs
from edge_agent.core.triggers import At, Trigger

Origin: TypeAlias = Literal["file", "runtime"]


class Place(NamedTuple):
    """What the slots of a job depend on beside itself: the device's id, its default time zone, its own time zone."""

    device: str
    timezone: str
    local: tzinfo


@dataclass(slots=True, eq=False)
class Entry:
    """A job that is scheduled.

    Attributes:
        name: the job's.
        job: its configuration.
        origin: who says so.
        memory: what is remembered of it.
        trigger: its slots.
        misfire: what becomes of those that are missed.
        is_booked: whether they are written down.
        last: the newest slot that is decided, in the time that the clock shows now.
        seen: when a job that counts from there was put, by the counter; ``None`` = before the start.
        missed: how many slots were passed over since the start.
        is_failing: whether its last run failed.
    """

    name: str
    job: Job
    origin: Origin
    memory: JobMemory
    trigger: Trigger
    misfire: Misfire
    is_booked: bool
    last: UtcNs
    seen: RawNs | None
    missed: int = 0
    is_failing: bool = False

    @property
    def is_once(self) -> bool:
        """Whether it has but one slot."""
        return isinstance(self.trigger, At)

    @property
    def rests(self) -> bool:
        """Whether it does not run for now, whatever is due."""
        return self.memory.paused or not self.job.enabled

    def follow(self, old: Entry) -> None:
        """Take up what the job has left as it was before an edit."""
        self.missed, self.is_failing, self.seen = old.missed, old.is_failing, self.seen or old.seen
        if self.trigger != old.trigger:
            self.memory.last = None  # of another schedule
        elif old.job.enabled:
            self.last = old.last
