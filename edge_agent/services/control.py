"""Does what the other programs of the device ask for over the control socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

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

Method = Callable[[object], Awaitable[object]]
"""Takes a request's params, returns what JSON can say; raises ``EdgeAgentError``."""


def publish_method(accept: Accept, *, max_record: int) -> Method:
    """Return the method ``publish``: a record's id, once it is safe.

    Args:
        accept: the way into the outbox.
        max_record: bytes of the largest ``data``.
    """

    async def publish(params: object) -> object:
        return {"id": await accept(parse_submission(params, max_record=max_record))}

    return publish


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
        except OutboxError as error:
            code = INVALID_PARAMS if isinstance(error, SubmissionError) else FAILED
            return Failure(code, str(error), {"word": error.word})
        except EdgeAgentError as error:
            return Failure(FAILED, str(error))
