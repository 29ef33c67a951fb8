"""A task for many things."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Final

import pytest

from edge_agent.services.shared_task import SharedTask

LEFT: Final[ContextVar[str]] = ContextVar("LEFT", default="nothing")


class Desk:
    """What is done with things, by their names.

    Attributes:
        began: each thing, its task, what was left in its context, and when, in seconds.
        ended: each thing that has come to its end.
    """

    def __init__(self) -> None:
        self.began: list[tuple[str, asyncio.Task[None], str, float]] = []
        self.ended: list[str] = []
        self.shared = SharedTask(self._work)

    async def _work(self, thing: str, task: asyncio.Task[None]) -> None:
        assert asyncio.current_task() is task
        assert task.get_name() == f"of {thing}"
        self.began.append((thing, task, LEFT.get(), asyncio.get_running_loop().time()))
        if "leaves" in thing:
            LEFT.set(thing)
        if "cancels" in thing:
            task.cancel()
        if "waits" in thing:
            await asyncio.sleep(10)
            assert (asyncio.current_task(), task.get_name()) == (task, f"of {thing}")
        self.ended.append(thing)


async def begun(*things: str) -> Desk:
    """Return a desk where so many have begun."""
    desk = Desk()
    first, *_ = [desk.shared.put(thing, f"of {thing}") for thing in things]
    while len(desk.began) < len(things):  # noqa: ASYNC110  # each turn of the loop brings some
        await asyncio.sleep(0)
    assert desk.began[0][1] is first
    return desk


@pytest.mark.virtual
async def test_what_does_not_wait_shares_a_task_and_what_waits_keeps_it() -> None:
    """Those behind begin in the same instant, and in order."""
    desk = await begun("a", "b waits", "c", "d", "e waits", "f")
    a, b, c, d, e, f = (task for _, task, _, _ in desk.began)
    assert (a is b, b is c, c is d, d is e, e is f) == (True, False, True, True, False)
    assert [(thing, at) for thing, _, _, at in desk.began] == [
        (thing, 0) for thing in ("a", "b waits", "c", "d", "e waits", "f")
    ]
    await asyncio.sleep(20)
    assert desk.ended == ["a", "c", "d", "f", "b waits", "e waits"]


@pytest.mark.virtual
async def test_what_waits_is_cancelled_alone() -> None:
    """Neither those before it nor those after it."""
    desk = await begun("a", "b waits", "c waits")
    desk.began[1][1].cancel()
    await asyncio.sleep(20)
    assert desk.ended == ["a", "c waits"]


@pytest.mark.virtual
@pytest.mark.parametrize("does", ["leaves", "cancels"])
async def test_what_one_leaves_does_not_reach_the_next(does: str) -> None:
    """Neither a variable in its context nor a cancel that came too late for itself."""
    desk = await begun(f"a {does}", "b waits")
    assert [left for _, _, left, _ in desk.began] == ["nothing", "nothing"]
    await asyncio.sleep(20)
    assert desk.ended == [f"a {does}", "b waits"]


@pytest.mark.virtual
async def test_what_is_put_meanwhile_has_its_turn_after_the_loops() -> None:
    """So that they never keep the loop from all else."""
    turns: list[str] = []

    async def work(left: int, _task: asyncio.Task[None]) -> None:
        turns.append("thing")
        if left:
            puts.append(shared.put(left - 1, "n"))
            asyncio.get_running_loop().call_soon(turns.append, "loop")

    shared = SharedTask(work)
    puts = [shared.put(2, "n")]
    await asyncio.sleep(1)
    assert turns == ["thing", "loop", "thing", "loop", "thing"]
