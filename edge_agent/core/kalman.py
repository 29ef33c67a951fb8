"""The state of the device's oscillator: a Kalman filter of offset, frequency and temperature excursion.

The offset is that of true time against the counter, so its signs are the server's minus the local: the frequency that
the world is told is its negative. The excursion is the part of the frequency that comes back to zero within hours, as
temperature does; without it the slow part would follow every sunny spell and be wrong all night.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, sqrt
from typing import Final

PPM: Final = 1e-6
WANDER: Final = 1e-9**2
"""Variance that the slow frequency gains per second: a random walk of 1 ppb per square root of a second."""

TAU_S: Final = 14_400.0
"""Within such a time a temperature excursion is forgotten."""

SPREAD: Final = 2 * PPM
"""How large excursions are until samples say that they are larger: a crystal indoors, in a case with some sun."""

UNKNOWN_RATE: Final = 500 * PPM
"""How wrong an oscillator may be that was never measured: what NTP takes for the worst (RFC 5905 §11.3)."""


@dataclass(slots=True)
class Oscillator:
    """What is believed of the counter.

    Attributes:
        offset_s: true time minus counter minus a base that is the owner's, in seconds.
        rate: the slow part of the offset's change, seconds per second: positive = the counter runs slow.
        excursion: the part of it that comes and goes with temperature.
        spread: how large excursions are, standard deviation.
        tt: variance of the offset; ``ty``, ``td``: its covariances with rate and excursion; the rest in the same way.
    """

    offset_s: float = 0.0
    rate: float = 0.0
    excursion: float = 0.0
    spread: float = SPREAD
    tt: float = 0.0
    ty: float = 0.0
    td: float = 0.0
    yy: float = UNKNOWN_RATE**2
    yd: float = 0.0
    dd: float = SPREAD**2

    def ahead(self, span_s: float) -> tuple[float, float]:
        """Return the offset, and its change per second, after some seconds without a comparison; or before, if < 0."""
        a = exp(-max(span_s, -TAU_S) / TAU_S)
        return self.offset_s + self.rate * span_s + self.excursion * TAU_S * (1 - a), self.rate + self.excursion * a

    def advance(self, span_s: float) -> None:
        """Let time pass, as a counter that nobody compared."""
        a = exp(-span_s / TAU_S)
        b = TAU_S * (1 - a)
        x = span_s / TAU_S
        spread = self.spread**2
        self.offset_s, _ = self.ahead(span_s)
        self.excursion *= a
        self.tt = self.offset_variance(span_s)
        self.ty += span_s * self.yy + b * self.yd + WANDER * span_s**2 / 2
        self.td = a * (self.td + span_s * self.yd + b * self.dd) + spread * TAU_S * (1 - a) ** 2
        self.yy += WANDER * span_s
        self.yd *= a
        self.dd = a * a * self.dd + spread * (1 - exp(-2 * x))

    def offset_variance(self, span_s: float) -> float:
        """Return the variance that the offset will have after some seconds without a comparison."""
        a = exp(-span_s / TAU_S)
        b = TAU_S * (1 - a)
        return (
            self.tt
            + 2 * span_s * self.ty
            + 2 * b * self.td
            + span_s**2 * self.yy
            + 2 * span_s * b * self.yd
            + b * b * self.dd
            + WANDER * span_s**3 / 3
            + self.spread**2 * TAU_S**2 * max(2 * span_s / TAU_S - 3 + 4 * a - a * a, 0.0)
        )

    def sigma_s(self, span_s: float = 0.0) -> float:
        """Return the standard deviation that the offset will have after some seconds."""
        return sqrt(max(self.offset_variance(span_s), 0.0))

    def observe(self, error_s: float, variance: float, *, limited: bool) -> None:
        """Learn from a comparison.

        Args:
            error_s: what it says minus what was believed.
            variance: of its noise.
            limited: whether one that is too far off to be true counts only as far as is plausible.
        """
        total = self.tt + variance
        trust = min(1.0, 3 * sqrt(total) / abs(error_s)) if limited and error_s else 1.0
        kt, ky, kd = self.tt / total, self.ty / total, self.td / total
        self.offset_s += trust * kt * error_s
        self.rate += trust * ky * error_s
        self.excursion += trust * kd * error_s
        less = trust * (2 - trust) * total
        self.tt -= less * kt * kt
        self.ty -= less * kt * ky
        self.td -= less * kt * kd
        self.yy -= less * ky * ky
        self.yd -= less * ky * kd
        self.dd -= less * kd * kd

    def doubt(self, offset_s: float, rate: float = 0.0) -> None:
        """Believe the offset, and the rate, less by so much."""
        self.tt += offset_s**2
        self.yy += rate**2
