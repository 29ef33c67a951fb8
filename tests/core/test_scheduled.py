"""A job that is scheduled: what an edit, and a clock that was wrong, make of what is decided."""

from __future__ import annotations

import pytest

from edge_agent.core.config_jobs import Job
from edge_agent.core.job_memory import JobMemory
from edge_agent.core.scheduled import ON_TIME, Entry
from edge_agent.core.timebase import DurationNs, RawNs, UtcNs, seconds
from edge_agent.core.triggers import At, Every, Trigger

NOON = UtcNs(seconds(43_200))
HOUR = seconds(3600)


def entry(trigger: Trigger, memory: JobMemory | None = None, /, **when: object) -> Entry:
    """Return a job all of whose slots until noon are decided."""
    job = Job.model_validate({"kind": "test", **when})
    period = trigger.period if isinstance(trigger, Every) else None
    return Entry("one", job, "file", memory or JobMemory(), trigger, period, NOON, RawNs(7))


def hourly(memory: JobMemory | None = None) -> Entry:
    """Return a job each hour."""
    return entry(Every(HOUR, DurationNs(0)), memory, every="1h")


def test_a_slot_is_late_after_a_minute_or_when_the_next_one_has_come() -> None:
    """A frequent job runs only its newest."""
    often = entry(Every(seconds(5), DurationNs(0)), every="5s")
    assert (hourly().tolerance, often.tolerance) == (ON_TIME, seconds(5) - 1)
    assert (hourly().is_booked, often.is_booked) == (True, False)


@pytest.mark.parametrize(
    ("before", "period", "kept"), [({}, HOUR, True), ({}, HOUR // 2, False), ({"enabled": False}, HOUR, False)]
)
def test_an_edit_that_changes_no_slot_leaves_them_decided(before: dict[str, object], period: int, kept: bool) -> None:  # noqa: FBT001
    """Of another schedule nothing is decided, and what came while the job was disabled is not missed."""
    every = Every(HOUR, DurationNs(0))
    old, new = (
        entry(every, every="1h", **before),
        entry(Every(DurationNs(period), DurationNs(0)), JobMemory(last=NOON), every="1h"),
    )
    old.missed, old.is_failing = 3, True
    new.last, new.seen = UtcNs(NOON + 1), RawNs(8)
    new.succeed(old)
    assert (new.missed, new.is_failing) == (3, True)
    assert (new.last, new.seen, new.memory.last) == ((NOON, 7, NOON) if kept else (NOON + 1, 8, None))


@pytest.mark.parametrize("by", [HOUR, -HOUR])
@pytest.mark.parametrize("books", [False, True])
def test_what_was_decided_by_a_wrong_clock_was_decided_at_another_instant(by: DurationNs, books: bool) -> None:  # noqa: FBT001
    """So it is in the books if they were kept by it, too."""
    one = hourly(JobMemory(last=NOON))
    one.move(by, books=books)
    assert (one.last, one.memory.last) == (NOON + by, NOON + by if books else NOON)


@pytest.mark.parametrize("by", [ON_TIME, -ON_TIME])
def test_a_small_error_of_the_clock_changes_nothing(by: int) -> None:
    """Who had run a minute ago need not do so again."""
    one = hourly(JobMemory(last=NOON))
    one.move(DurationNs(by), books=True)
    assert (one.last, one.memory.last) == (NOON, NOON)


def test_what_counts_from_when_it_was_put_moves_with_the_clock_until_that_is_known() -> None:
    """Exactly."""
    put = UtcNs(NOON - HOUR)
    for last, moved in ((None, 5), (UtcNs(NOON - HOUR - 1), 0), (NOON, 0)):
        one = entry(At(NOON), JobMemory(put_at=put, last=last), after="1h")
        one.move(DurationNs(5), books=True)
        assert (one.memory.put_at, one.trigger, one.last) == (put + moved, At(UtcNs(NOON + moved)), NOON + moved)


def test_what_has_run_once_does_not_run_again_because_the_clock_was_wrong() -> None:
    """However wrong."""
    one = entry(At(NOON), JobMemory(last=NOON), at="1970-01-01T12:00:00Z")
    one.move(DurationNs(-100 * HOUR), books=True)
    assert (one.last, one.memory.last) == (NOON, NOON)
