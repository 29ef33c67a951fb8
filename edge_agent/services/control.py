"""Does what the other programs of the device ask for over the control socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeVar

from pydantic import Field

from edge_agent.command_ports import Registry
from edge_agent.core.command_request import Code, CommandError, parse_args
from edge_agent.core.config_types import Section
from edge_agent.core.jsonrpc import (
    FAILED,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    Answer,
    Failure,
    Request,
    encode_answer,
    parse_request,
)
from edge_agent.core.submission import parse_submission
from edge_agent.errors import EdgeAgentError, OutboxError, SubmissionError
from edge_agent.ports import Accept

M = TypeVar("M", bound=Section)

Method = Callable[[object], Awaitable[object]]
"""Takes a request's params, returns what JSON can say; raises ``EdgeAgentError``."""

Perform = Callable[[str, object], Awaitable[object]]
"""Has a command obeyed that is in the registry: takes its name and arguments, returns its result or raises
``CommandError``."""


def command_methods(registry: Registry, perform: Perform) -> dict[str, Method]:
    """Return a method for each command."""
    return {name: partial(perform, name) for name in registry}


def method(args: type[M], run: Callable[[M], Awaitable[object]]) -> Method:
    """Return a method that is no command, with params that a model describes."""

    async def call(params: object) -> object:
        return await run(parse_args(args, params))

    return call


def publish_method(accept: Accept, *, max_record: int) -> Method:
    """Return the method ``publish``: a record's id, once it is safe.

    Args:
        accept: the way into the outbox.
        max_record: bytes of the largest ``data``.
    """

    async def publish(params: object) -> object:
        return {"id": await accept(parse_submission(params, max_record=max_record))}

    return publish


class After(Section):
    """Where to go on."""

    after: int = Field(0, ge=0, le=(1 << 62) - 1, description="What the last answer had as next, or its last number.")


class Control:
    """Answers requests from a table of methods."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._methods = methods

    async def answer(self, line: bytes) -> bytes | None:
        """Return the answer to one line, as a line; ``None`` for a notification, which gets none."""
        request = parse_request(line)
        if isinstance(request, Answer):
            return encode_answer(request)
        result = await self._perform(request)
        return None if request.notification else encode_answer(Answer(request.id, result))

    async def _perform(self, request: Request) -> object:
        method = self._methods.get(request.method)
        if method is None:
            known = ", ".join(sorted(self._methods))
            return Failure(METHOD_NOT_FOUND, f"unknown method {request.method[:80]!r}; known: {known}")
        try:
            return await method(request.params)
        except CommandError as error:
            code = INVALID_PARAMS if error.code is Code.INVALID_ARGS else FAILED
            return Failure(code, str(error), {"code": error.code})
        except OutboxError as error:
            code = INVALID_PARAMS if isinstance(error, SubmissionError) else FAILED
            return Failure(code, str(error), {"word": error.word})
        except EdgeAgentError as error:
            return Failure(FAILED, str(error))
