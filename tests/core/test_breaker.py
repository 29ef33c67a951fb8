"""When a failing job is left alone."""

from __future__ import annotations

import json
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.breaker import Breaker
from edge_agent.core.config_jobs import Breaker as Limits
from edge_agent.core.runs import FAILURES, Status
from edge_agent.core.timebase import UtcNs, seconds

LIMITS: Final = Limits.model_validate({"failures": 3, "cooldown": "1m"})
START: Final = UtcNs(seconds(1_800_000_000))
STATUSES: Final[tuple[Status, ...]] = ("succeeded", "failed", "timed_out", "cancelled", "interrupted", "skipped")


def after(s: float) -> UtcNs:
    """Return an instant so many seconds after the start."""
    return UtcNs(START + seconds(s))


def opened() -> Breaker:
    """Return a breaker that opened at the start."""
    breaker = Breaker()
    for _ in range(LIMITS.failures):
        breaker.ended(LIMITS, "failed", START)
    return breaker


@pytest.mark.parametrize("status", sorted(FAILURES))
def test_it_opens_after_so_many_failures_in_a_row(status: Status) -> None:
    """One fewer does not open it; a run that timed out failed."""
    breaker = Breaker()
    for _ in range(LIMITS.failures - 1):
        breaker.ended(LIMITS, status, START)
    assert breaker.advise(LIMITS, START, fallback=True) == "run"
    breaker.ended(LIMITS, status, START)
    assert breaker.state(LIMITS, START) == "open"


def test_a_success_starts_the_count_again() -> None:
    """Failures with a success between them are not in a row."""
    breaker = Breaker()
    for status in ("failed", "failed", "succeeded", "failed", "failed"):
        breaker.ended(LIMITS, status, START)
    assert breaker.state(LIMITS, START) == "closed"


def test_while_it_is_open_the_fallback_runs_or_nothing() -> None:
    """To the last nanosecond of the cooldown."""
    last = UtcNs(after(60) - 1)
    assert opened().advise(LIMITS, last, fallback=True) == "fallback"
    assert opened().advise(LIMITS, last, fallback=False) == "skip"


def test_after_the_cooldown_one_run_decides() -> None:
    """Until it ended, the next ones are treated as before."""
    breaker = opened()
    assert breaker.advise(LIMITS, after(60), fallback=False) == "run"
    assert breaker.advise(LIMITS, after(61), fallback=False) == "skip"
    assert breaker.advise(LIMITS, after(61), fallback=True) == "fallback"


def test_a_trial_that_succeeds_closes_it() -> None:
    """And the count begins at nothing."""
    breaker = opened()
    breaker.advise(LIMITS, after(60), fallback=False)
    breaker.ended(LIMITS, "succeeded", after(61))
    assert breaker == Breaker()


def test_a_trial_that_fails_opens_it_for_another_cooldown() -> None:
    """Counted from the trial's end."""
    breaker = opened()
    breaker.advise(LIMITS, after(60), fallback=False)
    breaker.ended(LIMITS, "failed", after(70))
    assert breaker.state(LIMITS, after(129)) == "open"
    assert breaker.state(LIMITS, after(130)) == "half_open"


@pytest.mark.parametrize("status", ["cancelled", "interrupted", "skipped"])
def test_a_trial_without_a_result_is_made_again(status: Status) -> None:
    """Nothing was learned, so nothing but the trial's end changes."""
    breaker = opened()
    breaker.advise(LIMITS, after(60), fallback=False)
    breaker.ended(LIMITS, status, after(61))
    assert breaker.advise(LIMITS, after(62), fallback=False) == "run"


def test_a_clock_that_was_set_back_does_not_prolong_the_cooldown() -> None:
    """Before the instant at which it opened nobody knows how long ago that was: a trial tells."""
    assert opened().advise(LIMITS, after(-1), fallback=False) == "run"


def test_it_survives_a_restart_and_makes_a_lost_trial_again() -> None:
    """The document goes through JSON; who was on trial when the process died is forgotten."""
    breaker = opened()
    breaker.advise(LIMITS, after(60), fallback=False)
    again = Breaker.read(json.loads(json.dumps(breaker.document())))
    assert again.state(LIMITS, after(59)) == "open"
    assert again.advise(LIMITS, after(61), fallback=False) == "run"


@pytest.mark.parametrize(
    "document",
    [None, [], "open", {}, {"failures": -1}, {"failures": "3"}, {"failures": True}, {"failures": 3, "opened": "now"}],
)
def test_a_document_that_cannot_be_understood_is_a_closed_breaker(document: object) -> None:
    """A job runs once too often rather than never."""
    assert Breaker.read(document) == Breaker()


@given(steps=st.lists(st.tuples(st.sampled_from(STATUSES), st.integers(0, 100)), max_size=50))
def test_it_never_stays_open_longer_than_the_cooldown_nor_closes_without_a_success(
    steps: list[tuple[Status, int]],
) -> None:
    """Whatever happens: an open breaker lets a run through after the cooldown, and only a success closes it."""
    breaker, now_s = Breaker(), 0
    for status, pause_s in steps:
        now_s += pause_s
        was_open = breaker.opened is not None
        if breaker.advise(LIMITS, after(now_s), fallback=False) == "run":
            breaker.ended(LIMITS, status, after(now_s))
            assert (was_open and breaker.opened is None) == (was_open and status == "succeeded")
        else:
            assert was_open
            assert breaker.state(LIMITS, after(now_s + 60)) == "half_open"
