"""Whether the host's own clock discipline is worth a vote."""

from __future__ import annotations

from typing import Final

from edge_agent.core.sample import Sample
from edge_agent.core.timebase import NANOSECONDS_PER_MILLISECOND, RawNs, UtcNs, WallNs

TIME_ERROR: Final = 5
STA_UNSYNC: Final = 0x40
MAX_ERROR_US: Final = 100_000
"""The kernel adds 500 us a second while nobody corrects its clock; its flag comes hours after that."""


def host_vote(source: str, discipline: tuple[int, int, int] | None, at: tuple[RawNs, WallNs]) -> Sample | None:
    """Return the operating system's clock as a sample; ``None`` if nobody keeps it right.

    Args:
        source: what to call it.
        discipline: what adjtimex(2) has returned, its flags, and the bound of the clock's error in microseconds.
        at: the counter and the operating system's clock at the same instant.
    """
    state, status, max_error_us = discipline or (TIME_ERROR, 0, 0)
    if state == TIME_ERROR or status & STA_UNSYNC or not 0 <= max_error_us < MAX_ERROR_US:
        return None
    return Sample(source, at[0], UtcNs(at[1]), 0, max_error_us * 1000 + NANOSECONDS_PER_MILLISECOND)
