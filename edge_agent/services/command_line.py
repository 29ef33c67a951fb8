"""Commands that have not ended: which of them run, which wait in line for a place, which for their time."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass

from edge_agent.command_ports import Command, CutOff
from edge_agent.core.command_entry import Entry
from edge_agent.core.config_types import Section
from edge_agent.services.command_work import CommandWork


@dataclass(slots=True, eq=False)
class Ready:
    """A command that is under way or waits.

    Attributes:
        work: once it is begun, or is being written down as begun.
        arrived: done when its sender may be told that it has arrived; ``None`` = nobody waits for that.
        over: set at its end, or when the agent stops; ``None`` = nobody on this device waits for it.
        is_new: whether nobody can have begun it before: it was delivered for the first time.
        in_line: whether it waits only for those before it.
        told: whether it was said that it was accepted.
    """

    entry: Entry
    command: Command
    args: Section
    work: CommandWork | None = None
    arrived: asyncio.Future[None] | None = None
    over: asyncio.Event | None = None
    is_new: bool = False
    in_line: bool = False
    told: bool = False

    @property
    def may_be_forgotten(self) -> bool:
        """Whether it may begin although the disk does not know of that."""
        return self.command.idempotent or self.entry.is_passing

    @property
    def may_begin_at_once(self) -> bool:
        """Whether it may begin before the disk knows: if that is the agent's end, it is delivered again and counted."""
        return self.command.idempotent and self.is_new and not self.entry.stored

    @property
    def cut_off(self) -> CutOff:
        """What becomes of it when it is cut off."""
        decided = self.command.cut_off
        return decided if isinstance(decided, CutOff) else decided(self.args)

    def arrive(self) -> None:
        """Tell whoever waits for it that it has arrived."""
        if self.arrived is not None and not self.arrived.done():
            self.arrived.set_result(None)


class Lines:
    """For each command a line of those that are due, and places for those that run."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[Ready]] = {}
        self._running: Counter[str] = Counter()
        self.waiting: Counter[str] = Counter()

    def names(self) -> list[str]:
        """Return the names of the commands that have a line."""
        return [name for name, line in self._lines.items() if line]

    def has_place(self, command: Command) -> bool:
        """Return whether a command would begin at once."""
        return not self._lines.get(command.name) and self._running[command.name] < command.at_once

    def add(self, ready: Ready) -> None:
        """Take one in; it waits for its time."""
        self.waiting[ready.command.name] += 1

    def line_up(self, ready: Ready, *, first: bool = False) -> None:
        """Put one that is due in line."""
        ready.in_line = True
        line = self._lines.setdefault(ready.command.name, deque())
        (line.appendleft if first else line.append)(ready)

    def next(self, name: str) -> Ready | None:
        """Return the first in line, if there is a place for it."""
        line = self._lines.get(name)
        return line[0] if line and self._running[name] < line[0].command.at_once else None

    def leave(self, ready: Ready) -> None:
        """Take one out that waits."""
        self.waiting[ready.command.name] -= 1
        if ready.in_line:
            ready.in_line = False
            self._lines[ready.command.name].remove(ready)

    def begin(self, ready: Ready) -> None:
        """Give one that waits a place."""
        self.leave(ready)
        self._running[ready.command.name] += 1

    def free(self, name: str) -> None:
        """Take a place back."""
        self._running[name] -= 1
