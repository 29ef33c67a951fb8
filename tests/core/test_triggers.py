"""When a job is due, by each way to say it."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.config_jobs import Job
from edge_agent.core.timebase import BUILD_EPOCH, DurationNs, UtcNs, rfc3339, seconds
from edge_agent.core.triggers import At, Every, Trigger, own_part, trigger

LOCAL = timezone(timedelta(hours=2))
PUT_AT = UtcNs(BUILD_EPOCH + 7)

instants = st.integers(0, 2**62).map(UtcNs)
spans = st.integers(0, 10**16).map(DurationNs)


def of(job: dict[str, Any], *, device: str = "gw-1", zone: str = "UTC") -> Trigger:
    """Return the trigger of a job on a device in a zone."""
    model = Job.model_validate({"kind": "system"} | job)
    return trigger(model, device=device, name="job", timezone=zone, local=LOCAL, put_at=PUT_AT)


@given(period=spans.map(lambda span: DurationNs(span + 1)), phase=spans, instant=instants)
def test_an_interval_is_due_on_its_grid(period: DurationNs, phase: DurationNs, instant: UtcNs) -> None:
    """The first instant of the grid that is later: no more than a period away."""
    due = Every(period, phase).after(instant)
    assert (due - phase) % period == 0
    assert instant < due <= instant + period


@given(
    period=st.integers(1, 1000).map(DurationNs),
    phase=st.integers(0, 2000).map(DurationNs),
    since=st.integers(0, 10_000).map(UtcNs),
    span=st.integers(-100, 3000),
)
def test_the_slots_of_an_interval_are_counted_as_they_come(
    period: DurationNs, phase: DurationNs, since: UtcNs, span: int
) -> None:
    """By arithmetic as by asking for one after the other, and none backwards."""
    every, until = Every(period, phase), UtcNs(since + span)
    count, slot = 0, every.after(since)
    while slot <= until:
        count, slot = count + 1, every.after(slot)
    assert every.count(since, until, enough=0) == count


def test_once_is_due_once() -> None:
    """Before it, and not at it or later; counted in the span that holds it."""
    once = At(UtcNs(10))
    assert [once.after(UtcNs(instant)) for instant in (9, 10, 11)] == [10, None, None]
    spans_and_counts = {(9, 10): 1, (10, 20): 0, (0, 9): 0, (20, 0): 0}
    assert {span: once.count(UtcNs(span[0]), UtcNs(span[1]), enough=1) for span in spans_and_counts} == spans_and_counts


@given(device=st.text(max_size=9), name=st.text(max_size=9), within=spans)
def test_a_device_s_own_part_lies_within(device: str, name: str, within: DurationNs) -> None:
    """From zero on, and below the end."""
    assert 0 <= own_part(device, name, within) < max(within, 1)


def test_a_device_s_own_part_is_the_same_in_every_process() -> None:
    """It does not hang on the seed of Python's own hashes."""
    code = "from edge_agent.core.triggers import own_part; print(own_part('gw-1', 'job', 10**12))"
    parts = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert parts == {f"{own_part('gw-1', 'job', DurationNs(10**12))}\n"}


def test_a_fleet_is_spread_evenly() -> None:
    """Of a thousand devices about a tenth falls into each tenth of the splay; job and device count apart."""
    parts = [own_part(f"gw-{number}", "job", DurationNs(10)) for number in range(1000)]
    assert all(60 < parts.count(DurationNs(tenth)) < 140 for tenth in range(10))
    within = seconds(3600)
    assert len({own_part(*names, within) for names in (("a", "bc"), ("ab", "c"), ("b", "ac"), ("a", "b"))}) == 4


def test_the_phase_of_an_interval_is_within_the_splay() -> None:
    """Which is the whole period unless another is given; without one all devices are due at once."""
    assert len({phase(number, {"every": "1h"}) for number in range(50)}) == 50
    some = {phase(number, {"every": "1h", "splay": "10s"}) for number in range(50)}
    assert len(some) == 50
    assert max(some) < seconds(10)
    assert phase(1, {"every": "1h", "splay": "0s"}) == 0


def phase(number: int, job: dict[str, Any]) -> int:
    """Return how long after the full hour a device's job is due."""
    due = of(job, device=f"gw-{number}").after(BUILD_EPOCH)
    assert due is not None
    return due % seconds(3600)


def test_the_phase_of_an_interval_survives_what_does_not_touch_it() -> None:
    """A job with another timeout is due when it always was."""
    assert of({"every": "1h"}) == of({"every": "1h", "timeout": "1m", "misfire": "run_once"})


@pytest.mark.parametrize(
    ("job", "due"),
    [
        ({"cron": "0 3 * * *"}, "2026-11-01T03:00:00.000000Z"),
        ({"cron": "0 3 * * *", "timezone": "Asia/Kolkata"}, "2026-11-01T21:30:00.000000Z"),
        ({"cron": "0 3 * * *", "timezone": "local"}, "2026-11-01T01:00:00.000000Z"),
        ({"cron": "@daily"}, "2026-11-02T00:00:00.000000Z"),
        ({"at": "2026-12-01T00:00:00Z"}, "2026-12-01T00:00:00.000000Z"),
        ({"after": "30s"}, "2026-11-01T00:00:30.000000Z"),
        ({"after": "0s"}, "2026-11-01T00:00:00.000000Z"),
    ],
)
def test_each_way_to_say_when_is_understood(job: dict[str, str], due: str) -> None:
    """Without a splay exactly then."""
    first = of(job).after(BUILD_EPOCH)
    assert first is not None
    assert rfc3339(first) == due


def test_the_device_s_zone_counts_for_jobs_that_name_none() -> None:
    """It may be the local one, too."""
    daily = {"cron": "0 3 * * *"}
    assert of(daily, zone="local") == of(daily | {"timezone": "local"})
    assert of(daily | {"timezone": "UTC"}, zone="local") == of(daily)


@pytest.mark.parametrize("when", [{"cron": "0 3 * * *"}, {"at": "2026-12-01T00:00:00Z"}, {"after": "30s"}])
def test_a_splay_shifts_what_is_due_at_a_time(when: dict[str, str]) -> None:
    """By less than the splay, and by another part of it on another device."""
    before = UtcNs(PUT_AT - 1)
    exact = of(when).after(before)
    assert exact is not None
    shifted = {of(when | {"splay": "10s"}, device=f"gw-{number}").after(before) for number in range(20)}
    assert len(shifted) == 20
    assert all(due is not None and 0 <= due - exact < seconds(10) for due in shifted)
