"""Schedules on a device whose wall clock is set about, whose counter is wrong, and that sleeps now and then."""

from __future__ import annotations

import pytest

from benchmarks.schedule_simulation import World, by_the_wall, judge, ours

NEAR_S = 0.1
"""Of 99 in 100 runs: after a sleep the counter is up to 0.9 s off until the next answers come."""


def assert_kept(seed: int, days: float) -> None:
    """Live for some days, ours beside a loop on the wall clock."""
    world = World(seed, days)
    score = judge(world, list(ours(world)))
    assert (score.missed, score.twice, score.far) == (0, 0, 0)
    assert score.p99_s < NEAR_S
    naive = judge(world, list(by_the_wall(world)))
    assert naive.missed > 0, "such a world is no test"
    assert naive.twice > 0, "such a world is no test"


@pytest.mark.parametrize("seed", [1, 2])
def test_no_slot_is_missed_or_doubled_while_the_device_is_awake(seed: int) -> None:
    """Two days; the slow form takes twenty."""
    assert_kept(seed, 2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 9))
def test_no_slot_is_missed_or_doubled_in_twenty_days(seed: int) -> None:
    """Eight steps of an hour and three sleeps a day."""
    assert_kept(seed, 20)
