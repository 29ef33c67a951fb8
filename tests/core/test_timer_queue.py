"""The queue of timers against a list that is searched and sorted each time."""

from __future__ import annotations

import pytest

from edge_agent.core.timer_queue import _SLACK, TimerQueue

pytest.importorskip("hypothesis", reason="property tests need hypothesis")

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

NAMES = st.sampled_from([f"timer-{number}" for number in range(40)])
DEADLINES = st.integers(-3, 20)
INSTANTS = st.integers(-3, 21)


class Naive:
    """Timers in order of entry, looked through from the start."""

    def __init__(self) -> None:
        self.timers: list[tuple[str, int, int]] = []

    def put(self, name: str, deadline: int, payload: int) -> None:
        """Add or replace."""
        self.cancel(name)
        self.timers.append((name, deadline, payload))

    def cancel(self, name: str) -> bool:
        """Remove."""
        before = len(self.timers)
        self.timers = [timer for timer in self.timers if timer[0] != name]
        return len(self.timers) < before

    def due(self, now: int) -> list[tuple[str, int, int]]:
        """Return what is due, in order of deadline and entry."""
        return sorted((timer for timer in self.timers if timer[1] <= now), key=lambda timer: timer[1])


class Histories(RuleBasedStateMachine):
    """Random histories of both."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: TimerQueue[int] = TimerQueue()
        self.naive = Naive()
        self.payload = 0

    def put_in_both(self, name: str, deadline: int) -> None:
        """Add or replace under a new payload."""
        self.payload += 1
        self.queue.put(name, deadline, self.payload)
        self.naive.put(name, deadline, self.payload)

    @rule(name=NAMES, deadline=DEADLINES)
    def put(self, name: str, deadline: int) -> None:
        """Add or replace."""
        self.put_in_both(name, deadline)

    @rule(name=NAMES, deadlines=st.lists(DEADLINES, min_size=1, max_size=150))
    def put_off_often(self, name: str, deadlines: list[int]) -> None:
        """Replace the same timer again and again, as one does that guards against silence."""
        for deadline in deadlines:
            self.put_in_both(name, deadline)

    @rule(name=NAMES)
    def cancel(self, name: str) -> None:
        """Remove, whether it is there or not."""
        assert self.queue.cancel(name) == self.naive.cancel(name)

    @rule(now=INSTANTS)
    def pop_all(self, now: int) -> None:
        """Take what is due."""
        due = self.naive.due(now)
        assert list(self.queue.pop_due(now)) == [payload for _, _, payload in due]
        for name, _, _ in due:
            self.naive.cancel(name)

    @precondition(lambda self: self.naive.timers)
    @rule(
        now=INSTANTS,
        acts=st.lists(st.tuples(NAMES, st.none() | DEADLINES), max_size=8),
        flood=st.sampled_from((0, 150)),
    )
    def pop_while_others_act(self, now: int, acts: list[tuple[str, int | None]], flood: int) -> None:
        """Between two that are due, cancel (no deadline) or put another: what is put meanwhile does not come now."""
        before = self.naive.due(now)
        expected = list(before)
        got = []
        for payload in self.queue.pop_due(now):
            got.append(payload)
            self.naive.cancel(next(name for name, _, one in before if one == payload))
            for _ in range(flood):  # what comes and goes has the heap rebuilt in the middle
                self.queue.put("flood", 0, 0)
                self.queue.cancel("flood")
            if acts:
                name, deadline = acts.pop()
                expected = [one for one in expected if one[0] != name or one[2] in got]
                if deadline is None:
                    assert self.queue.cancel(name) == self.naive.cancel(name)
                else:
                    self.put_in_both(name, deadline)
        assert got == [payload for _, _, payload in expected]

    @invariant()
    def they_agree(self) -> None:
        """On what is there and what comes next; and no more is kept than twice what is needed."""
        assert sorted(self.queue.names()) == sorted(name for name, _, _ in self.naive.timers)
        assert self.queue.next_deadline() == min((deadline for _, deadline, _ in self.naive.timers), default=None)
        for name, deadline, _ in self.naive.timers:
            assert self.queue.deadline(name) == deadline
        assert self.queue.deadline("nobody") is None
        assert len(self.queue._heap) <= 2 * len(self.naive.timers) + _SLACK


TestHistories = Histories.TestCase


def test_a_payload_needs_no_order() -> None:
    """Equal deadlines come up as they were put in, whatever they carry."""
    queue: TimerQueue[object] = TimerQueue()
    payloads = [object(), None, {"a": 1}, object()]
    for number, payload in enumerate(payloads):
        queue.put(str(number), 5, payload)
    assert list(queue.pop_due(4)) == []
    assert list(queue.pop_due(5)) == payloads


def test_cancelling_looks_at_no_other_timer() -> None:
    """Of many, the heap is not touched until half of it is dead; then it is rebuilt, once."""
    queue: TimerQueue[None] = TimerQueue()
    count = 10_000
    for number in range(count):
        queue.put(str(number), number, None)
    heap, rebuilt = queue._heap, 0
    for number in range(count):
        assert queue.cancel(str(number))
        if queue._heap is not heap:
            heap, rebuilt = queue._heap, rebuilt + 1
    assert rebuilt <= count.bit_length()
    assert queue.next_deadline() is None
