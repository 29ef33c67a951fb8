"""The time that the agent lives by: it runs after the estimate of true time without ever jumping or standing still.

It is a function of the counter: a straight line whose slope takes away the error, and from the instant at which it is
gone one without. Small errors are taken away slowly, large ones faster, those beyond a minute not at all: whether to
step is somebody else's decision.
"""

from __future__ import annotations

from typing import Final

from edge_agent.core.timebase import NANOSECONDS_PER_MILLISECOND, RawNs, UtcNs

_TIERS: Final = ((20 * NANOSECONDS_PER_MILLISECOND, 500, 60), (200 * NANOSECONDS_PER_MILLISECOND, 5_000, 10))
"""Up to which error (ns) it is slewed by how much at most (ppm), to be gone within how long (s) if that suffices."""

_LARGE_WITHIN_S: Final = 10
_SHIFT: Final = 44


class TrueClock:
    """A piecewise linear clock.

    Attributes:
        slew_max_ppm: how much faster or slower than the estimate it may run.
    """

    def __init__(self, raw: RawNs, utc: UtcNs, *, slew_max_ppm: int) -> None:
        """Start at an instant, free of error and at the counter's own rate."""
        self.slew_max_ppm = slew_max_ppm
        self._raw, self._utc, self._rate = raw, utc, 0
        self._until, self._after = raw, 0

    def at(self, raw: RawNs) -> UtcNs:
        """Return what it shows at a reading of the counter."""
        span = raw - self._raw
        if raw <= self._until:
            return UtcNs(self._utc + span + (span * self._rate >> _SHIFT))
        slewed = self._until - self._raw
        return UtcNs(self._utc + span + (slewed * self._rate >> _SHIFT) + ((span - slewed) * self._after >> _SHIFT))

    @property
    def pace(self) -> float:
        """How much faster than the counter it runs since it was steered last, seconds per second."""
        return self._rate / (1 << _SHIFT)

    def steer(self, raw: RawNs, *, error_ns: int, rate: float) -> None:
        """From now on take away an error, and run at a rate.

        Args:
            raw: now.
            error_ns: true time minus what it shows, as far as that is known.
            rate: of true time against the counter, minus one.
        """
        self._utc = self.at(raw)
        self._raw = raw
        most, within_s = next(
            ((cap, time) for limit, cap, time in _TIERS if abs(error_ns) <= limit), (self.slew_max_ppm, _LARGE_WITHIN_S)
        )
        most = min(most, self.slew_max_ppm)
        slew = max(-most, min(most, error_ns / within_s / 1000)) / 1e6
        duration = abs(error_ns / slew) if slew else 0
        self._rate = round((rate + slew) * (1 << _SHIFT))
        self._until = RawNs(raw + min(round(duration), 1 << 62))
        self._after = round(rate * (1 << _SHIFT))

    def step(self, raw: RawNs, utc: UtcNs) -> None:
        """Show another time from now on."""
        self._raw, self._utc, self._until = raw, utc, raw
        self._rate = self._after
