"""What becomes of slots: each is run or counted, once, whatever time does."""

from __future__ import annotations

from datetime import UTC
from itertools import pairwise
from typing import Final, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.cron import Cron, translate
from edge_agent.core.slots import COUNTED, Decision, Misfire, decide
from edge_agent.core.timebase import BUILD_EPOCH, DurationNs, UtcNs, seconds
from edge_agent.core.triggers import At, Every, Trigger

Rule = Literal["skip", "run_once", "run_all"]

S: Final = seconds(1)
TEN_YEARS: Final = seconds(3650 * 86_400)
EVERY_TEN: Final = Every(DurationNs(10), DurationNs(3))


def misfire(rule: Rule, *, window: int = 1000, tolerance: int = 2, limit: int = 5) -> Misfire:
    """Return what becomes of missed slots."""
    return Misfire(rule, DurationNs(window), DurationNs(tolerance), limit)


def after(last: int, now: int, rule: Misfire) -> Decision:
    """Decide about slots at 3, 13, 23 and so on."""
    return decide(EVERY_TEN, rule, last=UtcNs(last), now=UtcNs(now))


@pytest.mark.parametrize("rule", ["skip", "run_once", "run_all"])
@pytest.mark.parametrize("now", [13, 14, 15])
def test_a_slot_that_is_a_little_late_runs_by_any_rule(rule: Rule, now: int) -> None:
    """It was not missed, up to the tolerance and with it."""
    assert after(3, now, misfire(rule)) == Decision((UtcNs(13),), 0, UtcNs(13), UtcNs(23))


def test_nothing_is_due_before_its_time() -> None:
    """Not even by the smallest step."""
    assert after(3, 12, misfire("run_all")) == Decision((), 0, UtcNs(3), UtcNs(13))


def test_skip_counts_what_was_missed() -> None:
    """And goes on with the next."""
    assert after(3, 46, misfire("skip")) == Decision((), 4, UtcNs(43), UtcNs(53))
    assert after(3, 45, misfire("skip")) == Decision((UtcNs(43),), 3, UtcNs(43), UtcNs(53))


def test_run_once_runs_the_newest_of_what_was_missed() -> None:
    """Unless it is due anyway, or what was missed is too old."""
    assert after(3, 46, misfire("run_once")) == Decision((UtcNs(43),), 3, UtcNs(43), UtcNs(53))
    assert after(3, 45, misfire("run_once")) == Decision((UtcNs(43),), 3, UtcNs(43), UtcNs(53))
    assert after(3, 49, misfire("run_once", window=5)) == Decision((), 4, UtcNs(43), UtcNs(53))
    assert after(3, 49, misfire("run_once", window=6)).run == (43,)


def test_run_all_runs_everything_within_the_window_in_order() -> None:
    """The newest of it, if it is too much."""
    assert after(3, 46, misfire("run_all")) == Decision(
        (UtcNs(13), UtcNs(23), UtcNs(33), UtcNs(43)), 0, UtcNs(43), UtcNs(53)
    )
    assert after(3, 46, misfire("run_all", window=13)).run == (33, 43)
    assert after(3, 46, misfire("run_all", limit=3)) == Decision(
        (UtcNs(23), UtcNs(33), UtcNs(43)), 1, UtcNs(43), UtcNs(53)
    )
    assert after(3, 45, misfire("run_all", limit=2)).run == (23, 33, 43)
    assert after(3, 46, misfire("run_all", limit=0)) == after(3, 46, misfire("skip"))


def test_what_is_due_once_is_over_afterwards() -> None:
    """Run on time, run late, or missed; there is no next."""
    once = At(UtcNs(10))
    for now, rule, run in ((10, "skip", (10,)), (50, "run_once", (10,)), (50, "skip", ())):
        decision = decide(once, misfire(rule), last=UtcNs(0), now=UtcNs(now))  # type: ignore[arg-type]
        assert decision == Decision(run, 1 - len(run), UtcNs(10), None)  # type: ignore[arg-type]


def test_nothing_is_due_again_after_time_went_backwards() -> None:
    """Until the newest decided slot is passed again."""
    for now in (43, 30, 0):
        assert after(43, now, misfire("run_all")) == Decision((), 0, UtcNs(43), UtcNs(53))


triggers = st.one_of(
    st.builds(Every, st.integers(1, 40).map(lambda n: DurationNs(n * S)), st.integers(0, 60 * S).map(DurationNs)),
    st.builds(
        Cron,
        st.sampled_from(("*/7 * * * * *", "5,6 * * * *", "0 0 3 * * *")).map(translate),
        st.just(UTC),
        st.integers(0, 9 * S).map(DurationNs),
    ),
    st.integers(0, 900 * S).map(lambda n: At(UtcNs(BUILD_EPOCH + n))),
)
misfires = st.builds(
    Misfire,
    st.sampled_from(("skip", "run_once", "run_all")),
    st.integers(0, 900 * S).map(DurationNs),
    st.integers(0, 30 * S).map(DurationNs),
    st.integers(0, 20),
)


def slots(trigger: Trigger, since: int, until: int) -> list[UtcNs]:
    """Return all slots in a span, asked for one after the other."""
    found: list[UtcNs] = []
    while (slot := trigger.after(UtcNs(found[-1] if found else since))) is not None and slot <= until:
        found.append(slot)
    return found


def expected(all_slots: list[UtcNs], rule: Misfire, now: int) -> list[UtcNs]:
    """Return which of some slots run, judged one by one."""
    on_time = [slot for slot in all_slots if now - slot <= rule.tolerance]
    missed = [slot for slot in all_slots if rule.tolerance < now - slot <= rule.window]
    wanted = {"skip": 0, "run_once": int(not on_time), "run_all": rule.limit}[rule.rule]
    return missed[len(missed) - wanted :] + on_time if wanted < len(missed) else missed + on_time


@given(trigger=triggers, rule=misfires, since=st.integers(0, 900 * S), span=st.integers(-100 * S, 900 * S))
def test_every_slot_is_run_or_counted(trigger: Trigger, rule: Misfire, since: int, span: int) -> None:
    """As an oracle that looks at each slot says, and nothing lies between the last and the next."""
    last = UtcNs(BUILD_EPOCH + since)
    now = UtcNs(last + span)
    between = slots(trigger, last, now)
    decision = decide(trigger, rule, last=last, now=now)
    assert list(decision.run) == expected(between, rule, now)
    assert decision.missed == len(between) - len(decision.run)
    assert decision.last == (between[-1] if between else last)
    assert decision.next == trigger.after(UtcNs(max(last, now)))


@given(
    trigger=triggers,
    rule=misfires,
    moves=st.lists(st.integers(-60 * S, 200 * S), min_size=1, max_size=30),
)
def test_no_slot_runs_twice_or_gets_lost_wherever_time_goes(trigger: Trigger, rule: Misfire, moves: list[int]) -> None:
    """Forwards, backwards and over and over: each slot up to the latest instant is run or counted once, in order."""
    now = last = latest = BUILD_EPOCH
    run: list[UtcNs] = []
    missed = 0
    for move in moves:
        now = UtcNs(now + move)
        decision = decide(trigger, rule, last=last, now=now)
        assert all(slot <= now for slot in decision.run), "never early"
        run.extend(decision.run)
        missed += decision.missed
        last, latest = decision.last, max(latest, now)
    assert all(one < other for one, other in pairwise(run))
    assert len(run) + missed == len(slots(trigger, BUILD_EPOCH, latest))


@pytest.mark.parametrize("rule", ["skip", "run_once", "run_all"])
def test_ten_years_of_a_tenth_of_a_second_cost_no_more_than_an_hour(rule: Rule) -> None:
    """All of them are counted, and the decision asks for few."""
    every = Counting(Every(DurationNs(S // 10), DurationNs(7)))
    asked = []
    for absence in (seconds(3600), TEN_YEARS):
        every.asked = 0
        now = UtcNs(BUILD_EPOCH + S // 2)
        decision = decide(every, Misfire(rule, TEN_YEARS, S, 100), last=UtcNs(now - absence), now=now)
        assert decision.missed + len(decision.run) == absence * 10 // S
        asked.append(every.asked)
    assert asked[1] < 2 * asked[0]


class Counting:
    """A trigger that counts how often it is asked."""

    def __init__(self, trigger: Trigger) -> None:
        self.asked = 0
        self._trigger = trigger

    def after(self, instant: UtcNs) -> UtcNs | None:
        """Return the next slot."""
        self.asked += 1
        return self._trigger.after(instant)

    def count(self, since: UtcNs, until: UtcNs, *, enough: int) -> int:
        """Return the number of slots."""
        self.asked += 1
        return self._trigger.count(since, until, enough=enough)


def test_of_a_long_absence_a_cron_expression_counts_only_so_many() -> None:
    """But what runs is the newest all the same."""
    cron = Cron(translate("* * * * * *"), UTC, DurationNs(0))
    now = UtcNs(BUILD_EPOCH + S // 2)
    rule = Misfire("run_all", TEN_YEARS, DurationNs(0), 2)
    decision = decide(cron, rule, last=UtcNs(now - TEN_YEARS), now=now)
    assert decision.run == (BUILD_EPOCH - S, BUILD_EPOCH)
    assert decision.missed == COUNTED
