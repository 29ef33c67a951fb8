"""Power cuts and kill -9 at any moment of an outbox's life: what was promised is there, and what is missing is named.

The outbox is the real one on a real store, with its writer, its drain and its upkeep; the broker is in memory.
"""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Final

import pytest

from tests.support.iotrace import Iotrace
from tests.support.killing import finished, kills
from tests.support.outbox_worker import SMALL, Past, cutting, living, reopened
from tests.support.power_cut import PowerCut

OPENED_WITHIN_S: Final = 1.0


def _a_life(folder: Path, group: int) -> tuple[PowerCut, Past]:
    """Return a traced life of an outbox, and what it had promised at its end."""
    folder.mkdir()
    log = folder.with_suffix(".log")
    finished(cutting, folder, str(group), environ=Iotrace(folder).environ(log=log), within_s=120)
    cut, past = PowerCut.load(log), Past()
    past.add(cut.marks_before(len(cut.ops)))
    return cut, past


def _wrong_after_cuts(tmp_path: Path, *, group: int, states: int, seed: int) -> list[str]:
    """Return all that is wrong after power cuts at random moments of one life."""
    state, needed = tmp_path / "state", {"full", "damaged"} if group > 1 else {"damaged"}
    cut, at_the_end = _a_life(tmp_path / "traced", group)
    if not {reason for *_, reason in at_the_end.named} >= needed:  # a busy machine has not let everything happen
        cut, at_the_end = _a_life(tmp_path / "again", group)
    assert len(at_the_end.delivered) > 100
    assert {reason for *_, reason in at_the_end.named} >= needed
    rng = random.Random(seed)  # noqa: S311  # reproducible
    wrong: list[str] = []
    for at in cut.cuts(states, rng):
        cut.build(at, rng, state)
        past = Past()
        past.add(cut.marks_before(at))
        wrong += [f"cut {at} of {len(cut.ops)}: {one}" for one in asyncio.run(reopened(state, past))]
    return wrong


@pytest.mark.parametrize("group", [1, 50])
def test_a_power_cut_loses_nothing_that_was_promised(group: int, tmp_path: Path) -> None:
    """No damage, no number is used twice, and what is missing is named; also amid quarantine, shrinking and a stop."""
    assert _wrong_after_cuts(tmp_path, group=group, states=100, seed=1) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("group", [1, 50])
def test_a_thousand_power_cuts_lose_nothing_that_was_promised(group: int, seed: int, tmp_path: Path) -> None:
    """The same, 2,000 states for each of three seeds."""
    assert _wrong_after_cuts(tmp_path, group=group, states=1000, seed=seed) == []


def _wrong_after_kills(folder: Path, loops: int) -> list[str]:
    """Return all that is wrong after kills at random moments, each of an outbox that goes on with what it finds."""
    rng = random.Random(1)  # noqa: S311  # reproducible
    past, wrong = Past(), list[str]()
    for loop in range(5 * loops):  # on a busy machine it takes more lives to get everything done
        if loop >= loops and len(past.delivered) > 100 and "full" in {reason for *_, reason in past.named}:
            break
        first = (loop + 1) * 10_000_000
        for marks in kills(living, folder, str(first), loops=1, rng=rng, up_to_s=0.4):
            past.add(marks)
        began = time.process_time()  # of this process: its work, whatever else the machine does
        wrong += [f"kill {loop}: {one}" for one in asyncio.run(reopened(folder, past, max_bytes=SMALL))]
        took = time.process_time() - began
        wrong += [f"kill {loop}: {took:.1f} s to open"] if took > OPENED_WITHIN_S else []
        if wrong:
            break
    assert "full" in {reason for *_, reason in past.named}
    assert len(past.delivered) > 100
    return wrong


def test_a_kill_loses_nothing_that_was_promised(tmp_path: Path) -> None:
    """20 times on the same store, while it puts, sends and drops; it opens within a second."""
    assert _wrong_after_kills(tmp_path / "state", 20) == []


@pytest.mark.slow
def test_two_hundred_kills_lose_nothing_that_was_promised(tmp_path: Path) -> None:
    """The same, 200 times."""
    assert _wrong_after_kills(tmp_path / "state", 200) == []
