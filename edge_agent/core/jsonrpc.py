"""JSON-RPC 2.0, one object a line: what may be asked, and how it is answered."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

import orjson

MAX_ID: Final = 128

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
FAILED: Final = -32000
BUSY: Final = -32001
"""Nothing of this connection was or will be read."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for.

    Attributes:
        method: its name.
        params: as parsed from JSON; ``None`` without any.
        id: what the answer is told by.
        notification: it came without an id and gets no answer.
    """

    method: str
    params: object = None
    id: str | int | None = None
    notification: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no result.

    Attributes:
        code: one of this module's.
        message: one line that says what was found and what to do.
        data: more, for programs.
    """

    code: int
    message: str
    data: object = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request.

    Attributes:
        id: the request's; ``None`` where that is not known.
        result: what can be said in JSON; a ``Failure`` says why there is none.
    """

    id: str | int | None
    result: object


def parse_request(line: bytes) -> Request | Answer:
    """Return what a line asks for, or the answer that says what is wrong with it."""
    try:
        message = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return Answer(None, Failure(PARSE_ERROR, f"not JSON: {error}; one JSON object a line is needed"))
    if isinstance(message, list):
        return _invalid("batches are not supported; write one request a line, there is no need to wait in between")
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        return _invalid('an object with "jsonrpc": "2.0" is needed')
    request_id = message.get("id")
    named = isinstance(request_id, str) and len(request_id) <= MAX_ID
    if not (named or request_id is None or type(request_id) is int):
        return _invalid(f"id must be an integer of 64 bits or a string of at most {MAX_ID} characters")
    if not isinstance(message.get("method"), str):
        return _invalid('method is needed, like "publish"', request_id)
    return Request(message["method"], message.get("params"), request_id, notification="id" not in message)


def encode_request(request: Request) -> bytes:
    """Return a request as a line."""
    members = {"jsonrpc": "2.0", "method": request.method, "params": request.params}
    return _line(members if request.notification else members | {"id": request.id})


def parse_answer(line: bytes) -> Answer:
    """Return what a line answers.

    Raises:
        ValueError: it is no answer, or the end of the connection, which reads as an empty line.
    """
    try:
        message = orjson.loads(line)
        if "error" not in message:
            return Answer(message["id"], message["result"])
        error = message["error"]
        return Answer(message["id"], Failure(int(error["code"]), str(error["message"]), error.get("data")))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError("this is no JSON-RPC answer" if line else "the connection ended") from error


def encode_answer(answer: Answer) -> bytes:
    """Return an answer as a line; its result must be something that JSON can say."""
    if not isinstance(answer.result, Failure):
        return _line({"jsonrpc": "2.0", "result": answer.result, "id": answer.id})
    error = {name: value for name, value in asdict(answer.result).items() if value is not None}
    return _line({"jsonrpc": "2.0", "error": error, "id": answer.id})


def _line(message: object) -> bytes:
    return orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE)


def _invalid(message: str, request_id: str | int | None = None) -> Answer:
    return Answer(request_id, Failure(INVALID_REQUEST, message))
