"""The doors of a real agent: sustained feeding on slow flash, and an inbox through many kills."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from edge_agent.adapters.store_file import opened_copy
from edge_agent.core.records import Record
from tests.support.agents import AgentProcess, agent, config_text
from tests.support.inboxes import drop, drop_many, left
from tests.support.iotrace import Iotrace

OFFLINE = "mqtt://127.0.0.1:1"


def stored(state: Path) -> list[Record]:
    """Return all records of a stopped agent."""
    records: list[Record] = []
    after: int | None = 0
    with opened_copy(state) as store:
        while after is not None:
            page, damaged, after = store.peek(after, rows=500)
            assert not damaged
            records += page
    return records


async def start_again(process: AgentProcess) -> None:
    """Kill it and start it."""
    process.signal(signal.SIGKILL)
    await process.wait()
    process.start()


async def take_in_through_kills(tmp_path: Path, *, files: int, kills: int) -> None:
    """Drop files while the agent is stopped, kill it again and again during the intake, and count what it has."""
    inbox = tmp_path / "state" / "inbox"
    rng = random.Random(7)  # noqa: S311  # when to kill
    async with agent(tmp_path, config_text(OFFLINE)) as process:
        async with asyncio.timeout(30):
            while not inbox.exists():  # noqa: ASYNC110  # another process makes it
                await asyncio.sleep(0.01)
        process.signal(signal.SIGKILL)
        await process.wait()
        drop_many(inbox, range(files))
        drop(inbox, "bad.json", b'{"channel": "up/#", "data": {}}')
        process.start()
        for kill in range(kills):
            goal = files - (kill + 1) * files // (kills + 1)
            async with asyncio.timeout(60):
                while len(left(inbox)) > goal:  # noqa: ASYNC110  # another process empties it
                    await asyncio.sleep(0.002)
            await asyncio.sleep(rng.uniform(0, 0.01))
            await start_again(process)
        async with asyncio.timeout(60):
            while left(inbox):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        process.signal(signal.SIGTERM)
        await process.wait()
    counts = Counter(json.loads(record.body)["n"] for record in stored(tmp_path / "state"))
    assert counts == dict.fromkeys(range(files), 1)
    assert "channel" in (inbox / "rejected" / "bad.json.reason.txt").read_text()


@pytest.mark.timeout_s(120)
async def test_files_dropped_while_stopped_are_taken_in_once_through_kills(tmp_path: Path) -> None:
    """2,000 files and 5 kills during the intake: each is in the outbox once; the bad one says why it is not."""
    await take_in_through_kills(tmp_path, files=2_000, kills=5)


@pytest.mark.slow
@pytest.mark.timeout_s(600)
async def test_ten_thousand_files_are_taken_in_once_through_twenty_kills(tmp_path: Path) -> None:
    """The same at full length."""
    await take_in_through_kills(tmp_path, files=10_000, kills=20)


@pytest.mark.timeout_s(60)
@pytest.mark.parametrize(
    "least",
    [200, pytest.param(1_000, marks=pytest.mark.slow)],  # a rate is judged where nothing else runs
)
async def test_a_thousand_records_a_second_come_in_on_slow_flash(least: int, tmp_path: Path) -> None:
    """One client, 50 ms per fsync, offline: one at a time it would be 20; group commit takes more than 1,000."""
    state = tmp_path / "state"
    state.mkdir()
    environ = Iotrace(state).environ(sync_us=50_000)
    async with agent(tmp_path, config_text(OFFLINE), **environ) as process:
        await process.logged("started")
        async with asyncio.timeout(30):
            while not (tmp_path / "control.sock").exists():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_unix_connection(tmp_path / "control.sock")
        begun = time.monotonic()

        async def feed() -> None:
            for number in range(5_000):
                params = {"channel": "data/x", "data": {"n": number, "pad": "y" * 180}}
                request = {"jsonrpc": "2.0", "id": number, "method": "publish", "params": params}
                writer.write(json.dumps(request).encode() + b"\n")
                await writer.drain()

        async with asyncio.TaskGroup() as group:
            group.create_task(feed())
            answers = [json.loads(await reader.readline()) for _ in range(5_000)]
        took_s = time.monotonic() - begun
        writer.close()
        assert len({answer["result"]["id"] for answer in answers}) == 5_000
        assert 5_000 / took_s >= least
