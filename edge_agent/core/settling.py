"""When a burst of changes has settled: it was quiet for a moment, or it goes on for too long to wait any more."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from edge_agent.core.timebase import NANOSECONDS_PER_MILLISECOND, DurationNs, MonotonicNs, later

QUIET: Final = DurationNs(200 * NANOSECONDS_PER_MILLISECOND)
AT_MOST: Final = DurationNs(1_000 * NANOSECONDS_PER_MILLISECOND)


@dataclass(slots=True)
class Settling:
    """One burst.

    Attributes:
        due: when it has settled, if nothing else changes; ``None`` = nothing has changed yet.
    """

    due: MonotonicNs | None = None
    _latest: MonotonicNs = field(init=False)

    def note(self, now: MonotonicNs) -> None:
        """Take note of a change: ``QUIET`` without another has to follow, at most up to ``AT_MOST`` after the first."""
        if self.due is None:
            self._latest = later(now, AT_MOST)
        self.due = min(later(now, QUIET), self._latest)
