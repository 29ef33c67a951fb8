"""What a broker's answers mean, and which record is to blame for a connection that ends."""

from __future__ import annotations

import pytest

from edge_agent.core.refusals import STRIKES, Answer, Isolation, Pauses, answer
from edge_agent.core.timebase import MonotonicNs, later, seconds


@pytest.mark.parametrize(
    ("reason", "what"),
    [
        (0x00, Answer.DELIVERED),
        (0x10, Answer.DELIVERED),
        (0x80, Answer.LATER),
        (0x83, Answer.LATER),
        (0x87, Answer.HOLD),
        (0x90, Answer.DEAD),
        (0x95, Answer.DEAD),
        (0x97, Answer.LATER),
        (0x99, Answer.DEAD),
    ],
)
def test_every_reason_code_of_a_puback_has_a_meaning(reason: int, what: Answer) -> None:
    """MQTT 5 §3.4.2.1."""
    assert answer(reason) is what


def at(value_s: float) -> MonotonicNs:
    """Return an instant."""
    return later(MonotonicNs(1), seconds(value_s))


def test_a_pause_ends_with_another_try() -> None:
    """What was in flight when it began changes nothing; the next one is twice as long."""
    pauses = Pauses(uniform=lambda: 1.0)
    assert pauses.refused("a", at(0))
    assert not pauses.refused("a", at(1))
    assert not pauses.may_go("a", at(59))
    assert pauses.over(at(59)) == []
    assert pauses.next_over(at(59)) == at(60)
    assert pauses.over(at(61)) == ["a"]
    assert pauses.next_over(at(61)) is None
    assert pauses.may_go("a", at(61))
    assert not pauses.refused("a", at(61))
    assert pauses.next_over(at(61)) == at(181)
    assert pauses.channels() == ["a"]
    assert pauses.accepted("a")
    assert pauses.may_go("a", at(62))


def test_the_same_record_at_the_end_of_four_connections_is_found() -> None:
    """Even if others are answered before it on each."""
    isolation = Isolation()
    for _ in range(STRIKES):
        isolation.answered(3, "other")
        assert isolation.ended(7, "a") is None
    assert isolation.alone
    isolation.answered(4, "other")
    assert isolation.alone
    assert isolation.ended(7, "a") is Answer.DEAD
    assert not isolation.alone


def test_progress_clears_the_suspicion() -> None:
    """Another record each time, or one beyond it answered."""
    isolation = Isolation()
    for key in range(20):
        assert isolation.ended(key, "a") is None
    for _ in range(10):
        assert isolation.ended(50, "a") is None
        isolation.answered(51, "a")


def test_the_second_record_of_a_channel_that_is_found_holds_the_channel() -> None:
    """Unless something of the channel was answered between."""
    isolation = Isolation()
    verdicts = [isolation.ended(key, "a") for key in (1, 2) for _ in range(STRIKES + 1)]
    assert [verdict for verdict in verdicts if verdict] == [Answer.DEAD, Answer.HOLD]
    isolation.answered(3, "a")
    verdicts = [isolation.ended(4, "a") for _ in range(STRIKES + 1)]
    assert verdicts[-1] is Answer.DEAD
