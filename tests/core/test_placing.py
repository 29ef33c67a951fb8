"""Tests of ``core/placing.py``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.placing import MAX_BOOTS, Boot, Past, load
from edge_agent.core.records import GIVEN, TIME_STATES, Priority, Record, pack
from edge_agent.core.timebase import BUILD_EPOCH, DurationNs, UtcNs, seconds

T0 = BUILD_EPOCH + seconds(86_400)


def record(age: int, *, wall: int = 0) -> Record:
    """Return a record of an age, made when the operating system said ``wall``."""
    return Record(pack(Priority.NORMAL, 1), "data/x", b"{}", age, UtcNs(wall))


def placed(past: Past, age: int, *, wall: int = 0) -> tuple[int, int | None, str]:
    """Return what becomes of the time of a record."""
    one = record(age, wall=wall)
    past.correct(one)
    return one.time, one.error_ms, TIME_STATES[one.time_state]


def test_what_was_made_before_the_first_synchronisation_of_its_boot_is_placed_by_what_elapsed() -> None:
    """The counter's rate is taken into account, and what is not known of it is part of the bound."""
    past = Past((), since=1000)
    past.anchor(Boot(1000, 1000 + seconds(600), T0, error_ns=2_000_000, ppm=100, rate_error_ppm=10))
    elapsed = seconds(500)
    assert placed(past, 1000 + seconds(100)) == (T0 - elapsed - elapsed // 10_000, 7, "estimated")


def test_without_any_anchor_nothing_is_placed() -> None:
    """It goes out as it is."""
    assert placed(Past((), since=0), 5, wall=T0) == (T0, None, "unsynced")


def test_a_boot_that_never_knew_the_time_lies_between_its_neighbours() -> None:
    """Before the next boot by what has elapsed, after the last one; the latest possible is taken for it."""
    hour = seconds(3600)
    boots = [Boot(0, hour, T0), Boot(2 * hour)]
    past = Past(boots, since=3 * hour)
    past.anchor(Boot(3 * hour, 3 * hour, T0 + 10 * hour))
    time, error_ms, state = placed(past, 2 * hour + seconds(60))
    drift = (hour - seconds(60)) * 500 // 1_000_000
    assert (time, state) == (T0 + 10 * hour - (hour - seconds(60)) + drift, "estimated")
    assert error_ms is not None
    assert T0 + hour + seconds(50) < time - error_ms * 10**6 < T0 + hour + seconds(60)


def test_the_operating_systems_word_is_taken_where_it_is_possible() -> None:
    """The bound then reaches to the further end."""
    hour = seconds(3600)
    past = Past([Boot(0, hour, T0), Boot(2 * hour)], since=3 * hour)
    past.anchor(Boot(3 * hour, 3 * hour, T0 + 10 * hour))
    said = T0 + 4 * hour
    assert placed(past, 2 * hour, wall=said)[0] == said
    assert placed(past, 2 * hour, wall=T0 - hour)[0] > T0 + 8 * hour


def test_a_time_that_a_program_gave_stays() -> None:
    """As does one that was known when the record was made."""
    past = Past((), since=0)
    past.anchor(Boot(0, 10, T0))
    for state in (1, 2, 3, GIVEN):
        one = record(5, wall=7)
        one.time_state = state
        past.correct(one)
        assert one.time == 7


def test_many_boots_leave_the_newest() -> None:
    """There is room for so many, the present one included."""
    past = Past([Boot(n, n, T0) for n in range(100)], since=100)
    assert [boot.since for boot in past.boots] == list(range(101 - MAX_BOOTS, 101))


@given(st.lists(st.builds(Boot, st.integers(0, 1 << 60), st.none() | st.integers(0, 1 << 60), st.integers(0, 1 << 62))))
def test_what_is_dumped_is_loaded(boots: list[Boot]) -> None:
    """Exactly."""
    boots = sorted({boot.since: boot for boot in boots}.values(), key=lambda boot: boot.since)[-MAX_BOOTS:]
    past = Past(boots[:-1], since=boots[-1].since if boots else 0)
    assert load(past.dump()) == past.boots


@pytest.mark.parametrize("text", [None, 5, b"", "{", "[1]", "[[1,2]]", '[["a",1,2,3,4,5]]', "[[1,2,3.5,4,5,6]]"])
def test_what_is_damaged_is_not_believed(text: object) -> None:
    """None of it."""
    assert load(text) == []


@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 10**7)), min_size=1, max_size=6),
    st.data(),
)
def test_the_truth_is_within_the_bound(spans: list[tuple[int, int, int]], data: st.DataObject) -> None:
    """Whatever is known of which boot: seconds awake, off before that, and where the anchor is."""
    truth, age = T0 + 0, 0
    boots: list[Boot] = []
    starts: list[tuple[int, int, int]] = []
    for awake, off, anchor in spans:
        truth += seconds(off)
        known = anchor % 3 > 0 or len(starts) == len(spans) - 1
        at = seconds(anchor % awake)
        boots.append(Boot(age, age + at if known else None, truth + at if known else 0, rate_error_ppm=0))
        starts.append((age, truth, awake))
        age, truth = age + seconds(awake), truth + seconds(awake)
    start, begun, awake = data.draw(st.sampled_from(starts))
    inside = DurationNs(seconds(data.draw(st.integers(0, awake - 1))))
    past = Past(boots[:-1], since=boots[-1].since)
    past.anchor(boots[-1])
    time, error_ms, _ = placed(past, start + inside)
    assert error_ms is not None
    assert abs(time - (begun + inside)) <= error_ms * 10**6
