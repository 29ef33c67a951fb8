"""What is believed of the counter, learned from the samples of sources that are believed.

Offsets and rates are those of RFC 5905: true time minus the counter. What the world is told has the other sign.
"""

from __future__ import annotations

from math import sqrt
from typing import Final

from edge_agent.core.kalman import PPM, SPREAD, UNKNOWN_RATE, Oscillator
from edge_agent.core.peer import PHI, Peer
from edge_agent.core.sample import Sample
from edge_agent.core.saved_clock import SavedClock
from edge_agent.core.selection import Interval
from edge_agent.core.timebase import NANOSECONDS_PER_SECOND, DurationNs, RawNs, UtcNs

CONTRADICTIONS: Final = 3
"""So many samples in a row that contradict the estimate have it begun anew."""

SETTLED: Final = 8
"""Until so many samples were taken, none is too far off to be true."""

SOON_S: Final = 64.0
SURE_S: Final = 0.01
"""What a minute may add to the uncertainty of an estimate that needs no more than the usual samples."""

_UNKNOWN_S: Final = 1e9  # how wrong a clock may be that was never compared with another: a generation
_SLACK_S: Final = 0.003
_RATE_KNOWN: Final = 50 * PPM
_FAR: Final = 6.0
_DRIFT: Final = 5 * PPM


class Estimate:
    """True time as a function of the counter.

    Attributes:
        oscillator: offset, rate and excursion, and how uncertain they are.
        accepted: the counter at the last sample that was learned from.
        restarts: how often samples have proved it wrong.
    """

    def __init__(self, saved: SavedClock | None, *, same_boot: bool) -> None:
        """Start, perhaps with what was saved: in another boot only the rate holds."""
        self.oscillator = Oscillator(tt=_UNKNOWN_S**2)
        self.accepted = self._raw = RawNs(0)
        self.restarts = 0
        self._base: int | None = None
        self._fed = self._far = 0
        self._far_side = False
        self._strain, self._tension_s = 1.0, 0.0
        self._is_new = False
        if saved is not None and abs(saved.rate) <= UNKNOWN_RATE:
            sigma = min(sqrt(saved.rate_sigma**2 + (0.0 if same_boot else 2 * PPM) ** 2), UNKNOWN_RATE)
            self.oscillator.rate, self.oscillator.yy = saved.rate, sigma**2
        if saved is not None and same_boot:
            self._base, self._raw, self.accepted = saved.utc - saved.raw, saved.raw, saved.raw
            self.oscillator.tt = (saved.error_ns / 4 / NANOSECONDS_PER_SECOND) ** 2

    # -- in

    def learn(self, peer: Peer, sample: Sample, *, leads: bool) -> bool:
        """Learn from a sample; return ``False`` if it took too long to tell anything.

        Args:
            peer: its source, which knows of it already.
            sample: the sample.
            leads: whether its source is the one by which the oscillator's restlessness is judged.
        """
        oscillator, measured = self.oscillator, self.offset_s(sample)
        variance = peer.noise_s(sample) ** 2
        if not self.exists:
            oscillator.offset_s, oscillator.tt, self._raw = measured, variance, sample.raw
        span_s = (sample.raw - self._raw) / NANOSECONDS_PER_SECOND
        if span_s > 0:
            oscillator.advance(span_s)
            self._raw, span_s = sample.raw, 0.0
        error = measured - oscillator.offset_s - self.rate * span_s
        total = oscillator.tt + variance
        if self._is_broken(error, total, sample):
            self.restarts += 1
            self._is_new = True
            oscillator.doubt(error, UNKNOWN_RATE)
        elif peer.is_gated(sample, oscillator.sigma_s()):
            return False
        if leads and self._fed >= SETTLED:
            self._adapt(error * error / total, oscillator.tt / total)
        oscillator.observe(error, variance, limited=self._fed >= SETTLED)
        self._fed += 1
        self.accepted = RawNs(max(self.accepted, sample.raw))
        return True

    def slept(self, duration: DurationNs) -> None:
        """Take note of a sleep: how long it was is known only as well as the device's real-time clock is."""
        self.oscillator.doubt(1.0 + 100 * PPM * duration / NANOSECONDS_PER_SECOND)

    def _is_broken(self, error: float, total: float, sample: Sample) -> bool:
        """Return whether samples have contradicted the estimate for so long that it must be the one that is wrong.

        Either by what noise can hardly do, or by more than their whole delay can hide.
        """
        beyond_s = abs(error) - sample.max_error_ns / NANOSECONDS_PER_SECOND
        self._tension_s = max(beyond_s, 0.0)
        proven = beyond_s > 4 * sqrt(self.oscillator.tt)
        unlikely = error * error > _FAR**2 * total and beyond_s > 0
        far = self._fed >= SETTLED and (proven or unlikely)
        self._far = self._far + 1 if far and (error > 0) == self._far_side else int(far)
        self._far_side = error > 0
        if self._far < CONTRADICTIONS:
            return False
        self._far, self._tension_s = 0, 0.0
        return True

    def _adapt(self, strain: float, share: float) -> None:
        """Believe in larger excursions while samples contradict the estimate more than their noise."""
        self._strain += 0.05 * (min(strain, 9.0) - self._strain)
        growth = 1 + 0.05 * share if self._strain > 1.5 else 0.995
        self.oscillator.spread = max(SPREAD, self.oscillator.spread * growth)

    # -- out

    @property
    def exists(self) -> bool:
        """Whether anything is known of true time."""
        return self.accepted > 0

    @property
    def wants_samples(self) -> bool:
        """Whether more samples soon would help: the last ones contradict it, or it was begun anew not long ago."""
        self._is_new = self._is_new and self.oscillator.sigma_s(SOON_S) > SURE_S
        return self._far > 0 or self._is_new

    @property
    def rate(self) -> float:
        """How much faster than the counter true time ran at the last sample, seconds per second minus one."""
        return self.oscillator.rate + self.oscillator.excursion

    @property
    def rate_sigma(self) -> float:
        """The standard deviation of that."""
        return sqrt(self.oscillator.yy + self.oscillator.dd)

    @property
    def knows_rate(self) -> bool:
        """Whether the rate was measured at all."""
        return self.oscillator.yy < _RATE_KNOWN**2

    def offset_s(self, sample: Sample) -> float:
        """Return true time minus counter minus base, as a sample says; the first sample is the base."""
        if self._base is None:
            self._base = sample.utc - sample.raw
        return (sample.utc - sample.raw - self._base) / NANOSECONDS_PER_SECOND

    def interval(self, sample: Sample, raw: RawNs) -> Interval:
        """Return between which offsets the truth lies at an instant, according to a sample, if its source is honest."""
        age_s = (raw - sample.raw) / NANOSECONDS_PER_SECOND
        middle = self.offset_s(sample) + (self.rate if self.knows_rate else 0.0) * age_s
        width = sample.max_error_ns / NANOSECONDS_PER_SECOND + _SLACK_S
        width += (PHI if self.knows_rate else UNKNOWN_RATE) * abs(age_s)
        return middle - width, middle + width

    def at(self, raw: RawNs) -> UtcNs:
        """Return true time at a reading of the counter."""
        assert self._base is not None, "there was a sample"
        offset_s, _ = self.oscillator.ahead((raw - self._raw) / NANOSECONDS_PER_SECOND)
        return UtcNs(self._base + raw + round(offset_s * NANOSECONDS_PER_SECOND))

    def rate_at(self, raw: RawNs) -> float:
        """Return how much faster than the counter true time runs by then, seconds per second minus one."""
        return self.oscillator.ahead((raw - self._raw) / NANOSECONDS_PER_SECOND)[1]

    def bound_ns(self, raw: RawNs) -> int:
        """Return the bound of its error at a reading of the counter, without what the sources' paths may hide."""
        span_s = max((raw - self._raw) / NANOSECONDS_PER_SECOND, 0.0)
        age_s = max((raw - self.accepted) / NANOSECONDS_PER_SECOND, 0.0)
        bound_s = self._tension_s + 4 * self.oscillator.sigma_s(span_s) + _DRIFT * age_s
        return round(bound_s * NANOSECONDS_PER_SECOND)
