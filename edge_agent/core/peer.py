"""One source of time: what its delays say of its samples, and how it stands with the others."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from math import sqrt
from typing import Final, NotRequired

from typing_extensions import TypedDict

from edge_agent.core.sample import Sample
from edge_agent.core.timebase import NANOSECONDS_PER_SECOND, RawNs

PHI: Final = 15e-6
"""How fast the error of a sample grows with its age (RFC 5905 §7.1)."""

DELAYS: Final = 512
HOURS: Final = 24
HOUR_NS: Final = 3600 * NANOSECONDS_PER_SECOND
RECENT: Final = 8
GATE_AFTER: Final = 16
_GATE_FLOOR_S: Final = 0.2e-3
_NOISE_FLOOR_S: Final = 30e-6


class SourceFace(TypedDict):
    """What is shown of a source.

    Attributes:
        name: the source.
        standing: one stable word: why it is used or not.
        used: whether it is.
        reach: whether it answered the last eight times, the newest in the lowest bit.
        offset_ms: the agent's time minus the source's, at its last sample.
        delay_ms: that sample's round trip.
        root_ms: the bound of the source's own error.
        age_s: how old that sample is.
        address: of the server, if it was resolved.
        next_s: after so long it is asked again.
        poll_s: how often it is asked.
    """

    name: str
    standing: str
    used: bool
    reach: int
    offset_ms: float | None
    delay_ms: float | None
    root_ms: float | None
    age_s: float | None
    address: NotRequired[str | None]
    next_s: NotRequired[float]
    poll_s: NotRequired[float]


class Peer:
    """A source and its standing.

    Attributes:
        name: the source.
        asked: how often it was.
        reach: whether it answered the last eight times, the newest in the lowest bit (RFC 5905 §13).
        recent: its last samples.
        standing: one stable word: why it is used or not.
        samples: how many of them were ever taken.
    """

    def __init__(self, name: str, *, delay_min_ns: int | None = None) -> None:
        """Start without any sample, perhaps with what its shortest delay was."""
        self.name = name
        self.asked = 0
        self.reach = 0
        self.recent: deque[Sample] = deque(maxlen=RECENT)
        self.standing = "new"
        self.samples = 0
        self._order: deque[float] = deque()
        self._delays: list[float] = []
        self._minima: dict[int, int] = {} if delay_min_ns is None else {-1: delay_min_ns}

    @property
    def delay_min_ns(self) -> int | None:
        """The shortest delay within a day; ``None`` = there was none."""
        return min(self._minima.values(), default=None)

    @property
    def is_voting(self) -> bool:
        """Whether it has answered lately, or may be expected to soon: not after a Kiss-o'-Death."""
        return self.reach != 0 or (self.asked < 3 and not self.standing.startswith("kiss_"))

    def missed(self, why: str) -> None:
        """Take note that it did not answer, or not so that it could be believed."""
        self.asked += 1
        self.reach = self.reach << 1 & 0xFF
        self.standing = why
        if not self.reach:
            self.recent.clear()

    def add(self, sample: Sample) -> None:
        """Take note of a sample, whatever becomes of it."""
        self.asked += 1
        self.samples += 1
        self.reach = (self.reach << 1 | 1) & 0xFF
        self.recent.append(sample)
        hour = sample.raw // HOUR_NS
        self._minima[hour] = min(self._minima.get(hour, sample.delay_ns), sample.delay_ns)
        while len(self._minima) > HOURS:
            del self._minima[next(iter(self._minima))]
        delay = sample.delay_ns / NANOSECONDS_PER_SECOND
        self._order.append(delay)
        insort(self._delays, delay)
        if len(self._order) > DELAYS:
            del self._delays[bisect_left(self._delays, self._order.popleft())]

    def best(self, raw: RawNs) -> Sample:
        """Return the recent sample that says most about an instant."""
        return min(self.recent, key=lambda sample: sample.delay_ns / 2 + PHI * (raw - sample.raw))

    def excess_s(self, sample: Sample) -> float:
        """Return by how much a sample's delay exceeds the shortest, in seconds."""
        assert self.delay_min_ns is not None, "the sample was added"
        return (sample.delay_ns - self.delay_min_ns) / NANOSECONDS_PER_SECOND

    def noise_s(self, sample: Sample) -> float:
        """Return the standard deviation of a sample's offset, in seconds."""
        if not sample.delay_ns:  # the host's own discipline: there is no way to it, and its error is all that it says
            return sample.max_error_ns / 4 / NANOSECONDS_PER_SECOND
        quarter, middle = self._spread_s()
        young = max(0.0, 1 - self.samples / 16)
        shortest = sample.delay_ns / NANOSECONDS_PER_SECOND - self.excess_s(sample)
        base = _NOISE_FLOOR_S + 0.5 * quarter + young * (0.05 * shortest + 0.5 * middle)
        noise = base + 0.6 * self.excess_s(sample)
        if self.samples <= 3:
            noise = sqrt(noise**2 + (sample.delay_ns / NANOSECONDS_PER_SECOND / 4) ** 2)
        return noise

    def is_gated(self, sample: Sample, sigma_s: float) -> bool:
        """Return whether a sample took too long to tell anything.

        A route that has become longer for good ends that: the uncertainty grows until its samples are worth taking.
        """
        quarter, middle = self._spread_s()
        excess, limit = self.excess_s(sample), max(_GATE_FLOOR_S, min(middle, 3 * quarter))
        return self.samples > GATE_AFTER and excess > limit and 0.25 * excess > sigma_s

    def bound_ns(self) -> int:
        """Return what its path, as it is now, and its own error may hide, if it is honest."""
        return min(sample.delay_ns for sample in self.recent) // 2 + self.recent[-1].root_ns

    def _spread_s(self) -> tuple[float, float]:
        """Return by how much the delays of a quarter and of a half of the samples exceed the shortest, at least."""
        assert self.delay_min_ns is not None, "the sample was added"
        shortest = self.delay_min_ns / NANOSECONDS_PER_SECOND
        count = len(self._delays)
        return max(self._delays[count // 4] - shortest, 0.0), max(self._delays[count // 2] - shortest, 0.0)
