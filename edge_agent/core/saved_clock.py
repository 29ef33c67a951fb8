"""What is known of the clock and survives a restart, as a small document that damage or a newer version makes void."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from edge_agent.core.timebase import RawNs, UtcNs

VERSION: Final = 1
MAX_SOURCES: Final = 17
_MAX_NS: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class SavedClock:
    """What is known of the clock.

    Attributes:
        boot: the kernel's boot id under which ``raw`` means something.
        raw: a reading of the counter; ``utc`` is true time then, ``error_ns`` the bound of its error.
        rate: how much faster true time runs than the counter: seconds per second, minus one.
        rate_sigma: the standard deviation of that.
        delays_ns: the shortest delay of each source.
        slept_ns: how long the device had slept in this boot.
    """

    boot: str
    raw: RawNs
    utc: UtcNs
    error_ns: int
    rate: float
    rate_sigma: float
    delays_ns: Mapping[str, int] = field(default_factory=dict)
    slept_ns: int = 0

    def document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {"version": VERSION, **asdict(self)}


def read(document: object) -> SavedClock | None:
    """Return what a document says; ``None`` if it is damaged or of another version."""
    match document:
        case {
            "version": 1,
            "boot": str(boot),
            "raw": int(raw),
            "utc": int(utc),
            "error_ns": int(error),
            "rate": float() | 0 as rate,
            "rate_sigma": float() | 0 as sigma,
            "delays_ns": dict(delays),
            "slept_ns": int(slept),
        } if (
            max(abs(raw), abs(utc), error, slept) < _MAX_NS
            and min(raw, error, slept) >= 0
            and abs(rate) <= 0.1
            and 0 <= sigma <= 0.1
        ):
            known = {name: ns for name, ns in delays.items() if isinstance(name, str) and type(ns) is int and ns >= 0}
            if len(known) == len(delays) <= MAX_SOURCES:
                return SavedClock(boot, RawNs(raw), UtcNs(utc), error, float(rate), float(sigma), known, slept)
    return None
