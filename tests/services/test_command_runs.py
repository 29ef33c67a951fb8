"""Commands from begin to end, and over restarts: in virtual time, on the real outbox and store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_agent.command_ports import Command, NoArgs
from edge_agent.core.command_entry import STARTS
from edge_agent.core.command_request import Code, CommandError
from edge_agent.services.command_book import PREFIX
from tests.support.dispatching import Desk, Handlers, S, StoodClock, an_entry

pytestmark = pytest.mark.virtual


@asynccontextmanager
async def life(folder: Path, handlers: Handlers, **more: Any) -> AsyncIterator[Desk]:  # noqa: ANN401
    """Let one life of an agent go by."""
    registry = {name: more.pop(name) for name in ("at_once", "waiting") if name in more}
    desk = Desk(folder, more.pop("registry", None) or handlers.registry(**registry), **more)
    async with desk.running():
        await asyncio.sleep(0.1)
        yield desk


async def crash(folder: Path, handlers: Handlers, name: str, said: dict[str, object], **more: Any) -> None:  # noqa: ANN401
    """Leave a command on the disk as it was when the agent was killed."""
    desk = Desk(folder, handlers.registry(), **more)
    await desk.start()
    await asyncio.sleep(0.1)
    await desk.obey(name, said)
    desk.outbox.note = lambda *_: None  # type: ignore[method-assign]
    desk.outbox.put = lambda *_: an_entry()  # type: ignore[method-assign,assignment]
    for task in desk.tasks:
        task.cancel()
    await asyncio.gather(*desk.tasks, return_exceptions=True)


async def test_it_is_on_the_disk_before_it_begins_and_when_its_sender_is_told(tmp_path: Path) -> None:
    """And it begins as soon as it is."""
    handlers = Handlers()
    async with life(tmp_path, handlers) as desk:
        with desk.keeping._worker.stalled():  # type: ignore[attr-defined]
            arrived = desk.take("do", {"id": "c-1"})
            await asyncio.sleep(5)
            assert not arrived.done()
            assert handlers.runs["do"] == []
            assert desk.told == []
        await asyncio.sleep(0.1)
        assert arrived.done()
        assert handlers.runs["do"] == ["c-1"]
        assert [one["state"] for one in desk.told] == ["accepted", "running"]
        assert desk.states() == ["succeeded"]


async def test_what_may_run_twice_and_is_quick_is_written_down_once(tmp_path: Path) -> None:
    """It begins at once, and its door is told when its end is on the disk."""
    handlers = Handlers()
    async with life(tmp_path, handlers) as desk:
        commits = desk.keeping.commits
        with desk.keeping._worker.stalled():  # type: ignore[attr-defined]
            arrived = desk.take("see", {"id": "c-1"})
            await asyncio.sleep(0.01)
            assert handlers.runs["see"] == ["c-1"]
            await asyncio.sleep(1)
            assert not arrived.done()
        await asyncio.sleep(0.1)
        assert arrived.done()
        assert desk.keeping.commits == commits + 1
        assert desk.states() == ["succeeded"]


async def test_what_turns_out_to_be_slow_is_written_down_after_all(tmp_path: Path) -> None:
    """So that nobody behind it waits for its end to be told that he has arrived."""
    handlers = Handlers(lasts=60)
    async with life(tmp_path, handlers) as desk:
        arrived = desk.take("see", {"id": "c-1"})
        await asyncio.sleep(0.01)
        assert not arrived.done()
        assert desk.outbox.notes == {}
        await asyncio.sleep(0.1)
        assert arrived.done()
        assert PREFIX + "c-1" in desk.outbox.notes


async def test_what_may_have_been_begun_before_is_counted_before_it_begins(tmp_path: Path) -> None:
    """What comes again may be what has ended the agent."""
    handlers = Handlers()
    async with life(tmp_path, handlers) as desk:
        with desk.keeping._worker.stalled():  # type: ignore[attr-defined]
            _ = desk.take("see", {"id": "c-1"}, again=True)
            _ = desk.take("see", {"id": "c-2", "ttl": "9s"}, retained=True, expiry_s=99)
            await asyncio.sleep(1)
            assert handlers.runs["see"] == []
        await asyncio.sleep(0.1)
        assert handlers.runs["see"] == ["c-1", "c-2"]


async def test_as_many_run_at_once_as_may_and_the_others_in_their_order(tmp_path: Path) -> None:
    """One command's line does not hold up another's."""
    handlers = Handlers(lasts=10)
    async with life(tmp_path, handlers, at_once=2) as desk:
        for n in range(5):
            await desk.obey("do", {"id": f"c-{n}"})
        await desk.obey("see", {"id": "s"})
        assert handlers.runs == {"do": ["c-0", "c-1"], "see": ["s"], "end": []}
        await asyncio.sleep(10)
        assert handlers.runs["do"] == ["c-0", "c-1", "c-2", "c-3"]
        await asyncio.sleep(20)
        assert handlers.runs["do"] == [f"c-{n}" for n in range(5)]
        assert desk.states() == ["succeeded"] * 6


async def test_a_delay_is_slept_through_to_the_moment(tmp_path: Path) -> None:
    """Neither early nor late; it is told that it was accepted."""
    handlers = Handlers()
    async with life(tmp_path, handlers) as desk:
        began = asyncio.get_running_loop().time()
        arrived = desk.take("do", {"id": "c-1", "delay": "2h"})
        await asyncio.sleep(7199.9)
        assert arrived.done()
        assert handlers.runs["do"] == []
        await asyncio.sleep(0.2)
        assert handlers.runs["do"] == ["c-1"]
        assert desk.replies()[0]["started"] == "2027-01-15T10:00:00.100000Z"
        assert [one["state"] for one in desk.told] == ["accepted", "running"]
        assert began == 0.1


async def test_what_waits_for_a_time_waits_for_true_time(tmp_path: Path) -> None:
    """However that is corrected, and although it is not known for a while."""
    handlers, clock = Handlers(), StoodClock()
    async with life(tmp_path, handlers, clock=clock) as desk:
        await desk.obey("do", {"id": "c-1", "not_before": "2027-01-15T09:00:00Z"})
        clock.utc_offset += -1800 * S  # type: ignore[assignment]
        desk.dispatcher.time_changed()
        await asyncio.sleep(3700)
        clock.state = "unsynced"
        await asyncio.sleep(1900)
        assert handlers.runs["do"] == []
        clock.state = "synced"
        desk.dispatcher.time_changed()
        await asyncio.sleep(0.1)
        assert handlers.runs["do"] == ["c-1"]


async def test_what_waits_expires_at_its_time(tmp_path: Path) -> None:
    """In line or for its time; that is its final state, and durable."""
    handlers = Handlers(lasts=100)
    async with life(tmp_path, handlers, at_once=1) as desk:
        await desk.obey("do", {"id": "first"})
        await desk.obey("do", {"id": "line", "ttl": "10s"})
        await desk.obey("do", {"id": "time", "expires": "2027-01-15T08:00:20Z"})
        await asyncio.sleep(9)
        assert desk.states() == []
        await asyncio.sleep(1)
        assert desk.states("line") == ["expired"]
        await asyncio.sleep(10)
        assert desk.states("time") == ["expired"]
        assert desk.replies("time")[0]["error"]["code"] == "expired"
        await asyncio.sleep(30)
        assert handlers.runs["do"] == ["first"]


async def test_what_waits_or_runs_can_be_cancelled(tmp_path: Path) -> None:
    """Whatever it waits for; what has ended cannot."""
    handlers = Handlers(lasts=None)
    async with life(tmp_path, handlers, at_once=1) as desk:
        await desk.obey("do", {"id": "runs"})
        await desk.obey("do", {"id": "line"})
        await desk.obey("do", {"id": "time", "delay": "1h"})
        for name in ("runs", "line", "time"):
            assert desk.dispatcher.cancel(name)
        await asyncio.sleep(1)
        assert not any(desk.dispatcher.cancel(name) for name in ("runs", "line", "time", "never"))
        assert desk.states() == ["cancelled"] * 3
        assert handlers.runs["do"] == ["runs"]
        assert desk.dispatcher.runs.lines.waiting["do"] == 0


async def test_what_is_cancelled_while_it_is_written_down_does_not_begin(tmp_path: Path) -> None:
    """It ends as cancelled all the same."""
    handlers = Handlers()
    async with life(tmp_path, handlers) as desk:
        with desk.keeping._worker.stalled():  # type: ignore[attr-defined]
            arrived = desk.take("do", {"id": "c-1"})
            await asyncio.sleep(1)
            assert desk.dispatcher.cancel("c-1")
        await arrived
        await asyncio.sleep(0.1)
        assert handlers.runs["do"] == []
        assert desk.states() == ["cancelled"]


async def test_who_does_not_end_keeps_one_place(tmp_path: Path) -> None:
    """So that there are never more of them than places; the next goes when it has ended."""
    handlers = Handlers(lasts=None, deaf=True)
    async with life(tmp_path, handlers, at_once=1) as desk:
        await desk.obey("do", {"id": "hangs"})
        await asyncio.sleep(40)
        assert desk.states() == ["timed_out"]
        await desk.obey("do", {"id": "waits"})
        await asyncio.sleep(100)
        assert handlers.runs["do"] == ["hangs"]
        handlers.release.set()
        await asyncio.sleep(1)
        assert handlers.runs["do"] == ["hangs", "waits"]


# ---------------------------------------------------------------- stops and crashes
async def test_a_crash_interrupts_what_may_not_run_twice(tmp_path: Path) -> None:
    """That is said once, and to whoever sends it again."""
    handlers = Handlers(lasts=None)
    await crash(tmp_path, handlers, "do", {"id": "c-1"})
    async with life(tmp_path, handlers) as desk:
        assert desk.states() == ["interrupted"]
        await desk.obey("do", {"id": "c-1"})
        first, second = desk.replies()
        assert first == second
        assert handlers.runs["do"] == ["c-1"]


async def test_a_crash_lets_run_again_what_may(tmp_path: Path) -> None:
    """But not what has ended the agent three times."""
    handlers = Handlers(lasts=None)
    await crash(tmp_path, handlers, "see", {"id": "c-1"})
    for _ in range(STARTS - 1):
        await crash(tmp_path, handlers, "do", {"ttl": "1s"})
    handlers.lasts = 0
    async with life(tmp_path, handlers) as desk:
        assert desk.states("c-1") == ["failed"]
        assert "begun 3 times" in desk.replies("c-1")[0]["error"]["message"]
    assert handlers.runs["see"] == ["c-1"] * STARTS


async def test_to_be_cut_off_is_what_some_ask_for(tmp_path: Path) -> None:
    """They have succeeded, by a crash or by a stop."""
    handlers = Handlers(lasts=None)
    await crash(tmp_path, handlers, "end", {"id": "c-1"})
    async with life(tmp_path, handlers) as desk:
        assert desk.replies("c-1")[0]["result"] == {"done": True}
        await desk.obey("end", {"id": "c-2"})
    async with life(tmp_path, handlers) as desk:
        assert desk.states() == ["succeeded"] * 2
    assert handlers.runs["end"] == ["c-1", "c-2"]


async def test_a_stop_interrupts_or_goes_on_later_and_is_no_fault(tmp_path: Path) -> None:
    """However often the agent is restarted, what may run again does."""
    handlers = Handlers(lasts=None)
    for n in range(STARTS + 2):
        async with life(tmp_path, handlers) as desk:
            await desk.obey("see", {"id": "again"})
            await desk.obey("do", {"id": f"c-{n}"})
        assert handlers.runs["see"] == ["again"] * (n + 1)
    handlers.lasts = 0
    async with life(tmp_path, handlers) as desk:
        assert {state for n in range(STARTS + 2) for state in desk.states(f"c-{n}")} == {"interrupted"}
        assert desk.states("again") == ["succeeded"] * (STARTS + 2)


async def test_what_is_being_written_down_when_the_agent_stops_begins_in_the_next_life(tmp_path: Path) -> None:
    """It was not begun, so it is not interrupted."""
    handlers = Handlers()
    desk = Desk(tmp_path, handlers.registry())
    await desk.start()
    await asyncio.sleep(0.1)
    with desk.keeping._worker.stalled():  # type: ignore[attr-defined]
        _ = desk.take("do", {"id": "c-1"})
        await asyncio.sleep(0.1)
        desk.tasks[1].cancel()
        await asyncio.sleep(0.1)
    await desk.stop()
    assert handlers.runs["do"] == []
    async with life(tmp_path, handlers) as desk:
        assert handlers.runs["do"] == ["c-1"]
        assert desk.states() == ["succeeded"]


async def test_what_waits_goes_on_waiting_after_a_restart(tmp_path: Path) -> None:
    """What was off counts; the order stays."""
    handlers, clock = Handlers(lasts=1), StoodClock()
    async with life(tmp_path, handlers, clock=clock, at_once=1) as desk:
        await desk.obey("do", {"id": "z-first", "delay": "60s"})
        await desk.obey("do", {"id": "a-second", "delay": "60s"})
        await asyncio.sleep(10)
    await asyncio.sleep(40)
    clock.raw_base = clock.monotonic()
    async with life(tmp_path, handlers, clock=clock, at_once=1, boot="another"):
        await asyncio.sleep(9)
        assert handlers.runs["do"] == []
        await asyncio.sleep(3)
        assert handlers.runs["do"] == ["z-first", "a-second"]


async def test_a_command_that_is_gone_after_an_upgrade_ends(tmp_path: Path) -> None:
    """What was cut off is interrupted; what waited, or has other arguments now, fails."""
    handlers = Handlers(lasts=None)
    async with life(tmp_path, handlers) as desk:
        await desk.obey("do", {"id": "waits", "delay": "1h"})
        await desk.obey("see", {"id": "args", "args": {"n": 1}, "delay": "1h"})
    await crash(tmp_path, handlers, "do", {"id": "runs"})
    registry = {"see": Command("see", "Try.", NoArgs, Any, handlers.registry()["see"].run)}
    async with life(tmp_path, handlers, registry=registry) as desk:
        assert [desk.states(name) for name in ("waits", "args", "runs")] == [["failed"], ["failed"], ["interrupted"]]


# ---------------------------------------------------------------- the disk
async def test_while_the_disk_fails_what_may_run_twice_is_obeyed(tmp_path: Path) -> None:
    """Its sender may send it again until it has ended; anything else is refused."""
    handlers = Handlers(lasts=5)
    async with life(tmp_path, handlers) as desk:
        desk.keeping.fails = True
        first = desk.take("see", {"id": "c-0"})
        await asyncio.sleep(1)
        arrived = desk.take("see", {"id": "c-1"})
        await asyncio.sleep(1)
        assert handlers.runs["see"] == ["c-0", "c-1"]
        assert not first.done()
        assert not arrived.done()
        for name, said in (("do", {"id": "c-2"}), ("see", {"id": "c-3", "delay": "1h"})):
            with pytest.raises(CommandError, match="disk fails") as raised:
                _ = desk.take(name, said)
            assert raised.value.code is Code.BUSY
        await asyncio.sleep(10)
        assert desk.states() == ["succeeded"] * 2
        await desk.mend()
        assert first.done()
        assert arrived.done()
        assert PREFIX + "c-1" in desk.outbox.notes


async def test_what_the_disk_could_not_take_is_not_begun(tmp_path: Path) -> None:
    """It is refused, with all that repeat it, is forgotten, and holds up nobody behind it."""
    handlers = Handlers()
    async with life(tmp_path, handlers) as desk:
        desk.keeping.fails = True
        arrived = [desk.take("do", {"id": "now"}), desk.take("see", {"id": "later", "delay": "1h"})]
        arrived.append(desk.take("do", {"id": "now"}))
        asked = asyncio.get_running_loop().create_task(desk.dispatcher.command({"command": "do", "id": "local"}))
        await asyncio.sleep(1)
        assert handlers.runs["do"] == []
        assert [(one["state"], one["error"]["code"]) for one in desk.told] == [("rejected", "busy")] * 4
        assert sorted(one["id"] for one in desk.told) == ["later", "local", "now", "now"]
        assert (await asked)["state"] == "rejected"  # type: ignore[index]
        assert all(one.done() for one in arrived)
        assert desk.states() == []
        await desk.mend()
        await desk.obey("do", {"id": "now"})
        assert desk.states() == ["succeeded"]


async def test_what_the_disk_knows_waits_for_it(tmp_path: Path) -> None:
    """Its turn comes while the disk fails: it is begun once that is mended, in its order."""
    handlers = Handlers()
    async with life(tmp_path, handlers) as desk:
        await desk.obey("do", {"id": "c-1", "delay": "5s"})
        await desk.obey("do", {"id": "c-2", "delay": "6s"})
        await desk.obey("see", {"id": "c-3", "delay": "6s"})
        desk.keeping.fails = True
        await asyncio.sleep(60)
        assert handlers.runs == {"do": [], "see": ["c-3"], "end": []}
        assert desk.states() == []
        await desk.mend()
        assert handlers.runs["do"] == ["c-1", "c-2"]
        assert sorted(desk.states()) == ["succeeded"] * 3
        assert desk.book.journal.find("c-1").starts == 1  # type: ignore[union-attr]


async def test_what_a_store_tells_later_is_taken_up_then(tmp_path: Path) -> None:
    """It could not be opened at the start, or was salvaged."""
    handlers = Handlers(lasts=None)
    await crash(tmp_path, handlers, "do", {"id": "c-1"})
    folder = tmp_path.rename(tmp_path.with_name("kept"))
    tmp_path.write_text("in the way")
    async with life(tmp_path, handlers) as desk:
        assert desk.states() == []
        tmp_path.unlink()
        folder.rename(tmp_path)
        facts = await desk.keeping.open()
        assert facts is not None
        desk.outbox.take_over(facts)
        await desk.obey("do", {"id": "c-1"})
        assert desk.states() == ["interrupted"] * 2
    assert handlers.runs["do"] == ["c-1"]
