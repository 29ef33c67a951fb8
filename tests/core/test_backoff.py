"""Waits between tries."""

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.backoff import full_jitter
from edge_agent.core.timebase import seconds


@given(
    attempt=st.integers(0, 10**6),
    base=st.integers(1, 10**10),
    cap=st.integers(1, 10**13),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_it_stays_within_its_bounds_for_a_device_offline_for_years(
    attempt: int, base: int, cap: int, draw: float
) -> None:
    """However often it was tried, the wait is at least nothing and less than the cap."""
    wait = full_jitter(attempt, base=seconds(base / 1e9), cap=seconds(cap / 1e9), uniform=lambda: draw)
    assert 0 <= wait <= cap


def test_it_doubles_until_the_cap() -> None:
    """The bound of the draw is base, 2 base, 4 base, … cap."""
    bounds = [
        full_jitter(attempt, base=seconds(1), cap=seconds(5), uniform=lambda: 1 - 1e-15) / seconds(1)
        for attempt in range(5)
    ]
    assert [round(bound, 6) for bound in bounds] == [1, 2, 4, 5, 5]


def test_it_uses_the_whole_interval() -> None:
    """Full jitter: a draw of 0 means at once."""
    assert full_jitter(3, base=seconds(1), cap=seconds(60), uniform=lambda: 0.0) == 0
