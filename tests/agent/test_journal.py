"""What damage and power cuts leave of the journal of commands: nothing is done twice that may be done but once."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from edge_agent.adapters.store_schema import PAGE_SIZE
from tests.fakes import FakeBroker
from tests.support.agents import HEALTH, agent, config_text, observer
from tests.support.brokers import mosquitto
from tests.support.command_worker import History, cutting, delivered_again, obeying
from tests.support.iotrace import Iotrace
from tests.support.killing import finished
from tests.support.power_cut import PowerCut

SENT: Final = [f"c-{number}" for number in range(60)]
OPENED_WITHIN_S: Final = 1.0


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, History]:
    """Return what ``kill -9`` has left of an agent with a journal, and what it had said by then."""
    folder, past = tmp_path_factory.mktemp("left"), History()

    async def live() -> None:
        async with obeying(folder / "alive", say=lambda mark: past.add([mark]), broker=FakeBroker(up=False)) as it:
            await it.one.put(range(500))
            for number in range(20):
                it.one.outbox.note(f"job/j{number}", b"x" * 300)
            await it.take(SENT, lambda mark: past.add([mark]))
            await it.ended(one for one in SENT if int(one[2:]) % 5 < 3)
            await it.one.outbox.written()
            shutil.copytree(folder / "alive", folder / "killed")
            past.called = Counter(it.called)

    asyncio.run(live())
    with closing(sqlite3.connect(folder / "killed" / "outbox.db")) as db:
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return folder / "killed", past


def _pages_of_notes(store: Path) -> list[int]:
    with closing(sqlite3.connect(store)) as db:
        return [row[0] for row in db.execute("SELECT pageno FROM dbstat WHERE name = 'note'")]


def _damage(store: Path, pages: list[int], rng: random.Random) -> str:
    """Flip a bit of one of some pages, or fill it with zeros."""
    content = bytearray(store.read_bytes())
    at = (rng.choice(pages) - 1) * PAGE_SIZE
    if rng.random() < 0.5:
        content[at : at + PAGE_SIZE] = bytes(PAGE_SIZE)
        done = f"zeros at {at}"
    else:
        offset = at + (rng.randrange(PAGE_SIZE) if rng.random() < 0.7 else rng.randrange(100))
        content[offset] ^= 1 << rng.randrange(8)
        done = f"flip at {offset}"
    store.write_bytes(content)
    return done


def _wrong_after_damage(left: tuple[Path, History], tmp_path: Path, trials: int) -> list[str]:
    """Return all that is wrong after damage to the notes' pages, or any other, and a start."""
    (killed, past), rng = left, random.Random(1)  # noqa: S311  # reproducible
    wrong, missed = list[str](), 0
    notes = _pages_of_notes(killed / "outbox.db")
    everything = list(range(1, (killed / "outbox.db").stat().st_size // PAGE_SIZE + 1))
    assert len(notes) > 10
    assert max(past.called.values()) == 1
    for trial in range(trials):
        folder = tmp_path / "state"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(killed, folder)
        done = [_damage(folder / "outbox.db", everything if trial % 4 == 3 else notes, rng)]
        if trial % 5 == 4:
            done.append(_damage(folder / "outbox.db", notes, rng))
        found, lost = asyncio.run(delivered_again(folder, past, SENT, whole=False, retained=trial % 3 == 2))
        missed += lost
        wrong += [f"trial {trial}, {', '.join(done)}: {one}" for one in found]
    print(f"{trials} trials, {missed} journals of which something is missing")
    assert 0 < missed < trials
    return wrong


@pytest.mark.timeout_s(120)
def test_damage_to_the_journal_has_nothing_done_twice(left: tuple[Path, History], tmp_path: Path) -> None:
    """One bit or one page, in the notes or anywhere: what is delivered again is known, or ends interrupted."""
    assert _wrong_after_damage(left, tmp_path, 30) == []


@pytest.mark.slow
@pytest.mark.timeout_s(900)
def test_three_hundred_times_damage_to_the_journal_has_nothing_done_twice(
    left: tuple[Path, History], tmp_path: Path
) -> None:
    """The same, 300 times."""
    assert _wrong_after_damage(left, tmp_path, 300) == []


# ---------------------------------------------------------------- power cuts
def _wrong_after_cuts(tmp_path: Path, states: int, seed: int) -> list[str]:
    """Return all that is wrong after power cuts at random moments of one life."""
    folder, state, log = tmp_path / "traced", tmp_path / "state", tmp_path / "log"
    folder.mkdir()
    finished(cutting, folder, environ=Iotrace(folder).environ(log=log), within_s=120)
    cut, rng = PowerCut.load(log), random.Random(seed)  # noqa: S311  # reproducible
    at_the_end = History()
    at_the_end.add(cut.marks_before(len(cut.ops)))
    assert len(at_the_end.told) > 20
    wrong: list[str] = []
    for at in cut.cuts(states, rng):
        cut.build(at, rng, state)
        past = History()
        past.add(cut.marks_before(at))
        found, _ = asyncio.run(delivered_again(state, past, sorted(at_the_end.acknowledged), whole=True))
        wrong += [f"cut {at} of {len(cut.ops)}: {one}" for one in found]
    return wrong


@pytest.mark.timeout_s(180)
def test_a_power_cut_forgets_no_command_that_was_acknowledged(tmp_path: Path) -> None:
    """Nor an end that was told; amid a store that is replaced, an outage and a stop; and nothing is done twice."""
    assert _wrong_after_cuts(tmp_path, 50, seed=1) == []


@pytest.mark.slow
@pytest.mark.timeout_s(3600)
def test_two_thousand_power_cuts_forget_no_command_that_was_acknowledged(tmp_path: Path) -> None:
    """The same, 2,000 times."""
    assert _wrong_after_cuts(tmp_path, 2000, seed=2) == []


# ---------------------------------------------------------------- a real agent
async def test_a_real_agent_says_that_its_journal_is_lost(tmp_path: Path) -> None:
    """For days, over restarts; also while there is no store, but then only until there is one."""
    state = tmp_path / "state"
    state.write_text("in the way")
    async with (
        mosquitto(tmp_path) as broker,
        observer(broker.url) as seen,
        agent(tmp_path, config_text(broker.url)) as it,
    ):
        assert "journal_lost" in (await seen.wait(HEALTH)).data["reasons"]
        state.unlink()
        await seen.until(lambda: [one for one in seen.on(HEALTH) if one.data["state"] == "ok"], within_s=20)
        it.signal(signal.SIGTERM)
        await it.wait()
        (state / "outbox.db").write_bytes(b"no database" * 1000)
        for _ in range(2):
            it.start()
            begun = time.monotonic()
            health = await seen.wait(HEALTH, after=begun)
            assert health.data["reasons"] == ["journal_lost"]
            it.signal(signal.SIGKILL)
            await it.wait()
