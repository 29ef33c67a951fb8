"""The method table."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pydantic import Field

from edge_agent.command_ports import Call, Command
from edge_agent.core.command_request import Code, CommandError
from edge_agent.core.config_types import Name, Section
from edge_agent.core.submission import Submission
from edge_agent.core.timebase import seconds
from edge_agent.errors import EdgeAgentError, OutboxError
from edge_agent.services.control import Control, command_methods, performer, publish_method


class Accepting:
    """See ``ports.Accept``; keeps what it gets, or refuses it."""

    def __init__(self, error: EdgeAgentError | None = None) -> None:
        self.got: list[Submission] = []
        self._error = error

    async def __call__(self, submission: Submission) -> str:
        """Keep it."""
        if self._error is not None:
            raise self._error
        self.got.append(submission)
        return f"s.{len(self.got)}"


def request(**members: object) -> bytes:
    """Return a request to publish, as a line."""
    params = {"channel": "data/t", "data": {"c": 21.5}}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "publish", "params": params} | members).encode()


async def answered(accept: Accepting, line: bytes) -> dict[str, Any]:
    """Return the answer to a line, parsed."""
    answer = await Control({"publish": publish_method(accept, max_record=100)}).answer(line)
    assert answer is not None
    members: dict[str, Any] = json.loads(answer)
    assert (members.pop("jsonrpc"), members.pop("id")) == ("2.0", 1)
    return members


async def test_a_record_that_is_published_has_an_id() -> None:
    """The one that the outbox gave it."""
    accept = Accepting()
    assert await answered(accept, request()) == {"result": {"id": "s.1"}}
    assert accept.got == [Submission("data/t", b'{"c":21.5}')]


@pytest.mark.parametrize(
    ("params", "said"),
    [
        (None, "the parameters must be an object"),
        ([1], "the parameters must be an object"),
        ({"channel": "x", "data": {}}, "data/NAME"),
        ({"channel": "data/t", "data": {"x": "y" * 100}}, "outbox.max_record allows 100"),
    ],
)
async def test_bad_parameters_are_named(params: object, said: str) -> None:
    """And nothing is accepted."""
    accept = Accepting()
    error = (await answered(accept, request(params=params)))["error"]
    assert (error["code"], error["data"]) == (-32602, {"word": "invalid"})
    assert said in error["message"]
    assert accept.got == []


async def test_what_the_outbox_refuses_has_a_word_for_programs() -> None:
    """And a line for people."""
    error = (await answered(Accepting(OutboxError("full; make room", word="full")), request()))["error"]
    assert error == {"code": -32000, "message": "full; make room", "data": {"word": "full"}}


async def test_every_other_failure_is_one_line() -> None:
    """Whatever of the tree it is."""
    error = (await answered(Accepting(EdgeAgentError("no; do this")), request()))["error"]
    assert error == {"code": -32000, "message": "no; do this"}


async def test_an_unknown_method_is_told_what_there_is() -> None:
    """However long its name is."""
    error = (await answered(Accepting(), request(method="x" * 5000)))["error"]
    assert error["code"] == -32601
    assert error["message"].endswith("; known: publish")
    assert len(error["message"]) < 200


async def test_a_notification_is_obeyed_and_not_answered() -> None:
    """Neither when it fails, nor when there is no such method."""
    accept = Accepting()
    control = Control({"publish": publish_method(accept, max_record=100)})
    for members in ({}, {"params": 1}, {"method": "nonsense"}):
        note = json.loads(request(**members))
        del note["id"]
        assert await control.answer(json.dumps(note).encode()) is None
    assert len(accept.got) == 1


async def test_what_is_no_request_is_answered_at_once() -> None:
    """By the reason, with an id of null."""
    answer = await Control({}).answer(b"nonsense")
    assert answer is not None
    assert json.loads(answer)["error"]["code"] == -32700


class Args(Section):
    """Some arguments."""

    job: Name = Field(description="The job.")


async def outcome_of(run: Callable[[Call, Any], Awaitable[object]], **params: object) -> dict[str, Any]:
    """Return the answer to a command, parsed."""
    registry = {"do": Command("do", "Do it.", Args, dict, run, timeout=seconds(0.01))}
    control = Control(command_methods(registry, performer(registry)))
    answer = await control.answer(request(method="do", params=params))
    assert answer is not None
    members: dict[str, Any] = json.loads(answer)
    return members


async def test_a_command_is_a_method_whose_params_are_its_arguments() -> None:
    """Read once by its model; it may bring what local files may."""

    async def run(call: Call, args: Args) -> object:
        return {"job": args.job, "local": call.local}

    assert (await outcome_of(run, job="a"))["result"] == {"job": "a", "local": True}


async def test_why_a_command_does_not_succeed_is_said_in_a_word_too() -> None:
    """JSON-RPC's own number for bad parameters; a bug fails this command alone."""

    async def bug(_call: Call, _args: Args) -> object:
        raise ZeroDivisionError("oh")

    async def busy(_call: Call, _args: Args) -> object:
        raise CommandError(Code.BUSY, "later")

    async def wait(_call: Call, _args: Args) -> object:
        return await asyncio.Event().wait()

    for run, params, code, word, message in (
        (bug, {}, -32602, "invalid_args", "job: this key is needed"),
        (bug, {"job": "a"}, -32000, "failed", "ZeroDivisionError: oh"),
        (busy, {"job": "a"}, -32000, "busy", "later"),
        (wait, {"job": "a"}, -32000, "timeout", "it took longer than 10ms"),
    ):
        error = (await outcome_of(run, **params))["error"]
        assert error == {"code": code, "message": message, "data": {"code": word}}
