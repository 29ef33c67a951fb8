"""How long it matters that notes are missing, and that it is told."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import pytest

from edge_agent.core.journal import MAX_AGE
from edge_agent.core.notes import LOST
from edge_agent.core.timebase import seconds
from edge_agent.services import upkeep
from edge_agent.services.lost_notes import LostNotes
from tests.fakes import FakeBroker
from tests.support.flow import Flow, online

DAY_S: Final = 86_400


@pytest.fixture
def seldom_looked_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let days pass quickly."""
    monkeypatch.setattr(upkeep, "LOOK_EVERY", seconds(40_000))


@pytest.mark.virtual
@pytest.mark.usefixtures("seldom_looked_after")
async def test_it_matters_as_long_as_a_command_is_remembered_over_restarts(tmp_path: Path) -> None:
    """By the outbox's age, and it is told when it begins and when it ends."""
    (tmp_path / "outbox.db").write_bytes(b"no database" * 1000)
    told: list[bool] = []
    boot = "boot"
    flow = Flow(tmp_path, FakeBroker(), boot=boot)
    async with flow.running():
        lost = LostNotes(flow.outbox)
        flow.outbox.said = lambda: told.append(bool(lost))
        lost.look(unreadable=False)
        assert int(flow.outbox.notes[LOST]) == pytest.approx(MAX_AGE + flow.outbox.age(), abs=1e9)
        await online(flow)
        await asyncio.sleep(6 * DAY_S)
        lost.look_again()
        assert lost
    flow = Flow(tmp_path, FakeBroker(), boot=boot)
    async with flow.running():
        lost = LostNotes(flow.outbox)
        flow.outbox.said = lambda: told.append(bool(lost))
        lost.look(unreadable=False)
        await online(flow)
        lost.look_again()
        assert lost
        await asyncio.sleep(DAY_S)
        lost.look_again()
        assert not lost
        assert LOST not in flow.outbox.notes
    assert told == [True, True, False]


@pytest.mark.virtual
@pytest.mark.usefixtures("seldom_looked_after")
async def test_it_matters_until_a_broker_has_sent_what_it_retains(tmp_path: Path) -> None:
    """However long the device is offline."""
    (tmp_path / "outbox.db").write_bytes(b"no database" * 1000)
    flow = Flow(tmp_path, FakeBroker(up=False))
    async with flow.running():
        lost = LostNotes(flow.outbox)
        lost.look(unreadable=False)
        flow.outbox.note(LOST, b"%d" % flow.outbox.age())
        await asyncio.sleep(DAY_S / 10)
        lost.look_again()
        assert lost
        flow.broker.up = True
        await online(flow)
        lost.look_again()
        await asyncio.sleep(50)
        lost.look_again()
        assert lost
        await asyncio.sleep(20)
        lost.look_again()
        assert not lost


@pytest.mark.virtual
async def test_without_a_store_nobody_knows_what_is_missing(tmp_path: Path) -> None:
    """With the store comes what it says."""
    folder = tmp_path / "state"
    folder.write_text("in the way")
    flow = Flow(folder)
    async with flow.running():
        lost = LostNotes(flow.outbox)
        flow.upkeep.adopted = lambda: lost.look(unreadable=False)
        lost.look(unreadable=False)
        assert lost
        assert not flow.outbox.notes
        folder.unlink()
        await asyncio.sleep(11)
        assert flow.keeping.is_open
        assert not lost


@pytest.mark.virtual
async def test_what_nobody_can_read_is_as_good_as_missing(tmp_path: Path) -> None:
    """It does not begin anew with the next one that cannot be read."""
    flow = Flow(tmp_path)
    async with flow.running():
        lost = LostNotes(flow.outbox)
        lost.look(unreadable=True)
        assert lost
        until = flow.outbox.notes[LOST]
        await asyncio.sleep(100)
        lost.look(unreadable=True)
        assert flow.outbox.notes[LOST] == until
