"""A job that is scheduled: which slots it has, and up to which one it is decided what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from edge_agent.core.config_jobs import Job
from edge_agent.core.job_memory import JobMemory, is_remembered
from edge_agent.core.timebase import DurationNs, RawNs, UtcNs, seconds
from edge_agent.core.triggers import At, Trigger

Origin: TypeAlias = Literal["file", "runtime"]

ON_TIME: Final = seconds(60)
"""A slot that is late by less was not missed; a job more frequent than that runs only its newest."""


@dataclass(slots=True, eq=False)
class Entry:
    """A job that is scheduled.

    Attributes:
        name: the job's.
        job: its configuration.
        origin: who says so.
        memory: what is remembered of it.
        trigger: its slots.
        period: the time between them, about; ``None`` = there is but one.
        last: the newest slot that is decided, in the time that the clock shows now.
        seen: since when it is looked after, by the counter.
        missed: how many slots were passed over since the start.
        is_failing: whether its last run failed.
    """

    name: str
    job: Job
    origin: Origin
    memory: JobMemory
    trigger: Trigger
    period: DurationNs | None
    last: UtcNs
    seen: RawNs
    missed: int = 0
    is_failing: bool = False

    @property
    def is_once(self) -> bool:
        """Whether it has but one slot."""
        return isinstance(self.trigger, At)

    @property
    def is_booked(self) -> bool:
        """Whether its slots are written down."""
        return is_remembered(self.job, self.period)

    @property
    def tolerance(self) -> DurationNs:
        """How late a slot may be without having been missed."""
        return ON_TIME if self.period is None else DurationNs(min(ON_TIME, self.period - 1))

    def succeed(self, old: Entry) -> None:
        """Take the place of the entry of the same job before an edit: if that has changed no slot, all goes on."""
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
        if isinstance(self.trigger, At) and memory.last == self.trigger.instant:  # that is done, whenever it was
            return
        if self.job.after is not None and isinstance(self.trigger, At) and memory.put_at is not None:
            if memory.last is not None:  # it counts from an instant that was known
                return
            memory.put_at = UtcNs(memory.put_at + by)
            self.trigger = At(UtcNs(self.trigger.instant + by))
        elif abs(by) <= self.tolerance:
            return
        elif books and memory.last is not None:
            memory.last = UtcNs(memory.last + by)
        self.last = UtcNs(self.last + by)
