"""When something is written: what is not due waits, but nothing grows by waiting."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edge_agent.core.submission import Submission
from edge_agent.core.timebase import seconds
from edge_agent.services import outbox_writer
from edge_agent.services.outbox import ACKED_AT_ONCE
from tests.fakes import FakeBroker
from tests.support.dispatching import Desk
from tests.support.flow import Flow
from tests.support.outbox_worker import running


async def test_a_thousand_records_that_were_delivered_are_deleted_without_waiting_for_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a fast broker has the agent remember a hundred thousand of them."""
    monkeypatch.setattr(outbox_writer, "DELETE_WITHIN", seconds(3600))
    broker = FakeBroker(up=False)
    async with running(tmp_path, broker=broker) as one:
        records = [one.outbox.put(Submission("data/n", b'{"n":1}')) for _ in range(ACKED_AT_ONCE + 1)]
        await one.outbox.durable(records[-1])
        broker.up = True
        await one.until(lambda: one.outbox.state.records <= 1)


@pytest.mark.virtual
async def test_who_waits_for_notes_is_told_when_the_disk_has_them(tmp_path: Path) -> None:
    """Also who asks while the last of them is on its way: nobody waits for what happens next."""
    flow = Flow(tmp_path)
    async with flow.running():
        assert await flow.outbox.noted()
        with flow.worker.stalled():
            flow.outbox.note("a", b"1")
            early = flow.outbox.noted()
            await asyncio.sleep(1)
            late = flow.outbox.noted()
            await asyncio.sleep(1)
            assert not early.done()
            assert not late.done()
        await asyncio.sleep(0.1)
        assert early.result()
        assert late.result()


@pytest.mark.virtual
async def test_who_waits_for_notes_is_told_that_the_disk_fails(tmp_path: Path) -> None:
    """Before that somebody else acts on it; when it is mended it gets them all the same."""
    desk = Desk(tmp_path, {})
    async with desk.running():
        told: list[bool] = []
        desk.outbox.unnoted = lambda: told.append(noted.done())
        desk.keeping.fails = True
        desk.outbox.note("a", b"1")
        noted = desk.outbox.noted()
        assert not await noted
        assert told == [False]
        assert not await desk.outbox.noted()
        await desk.mend()
        assert await desk.outbox.noted()
    again = Desk(tmp_path, {})
    await again.outbox.open()
    assert again.outbox.notes == {"a": b"1"}
    await again.keeping.close(None)
