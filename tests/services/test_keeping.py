"""What befalls the store while it is in use is mended, and nothing is lost that could be got out."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from edge_agent.adapters.store import Store
from edge_agent.adapters.store_schema import MIGRATIONS
from edge_agent.core.batch import Batch
from edge_agent.core.notes import LOST
from edge_agent.core.records import Gap, Priority
from edge_agent.core.timebase import seconds
from edge_agent.errors import StoreError, StoreFault
from edge_agent.services import upkeep
from tests.fakes import FakeBroker
from tests.support import bit_rot
from tests.support.flow import Flow, online
from tests.support.outbox_worker import Past, TellingBroker, prepared, reopened, running


@pytest.fixture
def looked_after_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test wait long."""
    monkeypatch.setattr(upkeep, "LOOK_EVERY", seconds(0.1))


@pytest.mark.parametrize("page", range(3, 9))
async def test_damage_that_is_found_while_sending_costs_what_stood_there(
    page: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest goes out under the same numbers, what is missing is named, and new records go on soon."""
    monkeypatch.setattr(upkeep, "LOOK_EVERY", seconds(0.1))
    past = Past()
    async with running(tmp_path, broker=FakeBroker(up=False)) as one:
        await one.put(range(2000), say=lambda mark: past.add([mark]))
    for _ in range(page):
        bit_rot.zero_page(tmp_path / "outbox.db", random.Random(page))  # noqa: S311  # reproducible
    broker = TellingBroker(lambda mark: past.add([mark]))
    async with running(tmp_path, broker=broker) as one:
        began = time.monotonic()
        await one.put(range(5000, 5010), say=lambda mark: past.add([mark]))
        assert time.monotonic() - began < 10
        await one.until(lambda: one.outbox.online and len(past.delivered) > 1900)
        await one.until(lambda: not one.outbox.state.records and not one.outbox.conditions())
    lost = [one for one in await reopened(tmp_path, past) if "promised and is lost" not in one]
    assert lost == []


async def test_a_file_that_is_no_database_is_put_aside_at_the_start(tmp_path: Path) -> None:
    """The outbox begins a new one at once."""
    (tmp_path / "outbox.db").write_bytes(b"no database" * 1000)
    async with running(tmp_path) as one:
        assert one.keeping.is_open
        assert len(await one.put(range(10))) == 10
        await asyncio.sleep(0)
    assert (tmp_path / "quarantine" / "outbox.db").read_bytes() == b"no database" * 1000


# ---------------------------------------------------------------- getting back what was put aside
async def _put_aside(folder: Path, count: int) -> None:
    """Leave a store of that many records where one stands that was put aside."""
    source = Flow(folder / "quarantine", FakeBroker(up=False))
    async with source.running():
        for n in range(count):
            source.put(n)
        await asyncio.sleep(1)
    (folder / "quarantine" / "outbox").write_text("{}")


@pytest.mark.virtual
@pytest.mark.usefixtures("looked_after_often")
async def test_a_disk_that_fails_while_records_are_got_back_is_mended_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stay where they are until they are written."""
    await _put_aside(tmp_path, 10)
    flow = Flow(tmp_path, FakeBroker(up=False))
    flow.keeping._new_name = lambda: "other"
    with monkeypatch.context() as patch:
        patch.setattr(Store, "commit", _broken)
        async with flow.running():
            for n in range(100, 1300):
                flow.put(n, padding=1000)  # more than memory holds
            await asyncio.sleep(1)
            assert not any(task.done() for task in flow.tasks)
            assert flow.outbox.conditions()
            assert (tmp_path / "quarantine" / "outbox").exists()
            patch.undo()
            await asyncio.sleep(1)
            assert await flow.outbox.durable(flow.put(99))
            assert not flow.outbox.conditions()
    flow = Flow(tmp_path)
    async with flow.running():
        await online(flow)
        await asyncio.sleep(60)
        assert {*range(10), 99} <= set(flow.numbers())
        assert not (tmp_path / "quarantine" / "outbox").exists()


def _broken(_store: Store, _change: object) -> None:
    raise StoreError(StoreFault.IO, "disk I/O error")


def _full(_store: Store, _change: object) -> None:
    raise StoreError(StoreFault.FULL, "database or disk is full")


@pytest.mark.virtual
@pytest.mark.usefixtures("looked_after_often")
async def test_a_full_disk_while_records_are_got_back_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is named as damaged before it was really looked for, and what it is waits in its place."""
    flow = Flow(tmp_path, FakeBroker(up=False))
    async with flow.running():
        for n in range(50):
            flow.put(n)
        await asyncio.sleep(1)
        with monkeypatch.context() as patch:
            patch.setattr(Store, "take_in", _full)
            flow.keeping.fault = StoreFault.DAMAGED
            await asyncio.sleep(1)
            assert (tmp_path / "quarantine" / "outbox").exists()
            assert flow.outbox.settled()[Priority.NORMAL] == 0
            assert not flow.outbox.state.gaps
        await asyncio.sleep(1)
        assert not (tmp_path / "quarantine" / "outbox").exists()
        flow.broker.up = True
        await online(flow)
        await asyncio.sleep(10)
        assert flow.numbers() == list(range(50))


@pytest.mark.virtual
@pytest.mark.usefixtures("looked_after_often")
async def test_an_event_about_gaps_of_a_store_that_was_replaced_deletes_none_of_the_new_ones(tmp_path: Path) -> None:
    """Its acknowledgement comes when the numbers of the gaps mean others."""
    flow = Flow(tmp_path, FakeBroker(puback=lambda topic: None if "event/outbox" in topic else 0))
    async with flow.running():
        await online(flow)
        for n in range(5):
            flow.put(n, always=True)
        await asyncio.sleep(1)
        flow.outbox.pending.lost.append(Gap("o1-normal", 2, 2, 1, "purged"))
        await flow.outbox.written()
        await asyncio.sleep(1)
        (event,) = flow.outbox.announced
        flow.outbox.pending.gone, flow.outbox.pending.undead = [1], [1]
        flow.keeping.put_aside = flow.outbox.identity()
        flow.upkeep._write_anew()
        assert (flow.outbox.announced, flow.outbox.pending.gone, flow.outbox.pending.undead) == ({}, [], [])
        flow.outbox.delivered([flow.outbox.lanes[Priority.CRITICAL].flying[event]])
        assert not flow.outbox.pending.gone


@pytest.mark.virtual
@pytest.mark.usefixtures("looked_after_often")
async def test_gaps_are_announced_anew_once_the_store_was_opened_again(tmp_path: Path) -> None:
    """It no longer knows that an event about them is on its way: what joined them meanwhile went with them."""
    flow = Flow(tmp_path, FakeBroker(puback=lambda topic: None if "event/outbox" in topic else 0))
    async with flow.running():
        await online(flow)
        for n in range(5):
            flow.put(n, always=True)
        await asyncio.sleep(1)
        flow.outbox.pending.lost.append(Gap("o1-normal", 2, 2, 1, "purged"))
        await flow.outbox.written()
        await asyncio.sleep(1)
        (event,) = flow.outbox.announced
        flow.keeping.fault = StoreFault.IO
        await asyncio.sleep(1)
        assert not flow.outbox.conditions()
        flow.outbox.delivered([flow.outbox.lanes[Priority.CRITICAL].flying[event]])
        assert not flow.outbox.pending.gone
        assert [[gap.first for _, gap in gaps] for gaps in flow.outbox.announced.values()] == [[2]]


@pytest.mark.virtual
async def test_numbers_given_while_a_damaged_store_is_replaced_wait_until_they_are_reserved(tmp_path: Path) -> None:
    """Sent before, they might be used a second time after a power cut."""
    flow = Flow(tmp_path, FakeBroker(up=False))
    async with flow.running():
        flow.put(1, always=True)
        await asyncio.sleep(1)
        flow.keeping.put_aside = known = flow.outbox.identity()
        lane = flow.outbox.lanes[Priority.NORMAL]
        lane.next_seq = known.reserved[Priority.NORMAL] + 10
        flow.upkeep._write_anew()
        assert lane.reserved == known.reserved[Priority.NORMAL]


async def test_notes_of_other_parts_outlive_a_stop_and_a_damaged_store(tmp_path: Path) -> None:
    """They are in the fresh store before anything else is."""
    async with running(tmp_path, broker=FakeBroker(up=False)) as one:
        one.outbox.note("job/kept", b"1")
        one.outbox.note("job/changed", b"1")
        await one.outbox.written()
        one.outbox.note("job/changed", b"2")
        one.outbox.note("job/forgotten", b"3")
        await one.outbox.written()
        one.outbox.note("job/forgotten", None)
    async with running(tmp_path, broker=FakeBroker(up=False)) as one:
        assert one.outbox.notes == {"job/kept": b"1", "job/changed": b"2"}


@pytest.mark.usefixtures("looked_after_often")
async def test_notes_are_in_the_fresh_store_that_replaces_a_damaged_one(tmp_path: Path) -> None:
    """What was written long ago as well as what was not yet."""
    flow = Flow(tmp_path, FakeBroker(up=False))
    async with flow.running():
        flow.outbox.note("job/old", b"1")
        await flow.outbox.written()
        flow.keeping.fault, flow.keeping._failed = StoreFault.DAMAGED, True
        flow.outbox.note("job/new", b"2")
        await asyncio.sleep(1)
        assert not flow.outbox.conditions()
    assert (tmp_path / "quarantine" / "outbox.db").exists()
    async with running(tmp_path, broker=FakeBroker(up=False)) as one:
        assert one.outbox.notes == {"job/old": b"1", "job/new": b"2"}


# ---------------------------------------------------------------- notes, before anybody goes by them
NOTES: Final = {f"command/c-{number}": b"x" * 100 for number in range(200)}


async def _noted(folder: Path) -> None:
    """Leave a store with notes and records."""
    async with running(folder, broker=FakeBroker(up=False)) as one:
        await one.put(range(50))
        for name, text in NOTES.items():
            one.outbox.note(name, text)
        await one.outbox.written()


def _damage(store: Path, sql: str) -> None:
    with closing(sqlite3.connect(store)) as db:
        db.execute(sql)
        db.commit()


async def test_notes_of_a_store_that_is_replaced_at_the_start_are_there_when_it_is_open(tmp_path: Path) -> None:
    """And on the disk: what is forgotten then does not come back, though its records are not salvaged yet."""
    await _noted(tmp_path)
    _damage(tmp_path / "outbox.db", "UPDATE meta SET v = 'x' WHERE k = 'base'")
    one = prepared(tmp_path)
    await one.outbox.open()
    assert one.outbox.notes == NOTES
    await one.keeping.close(None)
    one = prepared(tmp_path)
    await one.outbox.open()
    assert one.outbox.notes == NOTES
    assert await one.keeping.commit(Batch(notes={"command/c-7": None}))
    await one.keeping.close(None)
    async with running(tmp_path) as again:
        assert again.outbox.notes == {name: text for name, text in NOTES.items() if name != "command/c-7"}
        await again.until(lambda: not (tmp_path / "quarantine" / "outbox").exists())
        assert again.outbox.state.records == 50


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE note SET text = x'00' WHERE name = 'command/c-7'",
        "DELETE FROM note WHERE name = 'command/c-7'",
        "UPDATE meta SET v = v + 1 WHERE k = 'notes'",
    ],
)
async def test_a_store_that_has_lost_a_note_is_replaced_and_says_so(sql: str, tmp_path: Path) -> None:
    """By damage that SQLite does not notice; its records are taken over, and it is said once."""
    await _noted(tmp_path)
    _damage(tmp_path / "outbox.db", sql)
    async with running(tmp_path) as one:
        assert one.outbox.notes[LOST] == b""
        assert len(one.outbox.notes) >= 200
        await one.until(lambda: not (tmp_path / "quarantine" / "outbox").exists())
        assert one.outbox.state.records == 50
        one.outbox.note(LOST, None)
    async with running(tmp_path) as one:
        assert LOST not in one.outbox.notes


async def test_a_file_that_is_no_database_has_lost_its_notes(tmp_path: Path) -> None:
    """All of them."""
    (tmp_path / "outbox.db").write_bytes(b"no database" * 1000)
    async with running(tmp_path) as one:
        assert one.outbox.notes == {LOST: b""}


async def test_notes_in_the_store_of_a_newer_version_are_taken_over(tmp_path: Path) -> None:
    """As from a damaged one."""
    await _noted(tmp_path)
    _damage(tmp_path / "outbox.db", f"PRAGMA user_version = {len(MIGRATIONS) + 2}")
    async with running(tmp_path) as one:
        assert one.outbox.notes == NOTES


async def test_a_store_that_cannot_take_over_the_notes_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody goes by half of them: the outbox goes on without a store until it can."""
    await _noted(tmp_path)
    _damage(tmp_path / "outbox.db", "UPDATE meta SET v = 'x' WHERE k = 'base'")
    with monkeypatch.context() as patch:
        patch.setattr(Store, "commit", _broken)
        one = prepared(tmp_path)
        await one.outbox.open()
        assert not one.keeping.is_open
        assert one.outbox.notes == {}
        await one.keeping.close(None)
    async with running(tmp_path) as one:
        assert one.outbox.notes == NOTES


@pytest.mark.usefixtures("looked_after_often")
async def test_notes_that_are_forgotten_after_their_store_was_replaced_stay_so(tmp_path: Path) -> None:
    """Also when not all of the old one could be salvaged before the next start."""
    flow = Flow(tmp_path, FakeBroker(up=False))
    async with flow.running():
        flow.outbox.note("command/x-1", b"1")
        flow.outbox.note("job/a", b"1")
        await flow.outbox.written()
        flow.keeping.fault = StoreFault.DAMAGED
        await asyncio.sleep(1)
        mark = json.dumps({"notes": "taken"})
        flow.outbox.note("command/x-1", None)
    (tmp_path / "quarantine" / "outbox").write_text(mark)  # as if salvage had not come to its end
    async with running(tmp_path, broker=FakeBroker(up=False)) as one:
        assert one.outbox.notes == {"job/a": b"1"}
