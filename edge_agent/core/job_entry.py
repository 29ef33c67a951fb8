"""A job that is scheduled: which slots it has, and up to which one it is decided what becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import tzinfo
from typing import Literal, NamedTuple, TypeAlias

from edge_agent.core.config_jobs import Job
from edge_agent.core.job_memory import JobMemory
from edge_agent.core.slots import Misfire
from edge_agent.core.timebase import DurationNs, RawNs, UtcNs
from edge_agent.core.triggers import At, Trigger

Origin: TypeAlias = Literal["file", "runtime", "cloud"]


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
        seen: since when it is looked after, by the counter.
        missed: how many slots were passed over since the start.
        is_failing: whether its last run failed.
        fire: decides about the slots that have come.
    """

    name: str
    job: Job
    origin: Origin
    memory: JobMemory
    trigger: Trigger
    misfire: Misfire
    is_booked: bool
    last: UtcNs
    seen: RawNs
    missed: int = 0
    is_failing: bool = False
    fire: Callable[[], None] = field(init=False)

    @property
    def is_once(self) -> bool:
        """Whether it has but one slot."""
        return isinstance(self.trigger, At)

    @property
    def is_done(self) -> bool:
        """Whether it has but one slot, and that is decided."""
        return isinstance(self.trigger, At) and self.memory.last == self.trigger.instant

    @property
    def rests(self) -> bool:
        """Whether it does not run for now, whatever is due."""
        return self.memory.paused or not self.job.enabled

    def follow(self, old: Entry) -> None:
        """Take up what the job has left as it was before an edit: if that has changed no slot, all goes on."""
        self.missed, self.is_failing = old.missed, old.is_failing
        if self.trigger == old.trigger and old.job.enabled:
            self.last, self.seen = old.last, old.seen
        else:
            self.memory.last = None  # of another schedule

    def move(self, by: DurationNs, *, books: bool) -> None:
        """Take note that the clock was wrong: what it called an instant was another one, later by ``by``.

        A small error is none: who had run a minute ago need not do so again.

        Args:
            by: positive = the clock was slow.
            books: whether they were kept by that clock, too.
        """
        memory = self.memory
        if self.is_done:  # whenever that was
            return
        if self.job.after is not None:
            self._put_later(by)
        elif abs(by) <= self.misfire.tolerance:
            return
        elif books and memory.last is not None:
            memory.last = UtcNs(memory.last + by)
        self.last = UtcNs(self.last + by)

    def _put_later(self, by: DurationNs) -> None:
        memory = self.memory
        assert isinstance(self.trigger, At), "it comes once"
        assert memory.put_at is not None, "it was put"
        memory.put_at = UtcNs(memory.put_at + by)
        memory.last = None if memory.last is None else UtcNs(memory.last + by)
        self.trigger = At(UtcNs(self.trigger.instant + by))
