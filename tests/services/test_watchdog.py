"""The service manager is fed while nobody broke a promise."""

from __future__ import annotations

import asyncio

import pytest

from edge_agent.core.timebase import DurationNs, MonotonicNs, later, seconds
from edge_agent.services.watchdog import Liveness, feed_watchdog
from tests.fakes import FakeClock


class Recorder:
    """See ``ports.Notifier``; remembers when it was fed."""

    def __init__(self) -> None:
        self.fed: list[float] = []

    def ready(self, status: str) -> None:
        """Not expected here."""
        raise AssertionError(status)

    def reloading(self) -> None:
        """Not expected here."""
        raise AssertionError

    def stopping(self, _within: DurationNs) -> None:
        """Not expected here."""
        raise AssertionError

    def alive(self) -> None:
        """Remember it."""
        self.fed.append(asyncio.get_running_loop().time())


@pytest.mark.virtual
async def test_it_feeds_twice_a_period_until_a_promise_is_broken_and_again_once_it_is_renewed() -> None:
    """A hang starves it; a service that comes back in time saves the process."""
    clock, liveness, recorder = FakeClock(), Liveness(), Recorder()
    start = asyncio.get_running_loop().time()
    task = asyncio.get_running_loop().create_task(
        feed_watchdog(recorder, period=seconds(30), clock=clock, liveness=liveness)
    )
    await asyncio.sleep(301)
    assert len(recorder.fed) == 21
    liveness.promise("heartbeat", later(clock.monotonic(), seconds(10)))
    await asyncio.sleep(60)
    assert recorder.fed[-1] - start == pytest.approx(300, abs=0.1)
    liveness.promise("heartbeat", later(clock.monotonic(), seconds(1000)))
    await asyncio.sleep(20)
    assert recorder.fed[-1] - start > 360
    task.cancel()


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
