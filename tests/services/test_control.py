"""The method table."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from pydantic import Field

from edge_agent.command_ports import Command
from edge_agent.core.command_request import Code, CommandError
from edge_agent.core.config_types import Name, Section
from edge_agent.core.submission import Submission
from edge_agent.errors import EdgeAgentError, OutboxError
from edge_agent.services.control import Control, command_methods, method, publish_method


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


async def test_each_command_is_a_method_whose_params_are_its_arguments() -> None:
    """Why it does not succeed is said in a word, too; for bad arguments with JSON-RPC's own number."""
    asked: list[tuple[str, object]] = []

    async def perform(name: str, params: object) -> object:
        asked.append((name, params))
        if params == {"job": "a"}:
            return {"done": True}
        raise CommandError(Code.INVALID_ARGS if params is None else Code.BUSY, "no")

    registry = {"do": Command("do", "Do it.", Args, dict, lambda _call, _args: asyncio.sleep(0))}
    control = Control(command_methods(registry, perform))
    answers = [
        json.loads(await control.answer(request(method="do", params=params)) or b"")
        for params in ({"job": "a"}, None, {"job": "b"})
    ]
    assert asked == [("do", {"job": "a"}), ("do", None), ("do", {"job": "b"})]
    assert [answer.get("result", answer.get("error")) for answer in answers] == [
        {"done": True},
        {"code": -32602, "message": "no", "data": {"code": "invalid_args"}},
        {"code": -32000, "message": "no", "data": {"code": "busy"}},
    ]


async def test_what_is_no_command_has_its_params_read_by_a_model_too() -> None:
    """In the one place for that."""

    async def told(args: Args) -> object:
        return args.job

    call = method(Args, told)
    assert await call({"job": "a"}) == "a"
    with pytest.raises(CommandError, match=r"args\.job: this key is needed"):
        await call(None)
