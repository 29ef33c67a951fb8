"""Promises and who broke them."""

from edge_agent.core.liveness import Liveness
from edge_agent.core.timebase import MonotonicNs


def test_a_promise_is_broken_only_after_its_instant() -> None:
    """At the instant itself it still holds."""
    liveness = Liveness()
    liveness.promise("heartbeat", MonotonicNs(10))
    assert liveness.overdue(MonotonicNs(10)) == []
    assert liveness.overdue(MonotonicNs(11)) == ["heartbeat"]


def test_the_last_promise_counts() -> None:
    """A new promise replaces the old one."""
    liveness = Liveness()
    liveness.promise("link", MonotonicNs(10))
    liveness.promise("link", MonotonicNs(20))
    assert liveness.overdue(MonotonicNs(15)) == []


def test_who_is_released_owes_nothing() -> None:
    """A service that has ended, or waits for what may never come, cannot be late; releasing twice is harmless."""
    liveness = Liveness()
    liveness.promise("link", MonotonicNs(10))
    liveness.release("link")
    liveness.release("link")
    assert liveness.overdue(MonotonicNs(99)) == []
