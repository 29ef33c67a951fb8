"""What is remembered of runs."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

import pytest

from edge_agent.core.runs import KEPT, MAX_REASON, MAX_RESULT, History, Outcome, Run, Status, one_line, summary
from edge_agent.core.timebase import UtcNs

NOW: Final = UtcNs(1_800_000_000_000_000_000)
SUCCESSES: Final[list[Status]] = ["succeeded"] * (KEPT + 3)


def history(*statuses: Status, job: str = "sync") -> History:
    """Return the history of a job whose runs ended so."""
    past = History()
    for number, status in enumerate(statuses):
        past.note(Run(job, UtcNs(NOW + number), f"{number:032x}"), Outcome(status, None, NOW))
    return past


def test_only_the_last_runs_of_a_job_are_kept() -> None:
    """The oldest go first; they stay counted."""
    past = history(*SUCCESSES).jobs["sync"]
    assert [run.slot - NOW for run, _ in past.last] == list(range(3, len(SUCCESSES)))
    assert past.counts == {"succeeded": len(SUCCESSES)}


@pytest.mark.parametrize(
    ("statuses", "streak"),
    [
        ([], 0),
        (["succeeded", "succeeded"], 2),
        (["succeeded", "failed", "timed_out"], -2),
        (["failed", "failed", "succeeded"], 1),
        (["failed", "skipped", "cancelled", "interrupted", "failed"], -2),
    ],
)
def test_a_streak_is_of_successes_or_of_failures(statuses: list[Status], streak: int) -> None:
    """What never ran to its end neither adds to it nor breaks it."""
    assert history("skipped", *statuses).jobs["sync"].streak == streak


def test_runs_are_counted_by_job_and_in_all() -> None:
    """The sum does not shrink when a job is forgotten."""
    past = history("succeeded", "failed")
    past.note(Run("other", NOW, "0" * 32), Outcome("failed", None, NOW))
    assert past.jobs["other"].counts == {"failed": 1}
    del past.jobs["other"]
    assert past.counts == {"succeeded": 1, "failed": 2}


def test_a_small_result_is_kept_as_it_is() -> None:
    """It is a summary already."""
    assert summary({"files": 3}) == {"files": 3}


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({"text": "x" * MAX_RESULT}, f"{MAX_RESULT + 11} bytes; {MAX_RESULT} are kept"),
        (["a list"], "no JSON object but list"),
        ({"what": object()}, "no JSON: "),
        ({1: "a key that is no text"}, "no JSON: "),
        (MappingProxyType({}), "no JSON: "),
    ],
)
def test_a_result_that_cannot_be_kept_says_why(result: object, words: str) -> None:
    """It is a job's word, and may be anything."""
    assert summary(result)["omitted"].startswith(words)


def test_a_reason_is_one_line_of_bounded_length() -> None:
    """Whatever an error carries with it."""
    assert one_line("\n no such file \n at line 3") == "no such file"
    assert len(one_line("x" * 10_000)) == MAX_REASON
    assert one_line("") == ""
