"""What befalls the store while it is in use is mended, and nothing is lost that could be got out."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pytest

from edge_agent.core.timebase import seconds
from edge_agent.services import upkeep
from tests.fakes import FakeBroker
from tests.support import bit_rot
from tests.support.outbox_worker import Past, TellingBroker, reopened, running


@pytest.mark.parametrize("page", range(3, 9))
async def test_damage_that_is_found_while_sending_costs_what_stood_there(
    page: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest goes out under the same numbers, what is missing is named, and new records go on within a second."""
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
        assert time.monotonic() - began < 1
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
