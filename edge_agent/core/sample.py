"""What one exchange with a source of time says."""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.core.timebase import RawNs, UtcNs


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
