"""Tests of ``core/kalman.py``."""

from __future__ import annotations

import random
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.kalman import PPM, TAU_S, WANDER, Oscillator

POSITIVE = st.floats(1e-9, 1e3)


def covariance(one: Oscillator) -> list[list[float]]:
    """Return the matrix."""
    return [[one.tt, one.ty, one.td], [one.ty, one.yy, one.yd], [one.td, one.yd, one.dd]]


def is_positive(matrix: list[list[float]]) -> bool:
    """Return whether a matrix can be a covariance (Sylvester's criterion, with room for rounding)."""
    (a, b, c), (_, d, e), (_, _, f) = matrix
    two = a * d - b * b
    three = a * (d * f - e * e) - b * (b * f - c * e) + c * (b * e - c * d)
    return min(a, d, f) >= 0 and two >= -1e-9 * a * d and three >= -1e-9 * a * d * f


def test_a_constant_rate_is_learned_to_a_hundredth_of_a_ppm() -> None:
    """From exact samples every minute for six hours, and the offset with it."""
    one = Oscillator(tt=1.0)
    for minute in range(1, 361):
        one.advance(60)
        one.observe(minute * 60 * 123 * PPM - one.offset_s, 1e-12, limited=False)
    assert one.rate + one.excursion == pytest.approx(123 * PPM, abs=0.02 * PPM)
    assert one.offset_s == pytest.approx(360 * 60 * 123 * PPM, abs=1e-5)


def test_an_excursion_is_forgotten_and_the_slow_rate_stays() -> None:
    """After many times its life it is gone, and has moved the offset by its size times its life."""
    one = Oscillator(rate=10 * PPM, excursion=2 * PPM)
    one.advance(20 * TAU_S)
    assert one.excursion == pytest.approx(0, abs=1e-12)
    assert one.offset_s == pytest.approx(20 * TAU_S * 10 * PPM + 2 * PPM * TAU_S, rel=1e-6)


def test_two_short_spans_are_one_long_one() -> None:
    """Of the state and of its uncertainty: it does not matter when somebody looks."""
    one, two = (Oscillator(rate=PPM, excursion=PPM, tt=1e-6, yy=1e-12) for _ in range(2))
    one.advance(5000)
    for _ in range(50):
        two.advance(100)
    assert one.offset_s == pytest.approx(two.offset_s, rel=1e-9)
    assert [x for row in covariance(one) for x in row] == pytest.approx(
        [x for row in covariance(two) for x in row], rel=1e-6
    )


def test_uncertainty_grows_as_a_random_walk_of_the_rate_does() -> None:
    """Against a simulation of many of them."""
    rng = random.Random(5)  # noqa: S311  # reproducible
    one = Oscillator(spread=1e-12, yy=0.0, dd=1e-24)
    ends = []
    for _ in range(2000):
        rate = offset = 0.0
        for _ in range(40):
            offset += rate * 100 + rng.gauss(0, sqrt(WANDER * 100**3 / 12))
            step = rng.gauss(0, sqrt(WANDER * 100))
            rate, offset = rate + step, offset + step * 50
        ends.append(offset)
    simulated = sqrt(sum(end * end for end in ends) / len(ends))
    assert one.sigma_s(4000) == pytest.approx(simulated, rel=0.06)


def test_a_sample_too_far_off_to_be_true_moves_little() -> None:
    """No more than one at the edge of the plausible would."""
    wild, edge = Oscillator(tt=1e-6), Oscillator(tt=1e-6)
    total = 1e-6 + 1e-6
    wild.observe(100.0, 1e-6, limited=True)
    edge.observe(3 * sqrt(total), 1e-6, limited=True)
    assert wild.offset_s == pytest.approx(edge.offset_s)
    assert wild.tt > edge.tt


@given(st.lists(st.tuples(st.floats(0.01, 1e5), st.floats(-1e3, 1e3), POSITIVE, st.booleans()), max_size=40))
def test_the_covariance_stays_one(history: list[tuple[float, float, float, bool]]) -> None:
    """Whatever was observed, and when."""
    one = Oscillator(tt=1.0)
    for span, error, variance, limited in history:
        one.advance(span)
        one.observe(error, variance, limited=limited)
        assert is_positive(covariance(one))
        assert one.sigma_s(100) >= 0
