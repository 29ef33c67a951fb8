"""An outbox whose disk is full, broken or read-only goes on, says so, and recovers by itself when that ends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import pytest

from edge_agent.core.timebase import seconds
from edge_agent.errors import OutboxError
from edge_agent.services import upkeep
from tests.support import small_disk
from tests.support.iotrace import Iotrace, failing
from tests.support.killing import Report, finished
from tests.support.outbox_worker import Past, Running, TellingBroker, reopened, running

MIB: Final = 1 << 20
LOOK_EVERY_S: Final = 0.5
"""How often the outbox is looked after here; in the field 20 times more seldom."""

RECOVERS_WITHIN_S: Final = 3 * LOOK_EVERY_S
"""In the field 30 s."""

DISKS: Final = {"tmpfs": (small_disk.tmpfs, 8 * MIB), "ext4": (small_disk.ext4_loop, 16 * MIB)}
Disk = Callable[[Path, int], AbstractContextManager[Path]]


@pytest.fixture(autouse=True)
def looked_after_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test wait long."""
    monkeypatch.setattr(upkeep, "LOOK_EVERY", seconds(LOOK_EVERY_S))


@pytest.fixture(params=DISKS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Return the folder of a small disk."""
    mount, size = DISKS[request.param]
    with mount(tmp_path / "disk", size) as path:
        yield path


class Observed:
    """A broker, and what was promised and delivered."""

    def __init__(self) -> None:
        self.past = Past()
        self.broker = TellingBroker(lambda mark: self.past.add([mark]))

    async def put(self, one: Running, first: int, count: int) -> int:
        """Put records and return how many of them were promised; the others were refused or lost aloud."""
        with contextlib.suppress(OutboxError):
            return len(await one.put(range(first, first + count), say=lambda mark: self.past.add([mark])))
        return 0

    def said(self) -> list[dict[str, object]]:
        """Return what the outbox published of itself."""
        return [json.loads(m.payload)["data"] for m in self.broker.log if m.topic.endswith("/up/event/outbox")]


async def durable_again(observed: Observed, one: Running, first: int) -> None:
    """Wait until a record that no broker takes is durable, and nothing is wrong any more."""
    began = time.monotonic()
    assert await observed.put(one, first, 1) == 1
    await one.until(lambda: not one.outbox.conditions())
    assert time.monotonic() - began < RECOVERS_WITHIN_S
    await one.until(lambda: not any(lane.fresh for lane in one.outbox.lanes.values()))


def intact(folder: Path) -> bool:
    """Return whether SQLite finds nothing wrong with a closed store."""
    with contextlib.closing(sqlite3.connect(folder / "outbox.db")) as db:
        return db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# ---------------------------------------------------------------- full
@pytest.mark.root
@pytest.mark.timeout_s(60)
async def test_a_disk_that_the_outbox_has_filled_holds_the_newest(disk: Path) -> None:
    """The oldest make room, each named; once the broker is back, all goes out and the ballast is laid again."""
    observed = Observed()
    observed.broker.up = False
    async with running(disk / "state", broker=observed.broker) as one:
        for first in range(0, 12_000, 300):
            await observed.put(one, first, 300)
        assert one.outbox.conditions() == ["outbox: disk_full"]
        assert one.outbox.dropped["full"] > 1000
        observed.broker.up = True
        await one.until(lambda: not one.outbox.state.records and one.outbox.online)
        await one.until(lambda: not one.outbox.conditions(), within_s=RECOVERS_WITHIN_S)
        assert (disk / "state" / "outbox.reserve").stat().st_size == MIB
        await one.until(lambda: {"state": "ok"} in observed.said())
        assert {"state": "degraded", "reason": "disk_full"} in observed.said()
        await one.until(lambda: not one.outbox.state.gaps)  # all named
    assert intact(disk / "state")
    assert await reopened(disk / "state", observed.past) == []


@pytest.mark.root
@pytest.mark.timeout_s(60)
async def test_a_disk_that_somebody_else_has_filled_stops_nothing(disk: Path) -> None:
    """What the broker takes goes on, and puts are durable again soon after there is room."""
    observed = Observed()
    async with running(disk / "state", broker=observed.broker) as one:
        await one.until(lambda: one.outbox.online)
        observed.broker.crash()
        assert await observed.put(one, 0, 1000) == 1000
        with small_disk.fill(disk) as hog:
            for first in range(1000, 6000, 100):
                await observed.put(one, first, 100)
            assert one.outbox.conditions() == ["outbox: disk_full"]
            observed.broker.up = True
            await one.until(lambda: not one.outbox.state.records)
            assert await observed.put(one, 10_000, 100) == 100
            observed.broker.crash()
            with hog.open("r+b") as file:
                file.truncate(hog.stat().st_size - 2 * MIB)
            await durable_again(observed, one, 20_000)
    assert intact(disk / "state")
    assert await reopened(disk / "state", observed.past) == []
