"""Tests of ``services/device_clock.py``."""

from __future__ import annotations

import pytest

from edge_agent.adapters.system_clock import SystemClock
from edge_agent.core.discipline import Discipline, Policy, Reading
from edge_agent.core.events import ClockState, Stamp, TimeState
from edge_agent.core.sample import Sample
from edge_agent.core.timebase import UtcNs
from edge_agent.services.device_clock import DeviceClock, stamp


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("unsynced", "unsynced"),
        ("acquiring", "unsynced"),
        ("synced", "synced"),
        ("holdover", "holdover"),
        ("degraded", "holdover"),
        ("os", "synced"),
    ],
)
def test_what_the_world_is_told_of_a_reading(state: ClockState, told: TimeState) -> None:
    """A bound in whole milliseconds, never too small, and none of what nobody vouches for."""
    error = None if told == "unsynced" else 3
    assert stamp(Reading(UtcNs(5), 2_000_001, state)) == Stamp(UtcNs(5), told, error)
    assert stamp(Reading(UtcNs(5), None, state)) == Stamp(UtcNs(5))


def test_it_is_the_clock_of_the_machine_with_true_time() -> None:
    """The counter and the wall are the machine's; the time is what the servers say."""
    machine, discipline = SystemClock(), Discipline(Policy(("a",)))
    clock = DeviceClock(machine, discipline)
    assert clock.now().state == "unsynced"
    hour_ahead = 3600 * 10**9
    for _ in range(10):
        raw, wall = machine.pair()
        discipline.take(Sample("a", raw, UtcNs(wall + hour_ahead), 1000, 1000))
    now = clock.now()
    assert abs(now.time - clock.wall() - hour_ahead) < 10**9
    assert now.state == "synced"
    assert now.error_ms is not None
    assert clock.monotonic() <= machine.monotonic()
    assert clock.raw() <= machine.raw()
