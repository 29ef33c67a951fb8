"""When a periodic thing is due: on a grid from its start, never counted from when the last one finished."""

from __future__ import annotations

from edge_agent.core.timebase import DurationNs, MonotonicNs


def next_on_grid(start: MonotonicNs, period: DurationNs, now: MonotonicNs) -> MonotonicNs:
    """Return the first instant ``start + k * period`` (k a whole number) that lies after ``now``.

    A late wake-up thus shortens the next wait instead of shifting all that follow, and after a long stall the missed
    instants are skipped, not made up for in a burst.
    """
    assert period > 0, "a period is positive"
    return MonotonicNs(start + ((now - start) // period + 1) * period)
