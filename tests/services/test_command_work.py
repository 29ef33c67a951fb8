"""A command at work: however its handler behaves, it ends once, with words that fit into a reply."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest
from typing_extensions import override

from edge_agent.command_ports import Call, Command, NoArgs
from edge_agent.core.command_request import Code, CommandError
from edge_agent.core.command_states import Happened
from edge_agent.core.timebase import seconds
from edge_agent.errors import EdgeAgentError
from edge_agent.services.command_work import MAX_MESSAGE, CommandWork, Outcome

Handler = Callable[[Call, Any], Awaitable[object]]


class Watched:
    """A command at work, and when it ended and gave up its place."""

    def __init__(self, handler: Handler, *, max_result: int = 1000) -> None:
        command = Command("do", "Try.", NoArgs, Any, handler, timeout=seconds(30))
        self.work = CommandWork(command, Call("c-1"), NoArgs(), max_result=max_result)
        self.ends: list[tuple[float, Outcome]] = []
        self.freed: list[float] = []
        self.work.begin(self._ended, lambda: self.freed.append(self.now()))

    def now(self) -> float:
        """Return the loop's time."""
        return asyncio.get_running_loop().time()

    def _ended(self, outcome: Outcome) -> None:
        assert not self.freed
        self.ends.append((self.now(), outcome))

    async def outcome(self) -> Outcome:
        """Return how it ended."""
        await self.work.over()
        ((_, outcome),) = self.ends
        return outcome


async def ends_as(handler: Handler) -> Outcome:
    """Return how a command with this handler ends by itself."""
    watched = Watched(handler)
    outcome = await watched.outcome()
    assert len(watched.freed) == 1
    return outcome


def returning(value: object) -> Handler:
    """Return a handler that returns something."""

    async def handler(_call: Call, _args: NoArgs) -> object:
        return value

    return handler


def raising(error: BaseException) -> Handler:
    """Return a handler that raises something."""

    async def handler(_call: Call, _args: NoArgs) -> object:
        raise error

    return handler


class UnspeakableError(Exception):
    """Its message cannot be had."""

    @override
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.virtual
async def test_what_a_handler_returns_is_the_result() -> None:
    """As JSON."""
    assert await ends_as(returning({"a": (1, None)})) == (Happened.DONE, '{"a":[1,null]}', None)


@pytest.mark.virtual
@pytest.mark.parametrize("value", [object(), {1: 2}, 1 << 70, "\ud800", {1, 2}, orjson.Fragment(b"\xff")])
async def test_what_json_cannot_say_is_a_fault(value: object) -> None:
    """Of the handler."""
    happened, result, error = await ends_as(returning(value))
    assert (happened, result) == (Happened.FAULT, None)
    assert error is not None
    assert error[0] == "failed"


@pytest.mark.virtual
async def test_a_result_that_is_too_large_is_a_fault() -> None:
    """It says how large it is, and what is allowed."""
    happened, _, error = await ends_as(returning("x" * 1000))
    assert happened is Happened.FAULT
    assert error == ("failed", "its result has 1002 bytes; 1000 are allowed (outbox.max_record)")
    assert (await ends_as(returning("x" * 998)))[0] is Happened.DONE


@pytest.mark.virtual
@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (CommandError(Code.BUSY, "why"), "busy", "why"),
        (EdgeAgentError("why"), "failed", "why"),
        (ValueError("why"), "failed", "a bug of its handler, see the agent's log: ValueError: why"),
        (SystemExit(3), "failed", "a bug of its handler, see the agent's log: SystemExit: 3"),
        (KeyboardInterrupt(), "failed", "a bug of its handler, see the agent's log: KeyboardInterrupt: "),
        (GeneratorExit(), "failed", "a bug of its handler, see the agent's log: GeneratorExit: "),
        (UnspeakableError(), "failed", "a bug of its handler, see the agent's log: UnspeakableError: UnspeakableError"),
        (EdgeAgentError("\ud800"), "failed", "?"),
        (EdgeAgentError("x" * 5000), "failed", "x" * MAX_MESSAGE),
        (asyncio.CancelledError(), "failed", "its handler cancelled itself"),
    ],
)
async def test_whatever_a_handler_raises_its_command_alone_fails(
    error: BaseException, code: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In words that JSON can say, and that a reply has room for."""
    with caplog.at_level(logging.CRITICAL):
        outcome = await ends_as(raising(error))
    assert outcome == (Happened.FAULT, None, (code, message))
    assert orjson.dumps(outcome[2])


@pytest.mark.virtual
async def test_a_handler_that_is_none_is_a_fault() -> None:
    """It returned no coroutine."""

    def handler(_call: Call, _args: NoArgs) -> object:
        return 7

    assert (await ends_as(handler))[0] is Happened.FAULT  # type: ignore[arg-type]


@pytest.mark.virtual
async def test_at_its_timeout_it_is_cancelled() -> None:
    """Which it may take note of."""
    seen = []

    async def handler(_call: Call, _args: NoArgs) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            seen.append(asyncio.get_running_loop().time())

    assert await ends_as(handler) == (Happened.OVERTIME, None, ("timeout", "it took longer than 30s"))
    assert seen == [30]


@pytest.mark.virtual
@pytest.mark.parametrize("happened", [Happened.CALLED_OFF, Happened.CUT_OFF])
async def test_what_is_called_off_ends_so(happened: Happened) -> None:
    """The first reason counts."""
    watched = Watched(raising(asyncio.CancelledError()))
    watched.work.call_off(happened, "why")
    watched.work.call_off(Happened.OVERTIME, "not that")
    assert await watched.outcome() == (happened, None, ("interrupted", "why"))


@pytest.mark.virtual
async def test_what_is_called_off_before_it_begins_does_not_begin() -> None:
    """Nothing of it was done."""
    seen: list[int] = []

    async def handler(_call: Call, _args: NoArgs) -> None:
        seen.append(1)

    work = CommandWork(Command("do", "Try.", NoArgs, Any, handler), Call("c-1"), NoArgs(), max_result=9)
    await work.over()
    work.call_off(Happened.CALLED_OFF, "why")
    ends: list[object] = []
    work.begin(ends.append, lambda: ends.append("freed"))
    await work.over()
    assert ends == [(Happened.CALLED_OFF, None, ("interrupted", "why")), "freed"]
    assert seen == []


@pytest.mark.virtual
async def test_who_ends_well_although_called_off_has_ended_well() -> None:
    """It was done; but what fails then does so because of that."""

    async def handler(_call: Call, _args: NoArgs) -> str:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            return "done"
        return "never"

    assert await ends_as(handler) == (Happened.DONE, '"done"', None)

    async def breaking(_call: Call, _args: NoArgs) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            raise ValueError

    assert (await ends_as(breaking))[0] is Happened.OVERTIME


@pytest.mark.virtual
async def test_a_handler_that_does_not_end_keeps_its_place_alone() -> None:
    """Its command ends after a grace; the place is free when the handler has really returned."""

    async def handler(_call: Call, _args: NoArgs) -> None:
        end = asyncio.get_running_loop().time() + 100
        while (left := end - asyncio.get_running_loop().time()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                continue
        raise ValueError

    watched = Watched(handler)
    assert (await watched.outcome())[0] is Happened.OVERTIME
    assert watched.ends[0][0] == 35
    assert watched.freed == []
    await asyncio.sleep(100)
    assert watched.freed == [100]


@pytest.mark.virtual
async def test_a_bug_of_ours_is_not_kept_to_a_command() -> None:
    """It reaches the loop."""
    seen = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(repr(context["exception"])))

    def ended(_outcome: Outcome) -> None:
        raise RuntimeError("ours")

    work = CommandWork(Command("do", "Try.", NoArgs, Any, returning(1)), Call("c-1"), NoArgs(), max_result=9)
    work.begin(ended, lambda: None)
    await work.over()
    await asyncio.sleep(0)
    assert seen == ["RuntimeError('ours')"]
