"""What a person may ask of the outbox."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from edge_agent.commands.queue import commands
from edge_agent.core.command_request import CommandError
from edge_agent.core.records import Priority
from edge_agent.core.submission import Submission
from edge_agent.errors import EdgeAgentError
from edge_agent.services.queue_tools import PAGE, QueueTools
from tests.fakes import FakeBroker
from tests.support.commands import asked
from tests.support.flow import UP, Flow


def tools_of(flow: Flow) -> QueueTools:
    """Return the tools of a flow's outbox."""
    return QueueTools(flow.outbox, flow.keeping, device="dev-1")


async def ask(tools: QueueTools, method: str, **params: object) -> Any:  # noqa: ANN401  # as JSON has it
    """Return what a method answers, as a client sees it."""
    if method in tools.methods():
        return json.loads(orjson.dumps(await tools.methods()[method](params or None)))
    return await asked(commands(tools), method, params or None)


async def fill(flow: Flow, count: int, channel: str = "data/x", priority: Priority = Priority.NORMAL) -> None:
    """Put records, all on the disk afterwards."""
    for number in range(count):
        flow.outbox.put(Submission(channel, b'{"n": %d}' % number, priority))
    await flow.outbox.written()


@pytest.mark.virtual
async def test_stat_tells_what_waits_and_what_was_dropped(tmp_path: Path) -> None:
    """Records, streams, and every reason."""
    flow = Flow(tmp_path, FakeBroker(up=False))
    async with flow.running():
        await fill(flow, 3)
        await fill(flow, 2, "data/y", Priority.BULK)
        tools = tools_of(flow)
        assert await ask(tools, "queue-purge", channel="data/y") == {"purged": 2}
        found = await ask(tools, "queue-stat")
        assert found["records"] == 3
        assert found["dropped_by_reason"] == {"purged": 2}
        assert found["streams"][f"{found['name']}-bulk"]["last"] == 2
        assert found["online"] is False
        (gap,) = found["gaps"]
        assert gap == {"stream": f"{found['name']}-bulk", "first": 1, "last": 2, "count": 2, "reason": "purged"}


@pytest.mark.virtual
async def test_peek_pages_through_all_records_in_sending_order(tmp_path: Path) -> None:
    """Urgent ones first, each once; they are events as consumers see them, and stay."""
    flow = Flow(tmp_path, FakeBroker(up=False))
    async with flow.running():
        await fill(flow, PAGE + 7)
        await fill(flow, 2, "event/door", Priority.CRITICAL)
        tools, seen = tools_of(flow), []
        after: int | None = 0
        while after is not None:
            page = await ask(tools, "queue-peek", after=after)
            seen += [event["id"] for event in page["records"]]
            after = page["next"]
        name = flow.outbox.pending.name
        assert seen[:2] == [f"{name}-critical.1", f"{name}-critical.2"]
        assert seen[2:] == [f"{name}-normal.{number}" for number in range(1, PAGE + 8)]
        assert (await ask(tools, "queue-stat"))["records"] == PAGE + 9


@pytest.mark.virtual
async def test_a_page_is_bounded_in_bytes(tmp_path: Path) -> None:
    """An answer of 500 large records would be too large for a line."""
    flow = Flow(tmp_path, FakeBroker(up=False))
    async with flow.running():
        for _ in range(12):
            flow.outbox.put(Submission("data/x", b'"' + b"y" * 110_000 + b'"'))
        tools, sizes = tools_of(flow), []
        after: int | None = 0
        while after is not None:
            page = await ask(tools, "queue-peek", after=after)
            sizes.append(len(page["records"]))
            after = page["next"]
        assert sum(sizes) == 12
        assert max(sizes) <= 10


@pytest.mark.virtual
async def test_purged_records_are_named_and_not_sent(tmp_path: Path) -> None:
    """Of one priority only; a gap event tells the consumers."""
    broker = FakeBroker(up=False)
    flow = Flow(tmp_path, broker)
    async with flow.running():
        await fill(flow, 4)
        await fill(flow, 1, "data/y", Priority.CRITICAL)
        assert await ask(tools_of(flow), "queue-purge", priority="normal") == {"purged": 4}
        broker.up = True
        await asyncio.sleep(60)
        sent = [json.loads(m.payload) for m in broker.log if m.topic.startswith((UP + "data", UP + "event"))]
        assert [event["subject"] for event in sent] == ["y", "outbox"]
        assert sent[1]["data"]["gaps"][0] | {"stream": ""} == {
            "stream": "",
            "first": 1,
            "last": 4,
            "count": 4,
            "reason": "purged",
        }


@pytest.mark.virtual
async def test_dead_letters_are_shown_returned_and_forgotten(tmp_path: Path) -> None:
    """``retry`` gives them new numbers; what is refused again is a dead letter again; ``purge`` ends it."""
    broker = FakeBroker(puback=lambda topic: 0x90 if topic.endswith("data/x") else 0)
    flow = Flow(tmp_path, broker)
    async with flow.running():
        await asyncio.sleep(10)
        flow.outbox.put(Submission("data/x", b'{"n": 1}'))
        await asyncio.sleep(5)
        tools = tools_of(flow)
        (letter,) = (await ask(tools, "queue-dead"))["dead"]
        assert letter["reason"] == 0x90
        assert letter["record"]["data"] == {"n": 1}
        assert await ask(tools, "queue-retry") == {"retried": 1}
        await asyncio.sleep(5)
        assert len((await ask(tools, "queue-dead"))["dead"]) == 1  # refused once more
        broker.puback = lambda _topic: 0
        assert await ask(tools, "queue-retry") == {"retried": 1}
        await asyncio.sleep(5)
        assert (await ask(tools, "queue-dead"))["dead"] == []
        delivered = [json.loads(m.payload)["id"] for m in broker.log if m.topic == UP + "data/x"]
        assert delivered[-1].endswith("-normal.3")
        broker.puback = lambda _topic: 0x90
        flow.outbox.put(Submission("data/x", b"{}"))
        await asyncio.sleep(5)
        assert await ask(tools, "queue-purge", dead=True) == {"purged": 1}
        assert (await ask(tools, "queue-dead"))["dead"] == []


@pytest.mark.virtual
async def test_a_check_tells_that_the_file_is_whole(tmp_path: Path) -> None:
    """SQLite's own word."""
    flow = Flow(tmp_path, FakeBroker(up=False))
    async with flow.running():
        await fill(flow, 3)
        assert await ask(tools_of(flow), "queue-check") == {"structure": "ok"}


@pytest.mark.virtual
@pytest.mark.parametrize("params", [{"after": "all"}, {"after": -1}, {"x": 1}])
async def test_wrong_parameters_are_refused(tmp_path: Path, params: dict[str, object]) -> None:
    """With what is allowed."""
    flow = Flow(tmp_path, FakeBroker(up=False))
    async with flow.running():
        with pytest.raises(CommandError):
            await ask(tools_of(flow), "queue-peek", **params)


@pytest.mark.virtual
async def test_without_a_store_it_says_that_it_cannot_be_read(tmp_path: Path) -> None:
    """The state directory is a file: the outbox lives in memory."""
    (tmp_path / "state").write_text("")
    flow = Flow(tmp_path / "state", FakeBroker(up=False))
    async with flow.running():
        assert (await ask(tools_of(flow), "queue-stat"))["conditions"] == ["outbox: io_error"]
        with pytest.raises(EdgeAgentError, match="cannot be read"):
            await ask(tools_of(flow), "queue-peek")
