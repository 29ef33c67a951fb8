"""A job that is scheduled, and what an edit leaves of how it stood."""

from __future__ import annotations

import pytest

from edge_agent.core.config_jobs import Job
from edge_agent.core.job_entry import Entry
from edge_agent.core.job_memory import JobMemory
from edge_agent.core.slots import Misfire
from edge_agent.core.timebase import RawNs, UtcNs, seconds
from edge_agent.core.triggers import At, Every, Trigger

MINUTELY = Every(seconds(60), seconds(0))


def entry(trigger: Trigger = MINUTELY, *, last: int = 0, seen: int = 0, **settings: object) -> Entry:
    """Return one of which something was remembered."""
    job = Job.model_validate({"kind": "system", "every": "1m", **settings})
    memory = JobMemory(last=UtcNs(7))
    return Entry(
        "a",
        job,
        "file",
        memory,
        trigger,
        is_booked=True,
        misfire=Misfire("skip", seconds(60), seconds(59), 9),
        last=UtcNs(last),
        seen=RawNs(seen),
    )


def test_an_edit_keeps_what_is_known_of_a_job() -> None:
    """How it went, and when it was put."""
    old, new = entry(seen=5), entry(timeout="3s")
    old.missed, old.is_failing = 3, True
    new.follow(old)
    assert (new.missed, new.is_failing, new.seen) == (3, True, 5)


@pytest.mark.parametrize(
    ("old", "last", "remembered"),
    [
        (entry(last=9), 9, 7),
        (entry(Every(seconds(30), seconds(0)), last=9), 100, None),
        (entry(last=9, enabled=False), 100, None),
    ],
)
def test_the_slots_go_on_where_they_were_unless_they_are_others(old: Entry, last: int, remembered: int | None) -> None:
    """What passed while it was switched off is past."""
    new = entry(last=100)
    new.follow(old)
    assert (new.last, new.memory.last) == (last, remembered)


def test_a_job_rests_while_it_pauses_or_is_switched_off() -> None:
    """And one with an instant has but one slot."""
    paused = entry()
    paused.memory.paused = True
    assert [one.rests for one in (entry(), paused, entry(enabled=False))] == [False, True, True]
    assert (entry().is_once, entry(At(UtcNs(5))).is_once) == (False, True)
