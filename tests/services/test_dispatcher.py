"""What is decided about a command when it arrives, at whichever door."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from edge_agent.core.command_request import Code, CommandError
from edge_agent.core.journal import MAX_OPEN_BYTES
from edge_agent.core.notes import LOST
from edge_agent.services.command_book import PREFIX
from tests.support.dispatching import Desk, Handlers, StoodClock

pytestmark = pytest.mark.virtual


@asynccontextmanager
async def life(folder: Path, handlers: Handlers | None = None, **more: Any) -> AsyncIterator[Desk]:  # noqa: ANN401
    """Let one life of an agent go by."""
    limits = {name: more.pop(name) for name in ("at_once", "waiting") if name in more}
    desk = Desk(folder, (handlers or Handlers()).registry(**limits), **more)
    async with desk.running():
        await asyncio.sleep(0.1)
        yield desk


def refusal(desk: Desk, command: str, said: object = None, **more: Any) -> CommandError:  # noqa: ANN401
    """Return why a command is refused; nothing of it is remembered."""
    before = set(desk.outbox.notes)
    with pytest.raises(CommandError) as raised:
        _ = desk.take(command, said, **more)
    assert set(desk.outbox.notes) == before
    return raised.value


async def test_a_command_is_obeyed_once_and_each_duplicate_answered(tmp_path: Path) -> None:
    """With equal data, in whatever form it comes."""
    handlers = Handlers()
    async with life(tmp_path, handlers) as desk:
        await desk.obey("do", {"id": "c-1", "args": {"n": 1}})
        await desk.obey("do", {"args": {"n": 1}, "id": "c-1", "ttl": "1s"})
        await desk.obey("do", {"args": {"n": 1}}, correlation=b"c-1")
    async with life(tmp_path, handlers) as desk:
        await desk.obey("do", {"id": "c-1", "args": {"n": 1}}, again=True)
        first, *others = desk.replies("c-1")
        assert others == [first] * 3
        assert handlers.runs["do"] == ["c-1"]


async def test_a_duplicate_of_what_runs_or_waits_is_answered_at_the_end(tmp_path: Path) -> None:
    """In the transaction of the end, and where it wants to be."""
    handlers = Handlers(lasts=10)
    async with life(tmp_path, handlers) as desk:
        for name, said in (("runs", {}), ("waits", {"delay": "5s"})):
            await desk.obey("do", {"id": name, **said})
            await desk.obey("do", {"id": name}, channel="reply/elsewhere", correlation=b"x")
        assert desk.states() == []
        await asyncio.sleep(20)
        assert desk.states() == ["succeeded"] * 4
        assert handlers.runs["do"] == ["runs", "waits"]


async def test_the_same_id_for_something_else_is_refused(tmp_path: Path) -> None:
    """Whether the first has ended or not."""
    async with life(tmp_path, Handlers(lasts=5)) as desk:
        await desk.obey("do", {"id": "c-1", "args": {"n": 1}})
        for _ in range(2):
            for command, args in (("do", {"n": 2}), ("see", {"n": 1}), ("none", {"n": 1})):
                error = refusal(desk, command, {"id": "c-1", "args": args})
                assert (error.code, error.id) == (Code.INVALID_ARGS, "c-1")
            await asyncio.sleep(10)


async def test_an_id_comes_from_the_sender_or_from_the_agent(tmp_path: Path) -> None:
    """Its own, correlation data, or a new one each time."""
    handlers = Handlers()
    async with life(tmp_path, handlers) as desk:
        await desk.obey("do", {"id": "own"}, correlation=b"other")
        await desk.obey("do", correlation=b"\x00\x01")
        await desk.obey("do")
        await desk.obey("do")
        own, correlated, first, second = handlers.runs["do"]
        assert (own, correlated) == ("own", "0001")
        assert first.startswith("x-")
        assert second.startswith("x-")
        assert first != second
        assert sorted(desk.outbox.notes) == [f"{PREFIX}0001", f"{PREFIX}own"]


async def test_what_is_malformed_is_answered_all_the_same(tmp_path: Path) -> None:
    """Under its id where that can be read, else under one of the agent's."""
    async with life(tmp_path) as desk:
        error = refusal(desk, "do", b"{")
        assert error.code is Code.INVALID_ARGS
        assert error.id is not None
        assert error.id.startswith("x-")
        assert refusal(desk, "do", b"{", correlation=b"c-1").id == "c-1"
        assert refusal(desk, "do", {"id": "c-2", "args": 1}).id == "c-2"
        assert refusal(desk, "do", {"id": "c-3", "args": {"n": "x"}}).id == "c-3"
        long = refusal(desk, "do", correlation=b"x" * 2000)
        assert "1024 are allowed" in str(long)
        assert refusal(desk, "do", b'{"args": {"n": ' + b"[" * 500 + b"]" * 500 + b"}}").code is Code.INVALID_ARGS


async def test_what_is_not_known_is_told_from_what_is_not_allowed(tmp_path: Path) -> None:
    """And what is meant, and where to allow it."""
    async with life(tmp_path, allow=("see",)) as desk:
        unknown = refusal(desk, "se", {"id": "c-1"})
        assert (unknown.code, unknown.id) == (Code.UNKNOWN_COMMAND, "c-1")
        assert "did you mean 'see'?" in str(unknown)
        assert refusal(desk, "a/b" * 1000, {"id": "c-1"}).code is Code.UNKNOWN_COMMAND
        refused = refusal(desk, "do", {"id": "c-1", "args": {"x": 1}})
        assert refused.code is Code.NOT_ALLOWED
        assert "commands.allow" in str(refused)
        await desk.obey("see", {"id": "c-1"})


async def test_what_is_retained_needs_an_id_and_an_end(tmp_path: Path) -> None:
    """Then it is obeyed once, and met with silence from then on, whatever it says."""
    handlers = Handlers()
    async with life(tmp_path, handlers) as desk:
        for said, more in (({"id": "c-1"}, {}), ({"expires": "2028-01-01T00:00:00Z"}, {}), ({}, {"expiry_s": 9})):
            assert refusal(desk, "do", said, retained=True, **more).code is Code.RETAINED
        await desk.obey("do", {"id": "c-1", "expires": "2028-01-01T00:00:00Z"}, retained=True)
        await desk.obey("do", {"id": "c-2"}, retained=True, expiry_s=99)
        await desk.obey("do", {"id": "c-1", "expires": "2028-01-01T00:00:00Z"}, retained=True)
        await desk.obey("do", {"id": "c-1", "args": {"n": 2}}, retained=True)
        assert handlers.runs["do"] == ["c-1", "c-2"]
        assert desk.states() == ["succeeded"] * 2


async def test_a_time_needs_a_clock(tmp_path: Path) -> None:
    """What is counted from receipt does not."""
    clock = StoodClock()
    clock.state = "estimated"
    async with life(tmp_path, clock=clock) as desk:
        for name in ("expires", "not_before"):
            error = refusal(desk, "see", {"id": "c-1", name: "2028-01-01T00:00:00Z"})
            assert error.code is Code.TIME_UNKNOWN
            assert "ttl" in str(error)
        await desk.obey("see", {"id": "c-2", "ttl": "9s", "delay": "1s"})
        clock.state = "holdover"
        await desk.obey("see", {"id": "c-1", "expires": "2028-01-01T00:00:00Z"})
        assert refusal(desk, "see", {"id": "c-3", "expires": "2026-01-01T00:00:00Z"}).code is Code.EXPIRED
        assert refusal(desk, "see", {"id": "c-4", "delay": "9s"}, expiry_s=5).code is Code.INVALID_ARGS


async def test_so_many_wait_and_no_more(tmp_path: Path) -> None:
    """The next ones are busy; a place that is free needs no line."""
    async with life(tmp_path / "a", Handlers(lasts=5), at_once=1, waiting=1) as desk:
        await desk.obey("do", {"id": "c-1"})
        await desk.obey("do", {"id": "c-2"})
        assert refusal(desk, "do", {"id": "c-3"}).code is Code.BUSY
        await desk.obey("see", {"id": "s"})
        await asyncio.sleep(6)
        await desk.obey("do", {"id": "c-3"})
    async with life(tmp_path / "b", Handlers(lasts=5), at_once=1, waiting=0) as desk:
        await desk.obey("do", {"id": "c-1"})
        assert refusal(desk, "do", {"id": "c-2"}).code is Code.BUSY
        assert refusal(desk, "see", {"id": "s", "delay": "1s"}).code is Code.BUSY


async def test_the_journal_takes_so_much_that_waits_and_no_more(tmp_path: Path) -> None:
    """However few commands that are."""
    async with life(tmp_path, Handlers()) as desk:
        long = "reply/" + "x" * 50_000
        for n in range(MAX_OPEN_BYTES // len(long) + 1):
            await desk.take("do", {"id": f"c-{n}", "delay": "1h"}, channel=long)
        error = refusal(desk, "do", {"id": "c-more", "delay": "1h"})
        assert error.code is Code.BUSY
        assert "too many" in str(error)
        assert await desk.dispatcher.perform("do", None), "what is not written down needs no room"
        assert desk.book.journal.open_bytes < MAX_OPEN_BYTES + 60_000


async def test_a_command_that_comes_while_stopping_is_left_to_the_next_life(tmp_path: Path) -> None:
    """Nobody is told that it has arrived, so it comes again."""
    handlers = Handlers()
    async with life(tmp_path, handlers) as desk:
        desk.tasks[1].cancel()
        await asyncio.sleep(0.1)
        arrived = desk.take("do", {"id": "c-1"})
        await asyncio.sleep(10)
        assert not arrived.done()
        assert handlers.runs["do"] == []


async def test_where_the_journal_was_lost_what_may_have_run_is_not_run_again(tmp_path: Path) -> None:
    """What comes again, or is retained, and may not run twice."""
    handlers = Handlers()
    async with life(tmp_path, handlers) as desk:
        desk.outbox.note(LOST, b"")
        desk.dispatcher.recall()
        await desk.obey("do", {"id": "c-1"}, again=True)
        await desk.obey("do", {"id": "c-2", "expires": "2028-01-01T00:00:00Z"}, retained=True)
        await desk.obey("do", {"id": "c-3"})
        await desk.obey("see", {"id": "c-4"}, again=True)
        assert [one["state"] for one in desk.replies()] == ["interrupted", "interrupted", "succeeded", "succeeded"]
        assert "another id" in desk.replies("c-1")[0]["error"]["message"]
        await desk.obey("do", {"id": "c-1"}, again=True)
        assert desk.states("c-1") == ["interrupted"] * 2
        assert handlers.runs == {"do": ["c-3"], "see": ["c-4"], "end": []}


# ---------------------------------------------------------------- on this device
async def test_whoever_is_on_the_device_gets_the_result(tmp_path: Path) -> None:
    """Or why there is none; nothing of it is written down, and no list of what is allowed matters."""
    handlers = Handlers(result={"a": 1})
    async with life(tmp_path, handlers, allow=()) as desk:
        commits = desk.keeping.commits
        assert orjson.dumps(await desk.dispatcher.perform("do", {"n": 1})) == b'{"a":1}'
        assert orjson.dumps(await desk.dispatcher.perform("do", None)) == b'{"a":1}'
        for name, params, code in (
            ("none", {}, Code.UNKNOWN_COMMAND),
            ("do", [1], Code.INVALID_ARGS),
            ("do", {"n": "x"}, Code.INVALID_ARGS),
        ):
            with pytest.raises(CommandError) as raised:
                await desk.dispatcher.perform(name, params)
            assert raised.value.code is code
        handlers.raises = CommandError(Code.BUSY, "why")
        with pytest.raises(CommandError, match="why") as raised:
            await desk.dispatcher.perform("do", {})
        assert raised.value.code is Code.BUSY
        assert desk.keeping.commits == commits
        assert desk.replies() == []


async def test_whoever_is_on_the_device_may_use_all_that_mqtt_may(tmp_path: Path) -> None:
    """An id, and all that comes with it: the same command is answered the same, at both doors."""
    handlers = Handlers(lasts=5)
    async with life(tmp_path, handlers) as desk:
        said = {"command": "do", "id": "c-1", "args": {"n": 1}, "delay": "3s"}
        both = await asyncio.gather(desk.dispatcher.command(said), desk.dispatcher.command(said))
        assert [orjson.loads(orjson.dumps(one))["state"] for one in both] == ["succeeded"] * 2
        await desk.obey("do", {"id": "c-1", "args": {"n": 1}})
        third = await desk.dispatcher.command(said)
        assert [orjson.loads(orjson.dumps(third))] == desk.replies()
        assert handlers.runs["do"] == ["c-1"]
        handlers.raises = ValueError("why")
        failed = await desk.dispatcher.command({"command": "do"})
        assert failed["state"] == "failed"  # type: ignore[index]
        wrongs: list[object] = [{}, [], None]
        for wrong in (*wrongs, {"command": 7}, {"command": "do", "id": "c-1"}, {"command": "do", "ttl": "0s"}):
            with pytest.raises(CommandError):
                await desk.dispatcher.command(wrong)


async def test_whoever_waits_when_the_agent_stops_is_told(tmp_path: Path) -> None:
    """It was interrupted, or goes on in the next life."""
    handlers = Handlers(lasts=None)
    async with life(tmp_path, handlers) as desk:
        loop = asyncio.get_running_loop()
        asked = [
            loop.create_task(desk.dispatcher.perform("do", None)),
            loop.create_task(desk.dispatcher.perform("see", None)),
            loop.create_task(desk.dispatcher.command({"command": "see", "id": "c-1"})),
        ]
        await asyncio.sleep(1)
    for one in asked[:2]:
        with pytest.raises(CommandError, match="stopped"):
            await one
    assert (await asked[2])["state"] == "running"  # type: ignore[index]
    with pytest.raises(CommandError, match="stopped"):
        await desk.dispatcher.perform("see", None)
