"""The grid of a periodic thing."""

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.schedule import next_on_grid
from edge_agent.core.timebase import DurationNs, MonotonicNs

instants = st.integers(0, 10**18).map(MonotonicNs)


@given(start=instants, period=st.integers(1, 10**14).map(DurationNs), now=instants)
def test_the_next_instant_is_the_first_on_the_grid_after_now(
    start: MonotonicNs, period: DurationNs, now: MonotonicNs
) -> None:
    """It lies on the grid, after now, and no more than a period away: late wake-ups neither shift nor bunch it."""
    due = next_on_grid(start, period, now)
    assert (due - start) % period == 0
    assert now < due <= now + period


def test_waking_late_shortens_the_next_wait() -> None:
    """Woken 3 late on a grid of 10, the next one is 7 away."""
    assert next_on_grid(MonotonicNs(0), DurationNs(10), MonotonicNs(13)) == 20


def test_instants_missed_in_a_stall_are_skipped() -> None:
    """After a stall over several periods there is one next instant, not a burst."""
    assert next_on_grid(MonotonicNs(0), DurationNs(10), MonotonicNs(57)) == 60
