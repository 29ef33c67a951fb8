"""Tests of ``core/true_clock.py``."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.timebase import RawNs, UtcNs, seconds
from edge_agent.core.true_clock import TrueClock

START = UtcNs(10**18)


def clock(*, slew_max_ppm: int = 50_000) -> TrueClock:
    """Return one that starts with the counter at zero."""
    return TrueClock(RawNs(0), START, slew_max_ppm=slew_max_ppm)


def after(one: TrueClock, wait_s: float) -> float:
    """Return how far it is ahead of the counter after some seconds, in milliseconds."""
    raw = RawNs(seconds(wait_s))
    return (one.at(raw) - START - raw) / 1e6


@pytest.mark.parametrize(
    ("error_ms", "gone_after_s", "ppm"),
    [(10, 60, 167), (-10, 60, -167), (20, 60, 333), (100, 20, 5000), (-200, 40, -5000), (1000, 20, 50_000)],
)
def test_an_error_is_taken_away_and_no_more_than_that(error_ms: float, gone_after_s: float, ppm: float) -> None:
    """The larger, the faster; once it is gone the clock runs at the plain rate."""
    one = clock()
    one.steer(RawNs(0), error_ns=round(error_ms * 1e6), rate=0.0)
    assert after(one, 1) * 1000 == pytest.approx(ppm, rel=0.01)
    assert abs(after(one, gone_after_s * 0.9)) < abs(error_ms)
    for late in (1.01, 3, 100, 10_000):
        assert after(one, gone_after_s * late) == pytest.approx(error_ms, abs=1e-4)


def test_a_rate_is_followed_for_days_to_the_microsecond() -> None:
    """It is the estimate's."""
    one = clock()
    one.steer(RawNs(0), error_ns=0, rate=-300e-6)
    assert after(one, 864_000) == pytest.approx(-300e-6 * 864_000 * 1e3, abs=1e-3)


def test_the_configured_limit_is_the_fastest() -> None:
    """Also for small errors."""
    one = clock(slew_max_ppm=500)
    one.steer(RawNs(0), error_ns=seconds(10), rate=0.0)
    assert after(one, 100) == pytest.approx(50, abs=0.01)


def test_a_step_is_a_step() -> None:
    """Forward or back, at an instant, and the rate stays."""
    one = clock()
    one.steer(RawNs(0), error_ns=0, rate=1e-3)
    one.step(RawNs(seconds(1)), UtcNs(START + seconds(100)))
    assert one.at(RawNs(seconds(2))) == pytest.approx(START + seconds(101.001), abs=10)


@given(
    st.lists(
        st.tuples(st.integers(1, 10**13), st.integers(-60 * 10**9, 60 * 10**9), st.floats(-500e-6, 500e-6)),
        min_size=1,
        max_size=20,
    )
)
def test_it_never_stands_still_and_never_races(history: list[tuple[int, int, float]]) -> None:
    """Whatever it is told to run after: 0.949 to 1.051 of the counter."""
    one, raw = clock(), 0
    looks = [(RawNs(0), one.at(RawNs(0)))]
    for span, error, rate in history:
        one.steer(RawNs(raw), error_ns=error, rate=rate)
        looks += [(RawNs(raw + part), one.at(RawNs(raw + part))) for part in (span // 1000, span // 3, span)]
        raw += span
    for (earlier, was), (later, shows) in pairwise(sorted(set(looks))):
        assert (later - earlier) * 0.949 - 2 <= shows - was <= (later - earlier) * 1.051 + 2
        if later - earlier > 2:
            assert shows > was
