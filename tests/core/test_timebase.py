"""Instants, durations, and their forms."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.timebase import (
    DurationNs,
    MonotonicNs,
    UtcNs,
    elapsed,
    later,
    milliseconds,
    next_on_grid,
    rfc3339,
    seconds,
    to_seconds,
)


@given(st.integers(0, 253_402_300_799_999_999_999))
def test_a_utc_instant_reads_back_to_the_microsecond(instant: int) -> None:
    """RFC 3339 with six decimals and Z, for all of the years 1970 to 9999, rounded down."""
    text = rfc3339(UtcNs(instant))
    moment = datetime.fromisoformat(text)
    assert text.endswith("Z")
    assert len(text) == len("2026-12-01T00:00:00.000000Z")
    assert round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) == round(instant // 1000 / 1e6)
    assert moment.microsecond == instant // 1000 % 1_000_000


def test_the_epoch_reads_as_people_know_it() -> None:
    """Nanosecond 0 is the first of January 1970."""
    assert rfc3339(UtcNs(0)) == "1970-01-01T00:00:00.000000Z"


@given(start=st.integers(0, 10**18), length=st.integers(-(10**18), 10**18))
def test_later_and_elapsed_are_inverse(start: int, length: int) -> None:
    """What was added is what has elapsed."""
    instant = MonotonicNs(start)
    assert elapsed(instant, later(instant, seconds(0))) == 0
    assert elapsed(instant, MonotonicNs(start + length)) == length


def test_seconds_convert_both_ways() -> None:
    """Down to the nanosecond."""
    assert seconds(1.5) == 1_500_000_000
    assert to_seconds(seconds(0.000_000_001)) == 1e-9


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


def test_milliseconds_are_shown_to_the_microsecond() -> None:
    """And what is not known is not shown."""
    assert [milliseconds(ns) for ns in (1_234_567, -500, 0, None)] == [1.235, -0.001, 0, None]
