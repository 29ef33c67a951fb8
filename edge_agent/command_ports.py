"""What a command is, and what a handler of it is given: never the agent itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NamedTuple

from edge_agent.core.config_types import Section
from edge_agent.core.timebase import DurationNs, seconds

SHORT: Final = seconds(30)


class CutOff(Enum):
    """What becomes of a command that a stop or a crash has cut off."""

    INTERRUPTED = "interrupted"  # it ends so: nobody knows how much of it was done
    AGAIN = "again"  # it runs again: once or twice is the same
    DONE = "done"  # to have been cut off is what it asked for


class Call(NamedTuple):
    """One command under way, as its handler sees it.

    Attributes:
        id: of the command.
        traceparent: W3C trace context that it came with.
        local: whether it came over the control socket, so that it may bring paths and URLs as local files may.
    """

    id: str
    traceparent: str | None = None
    local: bool = False


class NoArgs(Section):
    """It takes no arguments."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command that can be obeyed.

    Attributes:
        name: what it is called at every door.
        summary: what it does, in one sentence that begins with a verb.
        args: the model of its arguments.
        result: the type of its result, anything that pydantic can describe.
        run: does it, on the loop, and never blocks that; raises ``EdgeAgentError`` if it fails for a reason outside
            (``CommandError`` with a code of its own), anything else is a bug of the handler's that fails this command
            alone. Cancelled at its timeout, by ``cancel`` and by a stop.
        touches: what it may change, in a word or two (``jobs``, ``outbox``); ``nothing`` = it only reads.
        timeout: after so long it is ``timed_out``.
        cut_off: what becomes of it when it is cut off; a function decides by its arguments.
        at_once: so many of it run at the same time.
        waiting: so many more wait; what comes beyond them is ``busy``.
    """

    name: str
    summary: str
    args: type[Section]
    result: Any
    run: Callable[[Call, Any], Awaitable[object]]
    touches: str = "nothing"
    timeout: DurationNs = SHORT
    cut_off: CutOff | Callable[[Any], CutOff] = CutOff.AGAIN
    at_once: int = 4
    waiting: int = 1000

    @property
    def idempotent(self) -> bool:
        """Whether it may run twice."""
        return self.cut_off is CutOff.AGAIN


Registry = Mapping[str, Command]
"""All commands that this agent has, by name."""
