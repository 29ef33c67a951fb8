"""Tests of ``core/estimate.py``."""

from __future__ import annotations

import pytest

from edge_agent.core.estimate import CONTRADICTIONS, SETTLED, Estimate
from edge_agent.core.kalman import SPREAD
from edge_agent.core.peer import Peer
from edge_agent.core.sample import Sample
from edge_agent.core.saved_clock import SavedClock
from edge_agent.core.timebase import DurationNs, RawNs, UtcNs, seconds

EPOCH = 18 * 10**17


class Bench:
    """An estimate that is fed exact samples of a counter that runs slow by some ppm."""

    def __init__(self, ppm: float = 0.0, saved: SavedClock | None = None, *, same_boot: bool = False) -> None:
        self.estimate, self.peer = Estimate(saved, same_boot=same_boot), Peer("a")
        self.ppm, self.raw, self.ahead = ppm, 10**9, 0

    def feed(self, count: int, every_s: float = 64.0, *, delay_ms: float = 10) -> list[bool]:
        """Feed samples; return which were learned from."""
        taken = []
        for _ in range(count):
            self.raw += seconds(every_s)
            sample = Sample("a", RawNs(self.raw), UtcNs(self.truth(self.raw)), round(delay_ms * 1e6), 1000)
            self.peer.add(sample)
            taken.append(self.estimate.learn(self.peer, sample, leads=True))
        return taken

    def truth(self, raw: int) -> int:
        """Return true time."""
        return EPOCH + raw + round(raw * self.ppm * 1e-6) + self.ahead

    def error_ms(self, later_s: float = 0.0) -> float:
        """Return how far it is off, now or later."""
        raw = self.raw + seconds(later_s)
        return (self.estimate.at(RawNs(raw)) - self.truth(raw)) / 1e6


def test_it_learns_time_at_once_and_the_rate_with_time() -> None:
    """Within a minute an hour later is off by the unknown rate, a day later by hardly anything."""
    bench = Bench(ppm=300)
    knows = [(bench.estimate.exists, bench.estimate.knows_rate)]
    bench.feed(1)
    assert abs(bench.error_ms()) < 0.001
    knows.append((bench.estimate.exists, bench.estimate.knows_rate))
    bench.feed(300)
    knows.append((bench.estimate.exists, bench.estimate.knows_rate))
    assert knows == [(False, False), (True, False), (True, True)]
    assert bench.estimate.rate == pytest.approx(300e-6, abs=0.1e-6)
    assert abs(bench.error_ms(3600)) < 1


def test_the_bound_grows_while_nothing_is_heard() -> None:
    """And covers what the rate's uncertainty may have done."""
    bench = Bench(ppm=100)
    bench.feed(200)
    bounds = [bench.estimate.bound_ns(RawNs(bench.raw + seconds(hours * 3600))) for hours in (0, 1, 12, 240)]
    assert bounds == sorted(bounds)
    assert bounds[3] > abs(bench.error_ms(240 * 3600)) * 1e6


def test_one_sample_that_is_far_off_changes_little_and_many_begin_it_anew() -> None:
    """A step of the truth of a second: after three in a row it is the estimate that was wrong."""
    bench = Bench()
    bench.feed(50)
    bench.ahead = seconds(1)
    bench.feed(1)
    assert abs(bench.error_ms()) > 990
    assert bench.estimate.wants_samples
    bench.feed(CONTRADICTIONS - 1)
    assert bench.estimate.restarts == 1
    assert abs(bench.error_ms()) < 1


def test_what_contradicts_it_is_in_the_bound_at_once() -> None:
    """Before it is believed."""
    bench = Bench()
    bench.feed(50)
    before = bench.estimate.bound_ns(RawNs(bench.raw))
    bench.ahead = seconds(1)
    bench.feed(1)
    assert bench.estimate.bound_ns(RawNs(bench.raw)) - before > seconds(0.98)


def test_until_it_is_settled_nothing_is_too_far_off() -> None:
    """The first samples may be the bad ones."""
    bench = Bench()
    bench.ahead = seconds(5)
    bench.feed(1)
    bench.ahead = 0
    bench.feed(SETTLED - 1, every_s=2)
    assert bench.estimate.restarts == 0


def test_a_sleep_is_doubted_as_much_as_its_clock_deserves() -> None:
    """A second, and 100 ppm of its length."""
    bench = Bench()
    bench.feed(50)
    bench.estimate.slept(DurationNs(seconds(36_000)))
    assert bench.estimate.oscillator.sigma_s() == pytest.approx(4.6, rel=0.01)
    bench.ahead = seconds(-0.9)
    bench.feed(1, every_s=2)
    assert abs(bench.error_ms()) < 1


def test_the_same_boot_goes_on_with_the_time_and_another_one_with_the_rate_alone() -> None:
    """The counter has begun anew there."""
    saved = SavedClock("b", RawNs(10**9), UtcNs(EPOCH + 10**9), 8_000_000, 200e-6, 1e-6)
    again = Bench(ppm=0, saved=saved, same_boot=True).estimate
    assert again.exists
    assert again.at(RawNs(11 * 10**9)) == EPOCH + 11 * 10**9 + 2_000_000
    assert again.oscillator.sigma_s() == pytest.approx(0.002)
    other = Bench(saved=saved).estimate
    assert not other.exists
    assert other.knows_rate
    assert other.rate == 200e-6


def test_a_saved_rate_that_no_oscillator_has_is_not_believed() -> None:
    """A kernel that is emulated may have had it."""
    saved = SavedClock("b", RawNs(10**9), UtcNs(EPOCH), 0, 0.01, 1e-6)
    assert not Estimate(saved, same_boot=False).knows_rate


def test_restlessness_is_learned_and_forgotten() -> None:
    """A counter whose rate jumps about gets a larger spread; a quiet one keeps the smallest."""
    bench = Bench()
    bench.feed(100)
    assert bench.estimate.oscillator.spread == pytest.approx(SPREAD)
    for turn in range(100):
        bench.ahead += seconds((-1) ** turn * 0.002)
        bench.feed(1)
    assert bench.estimate.oscillator.spread > 1.1 * SPREAD
