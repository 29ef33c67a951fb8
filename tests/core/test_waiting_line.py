"""Who waits for a place."""

from __future__ import annotations

from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.waiting_line import URGENCIES, Urgency, WaitingLine

LIMIT: Final = 3


def line(*items: tuple[int, Urgency]) -> WaitingLine[int]:
    """Return a line in which these wait, in this order."""
    waiting = WaitingLine[int]()
    for item, urgency in items:
        assert waiting.join(item, urgency, limit=LIMIT) is None
    return waiting


def test_the_most_urgent_goes_first_and_then_the_oldest() -> None:
    """Until nobody is left."""
    waiting = line((1, "bulk"), (2, "normal"), (3, "normal"))
    assert [waiting.take() for _ in range(3)] == [2, 3, 1]
    assert not waiting


def test_the_least_urgent_newest_goes_when_it_is_full() -> None:
    """It may be the one that comes."""
    waiting = line((1, "bulk"), (2, "bulk"), (3, "normal"))
    assert waiting.join(4, "critical", limit=LIMIT) == 2
    assert waiting.join(5, "bulk", limit=LIMIT) == 5
    assert len(waiting) == LIMIT


def test_a_line_without_places_refuses_everybody() -> None:
    """``max_waiting = 0`` is allowed."""
    assert WaitingLine[int]().join(1, "critical", limit=0) == 1


def test_who_leaves_is_gone_and_may_be_gone_already() -> None:
    """Whoever ends a run need not know whether it waits."""
    waiting = line((1, "bulk"), (2, "bulk"))
    waiting.leave(1, "bulk")
    waiting.leave(1, "bulk")
    assert len(waiting) == 1
    assert waiting.take() == 2


@given(steps=st.lists(st.one_of(st.none(), st.sampled_from(URGENCIES)), max_size=60), limit=st.integers(0, 5))
def test_it_behaves_as_a_sorted_list_cut_at_its_limit(steps: list[Urgency | None], limit: int) -> None:
    """Against the plain words: sort by rank, then by age; what is beyond the limit goes."""
    waiting, model = WaitingLine[int](), list[tuple[int, int]]()
    for number, urgency in enumerate(steps):
        if urgency is None:
            assert not model or waiting.take() == model.pop(0)[1]
        else:
            model = sorted([*model, (URGENCIES.index(urgency), number)])
            refused = model.pop()[1] if len(model) > limit else None
            assert waiting.join(number, urgency, limit=limit) == refused
        assert len(waiting) == len(model)
