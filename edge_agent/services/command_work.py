"""One command at work: its handler runs until it ends, its time is up, or somebody calls it off.

Here a task is not spawned in a TaskGroup: that would wait for ever for a handler that cannot be ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

import orjson

from edge_agent.command_ports import Call, Command
from edge_agent.core.command_request import Code, CommandError
from edge_agent.core.command_states import Happened
from edge_agent.core.config_types import Section
from edge_agent.core.timebase import to_seconds
from edge_agent.core.units import format_duration
from edge_agent.errors import EdgeAgentError

log = logging.getLogger(__name__)

GRACE_S: Final = 5.0
"""What a handler has to end when it is cancelled; then it is left alone, and the command has ended."""

_CODES: Final = {
    Happened.CALLED_OFF: Code.INTERRUPTED,
    Happened.OVERTIME: Code.TIMEOUT,
    Happened.CUT_OFF: Code.INTERRUPTED,
}

Outcome = tuple[Happened, str | None, tuple[str, str] | None]
"""What happened, the result as JSON, and the code and message of why there is none."""


class CommandWork:
    """The work of one command.

    Attributes:
        stopped_by: why it was called off.
    """

    def __init__(self, command: Command, call: Call, args: Section, *, max_result: int) -> None:
        self._max_result = max_result
        self._command = command
        self._call = call
        self._args = args
        self._task: asyncio.Task[object] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._off: asyncio.Future[None] | None = None
        self.stopped_by: tuple[Happened, str] | None = None

    def begin(self, ended: Callable[[Outcome], None]) -> None:
        """Have it done; ``ended`` is called once."""
        self._watch = asyncio.get_running_loop().create_task(self._run(ended), name=f"command-{self._command.name}")

    def call_off(self, happened: Happened, reason: str) -> None:
        """End it; how is what it then ends with, if it has not come to its end by itself."""
        if self.stopped_by is None:
            self.stopped_by = happened, reason
            if self._off is not None and not self._off.done():
                self._off.set_result(None)

    async def over(self) -> None:
        """Wait until it has ended."""
        if self._watch is not None:
            await asyncio.wait((self._watch,))

    async def _run(self, ended: Callable[[Outcome], None]) -> None:
        if self.stopped_by is None:
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(_done_by(self._command, self._call, self._args))
            self._off = loop.create_future()
            limit = to_seconds(self._command.timeout)
            await asyncio.wait((self._task, self._off), timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if not self._task.done():
                self.call_off(Happened.OVERTIME, f"it took longer than {format_duration(self._command.timeout)}")
                self._task.cancel()
                await asyncio.wait((self._task,), timeout=GRACE_S)
        ended(self._outcome())

    def _outcome(self) -> Outcome:
        task = self._task
        if task is None or not task.done() or task.cancelled():
            if task is not None and not task.done():
                log.error("command_hangs", extra={"command": self._command.name, "id": self._call.id})
                task.add_done_callback(_let_go)
            happened, reason = self.stopped_by or (Happened.FAULT, "its handler cancelled itself")
            return happened, None, (_CODES.get(happened, Code.FAILED).value, reason)
        error = task.exception()
        if error is None:
            return self._result(task.result())
        if self.stopped_by is not None:
            happened, reason = self.stopped_by
            return happened, None, (_CODES[happened].value, reason)
        return Happened.FAULT, None, self._fault(error)

    def _result(self, result: object) -> Outcome:
        try:
            said = orjson.dumps(result)
        except (orjson.JSONEncodeError, RecursionError) as error:
            return Happened.FAULT, None, (Code.FAILED.value, f"its result cannot be said in JSON: {error}")
        if len(said) > self._max_result:
            text = f"its result has {len(said)} bytes; {self._max_result} are allowed (outbox.max_record)"
            return Happened.FAULT, None, (Code.FAILED.value, text)
        return Happened.DONE, said.decode(), None

    def _fault(self, error: BaseException) -> tuple[str, str]:
        if isinstance(error, CommandError):
            return error.code.value, str(error)
        if isinstance(error, EdgeAgentError):
            return Code.FAILED.value, str(error)
        log.error("command_bug", extra={"command": self._command.name, "id": self._call.id}, exc_info=error)
        return Code.FAILED.value, f"{type(error).__name__}: {error}; this is a bug of its handler, see the agent's log"


async def _done_by(command: Command, call: Call, args: Section) -> object:
    return await command.run(call, args)


def _let_go(task: asyncio.Task[object]) -> None:
    """Look at what became of a handler that nobody waits for any more, so that nothing complains that nobody has."""
    with contextlib.suppress(asyncio.CancelledError):
        task.exception()
