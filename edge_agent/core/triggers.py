"""When a job is due: which instants, as a function of true time and of nothing that changes while the agent runs.

Each device of a fleet is due at another part of the splay. That part is a hash of the names of device and job, so that
it is the same after every restart, and on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import tzinfo
from hashlib import blake2b
from typing import Protocol

from typing_extensions import override

from edge_agent.core.config_jobs import Job
from edge_agent.core.cron import Cron, translate, zone_named
from edge_agent.core.timebase import DurationNs, UtcNs


class Trigger(Protocol):
    """The instants at which something is due; they are its slots."""

    def after(self, instant: UtcNs) -> UtcNs | None:
        """Return the first slot that is later; ``None`` = there is none."""
        ...

    def count(self, since: UtcNs, until: UtcNs, *, enough: int) -> int:
        """Return how many slots are later than ``since`` and not later than ``until``.

        Beyond ``enough`` it need not be exact.
        """
        ...


@dataclass(frozen=True, slots=True)
class Every(Trigger):
    """Due at ``k * period + phase`` since 1970-01-01T00:00:00Z, for every whole ``k``."""

    period: DurationNs
    phase: DurationNs

    @override
    def after(self, instant: UtcNs) -> UtcNs:
        return UtcNs(instant + self.period - (instant - self.phase) % self.period)

    @override
    def count(self, since: UtcNs, until: UtcNs, *, enough: int) -> int:
        return max((until - self.phase) // self.period - (since - self.phase) // self.period, 0)


@dataclass(frozen=True, slots=True)
class At(Trigger):
    """Due once."""

    instant: UtcNs

    @override
    def after(self, instant: UtcNs) -> UtcNs | None:
        return self.instant if self.instant > instant else None

    @override
    def count(self, since: UtcNs, until: UtcNs, *, enough: int) -> int:
        return int(since < self.instant <= until)


def own_part(device: str, name: str, within: DurationNs) -> DurationNs:
    """Return a device's own part of a span, at least 0 and less than ``within`` (0 of 0), always the same.

    It spreads over a fleet what all devices would do at one instant: their slots, and what they catch up with after
    they came back.
    """
    digest = blake2b(f"{device}\0{name}".encode(), digest_size=8).digest()
    return DurationNs(int.from_bytes(digest) * within >> 64)


def trigger(job: Job, *, device: str, name: str, timezone: str, local: tzinfo, put_at: UtcNs) -> Trigger:
    """Return when a job is due.

    Args:
        job: what the configuration says.
        device: the device's id.
        name: the job's.
        timezone: of jobs that name none.
        local: what the zone ``local`` means on this device.
        put_at: when it was put. What counts from there is not due again once that slot is decided, so that the first
            decision of such a job starts before ``put_at``.

    Raises:
        ValueError: this system does not know the time zone.
    """
    if job.every is not None:
        return Every(job.every, own_part(device, name, job.every if job.splay is None else job.splay))
    shift = own_part(device, name, job.splay or DurationNs(0))
    if job.cron is not None:
        zone = job.timezone or timezone
        return Cron(translate(job.cron), local if zone == "local" else zone_named(zone), shift)
    start = job.at if job.at is not None else put_at + (job.after or 0)
    return At(UtcNs(start + shift))
