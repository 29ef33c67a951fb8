"""Instants and durations as distinct integer-nanosecond types, and the only conversions between units.

Instants of five kinds, so that mixing them is a type error. A *monotonic* instant is what the loop waits for. A *boot*
instant is what the kernel's timers ring for: it goes on in suspend. A *raw* instant is a reading of the counter that
nobody disciplines and that goes on in suspend, too: true time is a function of it. These three mean nothing on another
device or after a reboot. A *UTC* instant is true time, as well as it is known. A *wall* instant is what the operating
system takes for UTC; it may be wrong and may step. A *duration* is the distance between two instants of one kind;
durations are never computed from wall instants.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, NewType

MonotonicNs = NewType("MonotonicNs", int)
"""An instant of CLOCK_MONOTONIC, in nanoseconds: its rate follows the host's discipline, and it stops in suspend."""

BootNs = NewType("BootNs", int)
"""An instant of CLOCK_BOOTTIME, in nanoseconds: its rate follows the host's discipline, and it goes on in suspend."""

RawNs = NewType("RawNs", int)
"""An instant of CLOCK_MONOTONIC_RAW + (CLOCK_BOOTTIME - CLOCK_MONOTONIC), in nanoseconds."""

UtcNs = NewType("UtcNs", int)
"""An instant of UTC, in nanoseconds since 1970-01-01T00:00:00Z."""

WallNs = NewType("WallNs", int)
"""An instant of CLOCK_REALTIME, in nanoseconds since what it takes for 1970-01-01T00:00:00Z."""

DurationNs = NewType("DurationNs", int)
"""A length of time, in nanoseconds."""

BUILD_EPOCH: Final = UtcNs(1_793_491_200_000_000_000)
"""2026-11-01: it is later than this. Moved with each release, as a clock that is before it is known to be wrong."""

NANOSECONDS_PER_SECOND: Final = 1_000_000_000
NANOSECONDS_PER_MILLISECOND: Final = 1_000_000

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def seconds(value: float) -> DurationNs:
    """Return a duration of ``value`` seconds."""
    return DurationNs(round(value * NANOSECONDS_PER_SECOND))


def to_seconds(duration: DurationNs) -> float:
    """Return a duration in seconds."""
    return duration / NANOSECONDS_PER_SECOND


def milliseconds(duration_ns: int | None) -> float | None:
    """Return a duration as it is shown: in milliseconds, to the microsecond; ``None`` where it is not known."""
    return None if duration_ns is None else round(duration_ns / NANOSECONDS_PER_MILLISECOND, 3)


def later(instant: MonotonicNs, duration: DurationNs) -> MonotonicNs:
    """Return the instant that lies ``duration`` after ``instant``."""
    return MonotonicNs(instant + duration)


def elapsed(since: MonotonicNs, until: MonotonicNs) -> DurationNs:
    """Return the duration from ``since`` to ``until``; negative when ``until`` is the earlier."""
    return DurationNs(until - since)


def next_on_grid(start: MonotonicNs, period: DurationNs, now: MonotonicNs) -> MonotonicNs:
    """Return the first instant ``start + k * period`` (k a whole number) that lies after ``now``.

    A late wake-up thus shortens the next wait instead of shifting all that follow, and after a long stall the missed
    instants are skipped, not made up for in a burst.
    """
    assert period > 0, "a period is positive"
    return MonotonicNs(start + ((now - start) // period + 1) * period)


def utc_from_datetime(moment: datetime) -> UtcNs:
    """Return an aware ``datetime`` as an instant, exactly."""
    return UtcNs((moment - _EPOCH) // timedelta(microseconds=1) * 1000)


def rfc3339(instant: UtcNs) -> str:
    """Return a UTC instant as RFC 3339 with microseconds and ``Z``, the form of every time on the wire."""
    second, rest = divmod(instant, NANOSECONDS_PER_SECOND)
    return f"{_second(second)}.{str(rest // 1000).zfill(6)}Z"  # a format of the number takes six times as long


@lru_cache(maxsize=4)  # who says the time says it more than once a second
def _second(since_1970: int) -> str:
    return (_EPOCH + timedelta(seconds=since_1970)).isoformat()[:19]
