"""Another process's end of the daemon's control socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, Final, Self

from edge_agent.core.jsonrpc import BUSY, INVALID_PARAMS, Answer, Failure, Request, encode_request, parse_answer
from edge_agent.errors import EdgeAgentError, UnreachableError, UsageError

ANSWER_WITHIN_S: Final = 30.0
_MAX_ANSWER: Final = 16 * 1024 * 1024


class UnansweredError(UnreachableError):
    """The connection ended before the answer came: nobody knows whether what was asked for is done."""


class ControlClient:
    """One connection to the daemon; requests may be sent before earlier ones are answered, 128 at most."""

    def __init__(self, path: Path, *, answer_within_s: float = ANSWER_WITHIN_S) -> None:
        """Connect.

        Raises:
            UnreachableError: it was not possible.
        """
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(answer_within_s)
        try:
            self._socket.connect(os.fspath(path))
        except OSError as error:
            self._socket.close()
            known = isinstance(error, PermissionError)
            fix = "be a member of the daemon's group" if known else "is it running? systemctl status edge-agent"
            raise UnreachableError(
                f"the daemon cannot be reached at {path}: {error.strerror or error}; {fix}"
            ) from None
        self._answers = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._answers.close()
        self._socket.close()

    def call(self, method: str, **params: object) -> Any:  # noqa: ANN401  # whatever the daemon answers
        """Return what a method answers.

        Raises:
            UsageError: a parameter is wrong.
            EdgeAgentError: it says why it does not do it.
            UnreachableError: no answer came.
        """
        self.send(Request(method, params, id=1))
        result = self.receive().result
        if isinstance(result, Failure):
            raise (UsageError if result.code == INVALID_PARAMS else EdgeAgentError)(result.message)
        return result

    def send(self, request: Request) -> None:
        """Send a request.

        Raises:
            UnansweredError: the connection has ended, or nothing was taken for 30 s.
        """
        try:
            self._socket.sendall(encode_request(request))
        except ConnectionError:
            pass  # the answer says why, or does not come
        except OSError as error:
            raise UnansweredError(f"the daemon does not take the request: {error}") from None

    def receive(self) -> Answer:
        """Return the next answer; which request it belongs to, its id says.

        Raises:
            UnreachableError: the daemon takes no more connections, and has read nothing of this one.
            UnansweredError: there will be no answer, or it took longer than 30 s.
        """
        try:
            answer = parse_answer(self._answers.readline(_MAX_ANSWER))
        except (OSError, ValueError) as error:
            raise UnansweredError(f"the daemon does not answer: {error}") from None
        if answer.id is None and isinstance(answer.result, Failure):
            refused = UnreachableError if answer.result.code == BUSY else UnansweredError
            raise refused(f"the daemon ended the connection: {answer.result.message}")
        return answer
