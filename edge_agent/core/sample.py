"""What one comparison with a source of time says; the host's own discipline is one, if it is worth a vote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edge_agent.core.timebase import NANOSECONDS_PER_MILLISECOND, RawNs, UtcNs, WallNs

TIME_ERROR: Final = 5
STA_UNSYNC: Final = 0x40
MAX_ERROR_US: Final = 100_000
"""The kernel adds 500 us a second while nobody corrects its clock; its flag comes hours after that."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One comparison of a source's time with the device's counter.

    Attributes:
        source: whose time it is.
        raw: the middle of the exchange on the counter, (T1 + T4) / 2 (RFC 5905 §8).
        utc: the source's time at that moment, (T2 + T3) / 2.
        delay_ns: round trip without the time in the server, (T4 - T1) - (T3 - T2).
        root_ns: bound of the source's own error: root delay / 2 + root dispersion + precision (RFC 5905 §11.2).
    """

    source: str
    raw: RawNs
    utc: UtcNs
    delay_ns: int
    root_ns: int

    @property
    def max_error_ns(self) -> int:
        """Bound of the error of ``utc`` if the source is honest."""
        return self.delay_ns // 2 + self.root_ns


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
