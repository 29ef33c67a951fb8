"""One command at work: its handler runs until it ends, its time is up, or somebody calls it off.

Here a task is not spawned in a TaskGroup: that would wait for ever for a handler that cannot be ended.
"""

from __future__ import annotations

import asyncio
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
"""What a handler has to end when it is cancelled; then the command has ended, and only its place is still taken."""

MAX_MESSAGE: Final = 500  # characters

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
        self._watch: asyncio.Task[None] | None = None
        self._off: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.stopped_by: tuple[Happened, str] | None = None

    def begin(self, ended: Callable[[Outcome], None], freed: Callable[[], None]) -> None:
        """Have it done; ``ended`` is called once, and then ``freed``: when its handler has really returned."""
        run = self._run(ended, freed)
        self._watch = asyncio.get_running_loop().create_task(run, name=f"command-{self._command.name}")
        self._watch.add_done_callback(_raise)

    def call_off(self, happened: Happened, reason: str) -> None:
        """End it; how is what it then ends with, if it has not come to its end by itself."""
        if self.stopped_by is None:
            self.stopped_by = happened, reason
            self._off.set_result(None)

    async def over(self) -> None:
        """Wait until it has ended, if it was begun."""
        if self._watch is not None:
            await asyncio.wait((self._watch,))

    async def _run(self, ended: Callable[[Outcome], None], freed: Callable[[], None]) -> None:
        if self._off.done():
            ended(self._cut_short())
            freed()
            return
        task = asyncio.get_running_loop().create_task(_done_by(self._command, self._call, self._args))
        limit = to_seconds(self._command.timeout)
        await asyncio.wait((task, self._off), timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            self.call_off(Happened.OVERTIME, f"it took longer than {format_duration(self._command.timeout)}")
            task.cancel()
            await asyncio.wait((task,), timeout=GRACE_S)
        if task.done():
            ended(self._outcome(task))
            freed()
        else:
            log.error("command_hangs", extra={"command": self._command.name, "id": self._call.id})
            ended(self._cut_short())
            task.add_done_callback(lambda _: freed())

    def _cut_short(self) -> Outcome:
        happened, reason = self.stopped_by or (Happened.FAULT, "its handler cancelled itself")
        return happened, None, (_CODES.get(happened, Code.FAILED).value, reason)

    def _outcome(self, task: asyncio.Task[object | BaseException]) -> Outcome:
        if task.cancelled():
            return self._cut_short()
        result = task.result()
        if isinstance(result, BaseException):
            return self._cut_short() if self.stopped_by is not None else (Happened.FAULT, None, self._fault(result))
        try:
            said = orjson.dumps(result)
            text = said.decode()  # of a fragment it may be anything
        except Exception as error:  # noqa: BLE001  # what a handler returns may be anything
            return Happened.FAULT, None, (Code.FAILED.value, _text(error, "its result cannot be said in JSON: "))
        if len(said) > self._max_result:
            reason = f"its result has {len(said)} bytes; {self._max_result} are allowed (outbox.max_record)"
            return Happened.FAULT, None, (Code.FAILED.value, reason)
        return Happened.DONE, text, None

    def _fault(self, error: BaseException) -> tuple[str, str]:
        if isinstance(error, CommandError):
            return error.code.value, _text(error)
        if isinstance(error, EdgeAgentError):
            return Code.FAILED.value, _text(error)
        log.error("command_bug", extra={"command": self._command.name, "id": self._call.id}, exc_info=error)
        return Code.FAILED.value, _text(error, f"a bug of its handler, see the agent's log: {type(error).__name__}: ")


async def _done_by(command: Command, call: Call, args: Section) -> object | BaseException:
    """Return what a handler returns or raises: a task that raised ``SystemExit`` would end the process."""
    try:
        return await command.run(call, args)
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001  # it fails alone
        return error


def _text(error: BaseException, before: str = "") -> str:
    """Return an error's message, so that JSON can say it, and the outbox has room for it."""
    try:
        text = before + str(error)
    except Exception:  # noqa: BLE001  # somebody else's code
        text = before + type(error).__name__
    return text[:MAX_MESSAGE].encode(errors="replace").decode()


def _raise(watch: asyncio.Task[None]) -> None:
    """Raise a bug of ours on the loop, for nobody waits for the task."""
    if not watch.cancelled():
        watch.result()
