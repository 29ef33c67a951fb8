"""What is remembered of a job across restarts: which slots were decided and are owed, and what was changed meanwhile.

A slot is decided when its instant has passed: then it is owed, or was skipped. With ``at_most_once`` it is owed until
the run begins, with ``at_least_once`` until it has ended. So after a crash exactly what the guarantee promises is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

import orjson
from pydantic import TypeAdapter

from edge_agent.core.config_jobs import Job
from edge_agent.core.timebase import NANOSECONDS_PER_SECOND, DurationNs, UtcNs

VERSION: Final = 1
MAX_OWED: Final = 100
LONG: Final = DurationNs(3600 * NANOSECONDS_PER_SECOND)
"""Jobs that run as seldom as that are remembered in any case: a restart must not lose a run for an hour."""


@dataclass(slots=True)
class JobMemory:
    """What is remembered of one job.

    Attributes:
        last: the newest slot that was decided; ``None`` = none was.
        owed: slots whose run is still to come, the oldest first.
        begun: slots whose run has begun and not ended.
        put_at: when the job was first seen: ``after`` counts from there.
        paused: whether somebody has paused it.
        deleted: whether somebody has deleted it: what the files say of it does not count.
        job: what somebody has put in its place, as a document; ``None`` = what the files say counts.
        breaker: the state of its breaker, as a document.
    """

    last: UtcNs | None = None
    owed: list[UtcNs] = field(default_factory=list)
    begun: list[UtcNs] = field(default_factory=list)
    put_at: UtcNs | None = None
    paused: bool = False
    deleted: bool = False
    job: Mapping[str, Any] | None = None
    breaker: Mapping[str, Any] | None = None

    def take_up(self, other: JobMemory) -> None:
        """Remember what another one does, and nothing else."""
        for one in fields(self):
            setattr(self, one.name, getattr(other, one.name))

    def dump(self) -> bytes | None:
        """Return it as JSON; ``None`` = there is nothing to remember."""
        changed = {key: value for key, value in asdict(self).items() if value not in (None, False, [])}
        return orjson.dumps({"version": VERSION, **changed}) if changed else None

    def decide(self, last: UtcNs, owed: tuple[UtcNs, ...]) -> int:
        """Take note of slots that were decided; return how many that were owed before have to give way."""
        self.last = last
        self.owed += owed
        excess = max(0, len(self.owed) - MAX_OWED)
        del self.owed[:excess]
        return excess

    def begin(self, slot: UtcNs, *, at_least_once: bool) -> None:
        """Take note that a run begins; on the disk before it does."""
        self.begun.append(slot)
        if not at_least_once and slot in self.owed:
            self.owed.remove(slot)

    def end(self, slot: UtcNs, *, again: bool = False) -> None:
        """Take note that a run has ended; with ``again`` before its time, so that it may be owed all the same."""
        if slot in self.begun:
            self.begun.remove(slot)
        if slot in self.owed and not again:
            self.owed.remove(slot)

    def put_off(self, slot: UtcNs) -> None:
        """Take note that a run that waited for its place is owed all the same."""
        self.end(slot)
        self.owed = sorted([*self.owed, slot])


_FORM: Final = TypeAdapter(JobMemory)


def load(text: bytes) -> JobMemory:
    """Return what ``dump`` returned; nothing of it if it is damaged or of another version."""
    try:
        found = orjson.loads(text)
        return _FORM.validate_python(found) if found["version"] == VERSION else JobMemory()
    except (ValueError, TypeError, LookupError):
        return JobMemory()


def is_remembered(job: Job, period: DurationNs | None) -> bool:
    """Return whether the slots of a job are written down; of others only what somebody has changed is.

    Args:
        job: the job.
        period: the time between its slots, about; ``None`` = there is but one.
    """
    return period is None or period >= LONG or job.misfire != "skip" or job.guarantee == "at_least_once"
