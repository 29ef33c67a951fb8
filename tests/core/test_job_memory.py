"""What is remembered of a job: after a crash exactly what its guarantee promises is owed."""

from __future__ import annotations

import pytest

from edge_agent.core.config_jobs import Job
from edge_agent.core.job_memory import LONG, MAX_OWED, JobMemory, is_remembered, load
from edge_agent.core.timebase import DurationNs, UtcNs, seconds

WRONG = (b'{"version": 1, "last": "x"}', b'{"version": 1, "owed": 5}', b'{"version": 1, "breaker": "open"}')
NINE, TEN = UtcNs(9), UtcNs(10)


def crashed(memory: JobMemory) -> JobMemory:
    """Return what is left after a crash."""
    text = memory.dump()
    return JobMemory() if text is None else load(text)


@pytest.mark.parametrize(("at_least_once", "left"), [(False, [TEN]), (True, [NINE, TEN])])
def test_a_run_that_a_crash_cuts_off_is_owed_or_not_as_promised(at_least_once: bool, left: list[UtcNs]) -> None:  # noqa: FBT001
    """It is known in either case that it had begun."""
    memory = JobMemory()
    memory.decide(TEN, (NINE, TEN))
    assert crashed(memory).owed == [NINE, TEN]
    memory.begin(NINE, at_least_once=at_least_once)
    after = crashed(memory)
    assert (after.begun, after.owed, after.last) == ([NINE], left, TEN)
    memory.end(NINE)
    assert (crashed(memory).begun, crashed(memory).owed) == ([], [TEN])


def test_a_run_that_did_not_begin_after_all_is_owed_again() -> None:
    """In the order of the slots."""
    memory = JobMemory()
    memory.decide(TEN, (NINE, TEN))
    memory.begin(NINE, at_least_once=False)
    memory.put_off(NINE)
    assert (crashed(memory).begun, crashed(memory).owed) == ([], [NINE, TEN])


def test_what_somebody_has_changed_is_remembered() -> None:
    """A pause, a deletion, another job in its place."""
    memory = JobMemory(paused=True, deleted=True, job={"kind": "system", "every": "1m"}, breaker={"failures": 3})
    assert crashed(memory) == memory
    assert JobMemory().dump() is None


def test_what_is_owed_has_a_bound() -> None:
    """The newest are kept, and it is known how many are not."""
    memory = JobMemory()
    assert memory.decide(UtcNs(1000), tuple(map(UtcNs, range(1000)))) == 1000 - MAX_OWED
    assert len(memory.owed) == MAX_OWED
    assert memory.owed[-1] == 999


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"version": 2, "last": 7}', b'{"last": 7}', *WRONG])
def test_what_is_damaged_or_of_another_version_is_nothing(text: bytes) -> None:
    """The job begins anew."""
    assert load(text) == JobMemory()


def test_what_a_newer_version_adds_is_left_out() -> None:
    """Within one version of the form documents only grow."""
    assert load(b'{"version": 1, "last": 7, "mood": "good"}') == JobMemory(last=UtcNs(7))


@pytest.mark.parametrize(
    ("settings", "period", "expected"),
    [
        ({}, seconds(60), False),
        ({}, LONG, True),
        ({}, None, True),
        ({"misfire": "run_once"}, seconds(60), True),
        ({"guarantee": "at_least_once"}, seconds(60), True),
    ],
)
def test_only_what_must_be_is_written_to_flash(
    settings: dict[str, object],
    period: DurationNs | None,
    expected: bool,  # noqa: FBT001
) -> None:
    """A job every minute that skips what it missed costs no write."""
    job = Job.model_validate({"kind": "system", "every": "60s", **settings})
    assert is_remembered(job, period) is expected
