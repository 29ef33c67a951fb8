"""When a burst of changes has settled."""

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.settling import AT_MOST, QUIET, Settling
from edge_agent.core.timebase import MonotonicNs, later, seconds

START = MonotonicNs(seconds(1000))


def test_nothing_settles_that_has_not_begun() -> None:
    """Without a change there is nothing to wait for."""
    assert Settling().due is None


def test_one_change_settles_when_it_was_quiet_for_200_ms() -> None:
    """An editor that needs less is seen once, when it is done."""
    burst = Settling()
    burst.note(START)
    assert burst.due == later(START, seconds(0.2))


def test_a_change_without_end_is_told_after_1_s() -> None:
    """Whoever writes all the time keeps nobody waiting for longer."""
    burst = Settling()
    for tenth in range(100):
        burst.note(later(START, seconds(tenth / 10)))
    assert burst.due == later(START, seconds(1))


@given(gaps=st.lists(st.integers(0, 2 * QUIET), max_size=30))
def test_it_is_due_after_the_quiet_but_never_later_than_the_bound(gaps: list[int]) -> None:
    """Whatever the changes are, and whether anybody looks in time or not."""
    burst = Settling()
    instants = [MonotonicNs(START + gap) for gap in accumulate(gaps, initial=0)]
    for now in instants:
        burst.note(now)
    assert burst.due == min(instants[-1] + QUIET, instants[0] + AT_MOST)
