"""When something is written: what is not due waits, but nothing grows by waiting."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.core.submission import Submission
from edge_agent.core.timebase import seconds
from edge_agent.services import outbox_writer
from edge_agent.services.outbox import ACKED_AT_ONCE
from tests.fakes import FakeBroker
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
