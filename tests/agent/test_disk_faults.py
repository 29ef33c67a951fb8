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
from tests.support.outbox_worker import Past, Running, TellingBroker, reopened, running, submission

MIB: Final = 1 << 20
LOOK_EVERY_S: Final = 0.5
"""How often the outbox is looked after here; in the field 20 times more seldom."""

RECOVERS_WITHIN_S: Final = 12 * LOOK_EVERY_S
"""In the field 30 s, which is three looks; what is mended by no look is not mended at all."""

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
        assert one.outbox.dropped["full"] > 1000
        observed.broker.up = True
        await one.until(lambda: not one.outbox.state.records and one.outbox.online)
        await one.until(lambda: not one.outbox.conditions(), within_s=RECOVERS_WITHIN_S)
        assert (disk / "state" / "outbox.reserve").stat().st_size == MIB
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
            assert one.outbox.dropped["full"] > 1000
            observed.broker.up = True
            await one.until(lambda: not one.outbox.state.records)
            assert await observed.put(one, 10_000, 100) == 100
            observed.broker.crash()
            with hog.open("r+b") as file:
                file.truncate(hog.stat().st_size - 2 * MIB)
            await durable_again(observed, one, 20_000)
    assert intact(disk / "state")
    assert await reopened(disk / "state", observed.past) == []


# ---------------------------------------------------------------- broken
def failing_disk(report: Report, folder: str, switch: str) -> None:
    """Be an outbox whose disk fails for a while; what is asserted here fails the child."""

    async def main() -> None:
        upkeep.LOOK_EVERY = seconds(LOOK_EVERY_S)  # type: ignore[misc]  # as in the parent
        broker = TellingBroker(report)
        observed = Observed()
        async with running(Path(folder), broker=broker) as one:
            await one.until(lambda: one.outbox.online)
            await one.put(range(100), always=True, say=report)
            with failing(Path(switch), errno.EIO):
                await one.put(range(100, 200), say=report)  # the broker has them
                broker.crash()
                await one.until(lambda: not one.outbox.online)
                waiting = asyncio.ensure_future(one.put(range(200, 300), say=report))  # in a test
                await one.until(lambda: one.outbox.conditions() == ["outbox: io_error"])
                broker.up = True
                await waiting
                await one.until(lambda: any(b"io_error" in message.payload for message in broker.log))
                broker.crash()
                waiting = asyncio.ensure_future(one.put(range(300, 400), say=report))  # in a test
                await asyncio.sleep(2 * LOOK_EVERY_S)
                assert not waiting.done()
            began = time.monotonic()
            await waiting
            await one.until(lambda: not one.outbox.conditions())
            assert time.monotonic() - began < RECOVERS_WITHIN_S
            await durable_again(observed, one, 1000)

    asyncio.run(main())


@pytest.mark.parametrize("what", ["write_fail", "sync_fail"])
def test_a_disk_with_errors_stops_nothing(what: str, tmp_path: Path) -> None:
    """The broker takes records past it; it is named; what waits in memory is durable once the errors have ended."""
    folder, switch = tmp_path / "state", tmp_path / "switch"
    folder.mkdir()
    past = Past()
    past.add(finished(failing_disk, folder, switch, environ=Iotrace(folder).environ(**{what: switch})))  # type: ignore[arg-type]
    assert len(past.promised) > 350
    assert asyncio.run(reopened(folder, past)) == []


@pytest.mark.root
async def test_a_start_on_a_disk_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    """Records go out through memory; once the disk is back, the outbox has a store."""
    observed = Observed()
    with small_disk.ext4_loop(tmp_path / "disk", 16 * MIB) as disk, contextlib.ExitStack() as stack:
        stack.enter_context(read_only := small_disk.read_only(disk))
        async with running(disk / "state", broker=observed.broker) as one:
            assert not one.keeping.is_open
            await one.until(lambda: one.outbox.online)
            assert await observed.put(one, 0, 100) == 100
            assert one.outbox.conditions() != []
            stack.pop_all()
            read_only.__exit__(None, None, None)
            await one.until(lambda: one.keeping.is_open, within_s=RECOVERS_WITHIN_S)
            observed.broker.crash()
            await durable_again(observed, one, 200)
        assert await reopened(disk / "state", observed.past) == []


@pytest.mark.root
async def test_a_disk_that_turns_read_only_stops_nothing(tmp_path: Path) -> None:
    """As ext4 does when it finds itself damaged: what the broker takes goes on, and it is named."""
    observed = Observed()
    with small_disk.ext4_loop(tmp_path / "disk", 16 * MIB) as disk:
        async with running(disk / "state", broker=observed.broker) as one:
            await one.until(lambda: one.outbox.online)
            assert await observed.put(one, 0, 100) == 100
            small_disk.fail(disk)
            one.outbox.put(submission(100, always=True))
            await one.until(lambda: one.outbox.conditions() != [])
            assert await observed.put(one, 200, 100) == 100
            await one.until(lambda: {"state": "degraded"}.items() <= (observed.said() or [{}])[-1].items())
