"""The journal of commands on the disk: how far each has come, and its end in one transaction with its replies."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any, Final

import orjson

from edge_agent.command_ports import Registry
from edge_agent.core.command_entry import Entry, ReplyTo, load
from edge_agent.core.command_states import Happened
from edge_agent.core.journal import Journal
from edge_agent.core.records import Priority, Record
from edge_agent.core.submission import Submission
from edge_agent.errors import OutboxError
from edge_agent.ports import Clock
from edge_agent.services.outbox import Outbox

log = logging.getLogger(__name__)

PREFIX: Final = "command/"
LOCAL: Final = ReplyTo("")
"""The answer goes to whoever waits for it, and nowhere else."""


class CommandBook:
    """What is remembered of commands.

    Attributes:
        journal: all of it.
        outbox: takes replies, and notes down what must not be forgotten.
        unsaid: last states for which the outbox had no room yet.
    """

    def __init__(self, registry: Registry, outbox: Outbox, clock: Clock) -> None:
        self.journal = Journal()
        self.outbox = outbox
        self.unsaid: deque[tuple[Entry, ReplyTo]] = deque()
        self._may_repeat = frozenset(name for name, command in registry.items() if command.idempotent)
        self._clock = clock

    def recall(self) -> list[Entry]:
        """Recall what was noted down; return what has not ended."""
        for name, text in self.outbox.notes.items():
            if name.startswith(PREFIX):
                self.journal.keep(load(text), len(text))
        return list(self.journal.open.values())

    def keep(self, entry: Entry, beside: Record | None = None) -> asyncio.Future[Any]:
        """Note down how far a command has come; return a future that is done once that is durable.

        What nobody can ask for again is forgotten at its end.
        """
        note = PREFIX + entry.id
        if entry.reply == LOCAL and not entry.deduplicated:
            pass
        elif entry.state.is_final and not entry.deduplicated:
            self.journal.forget(entry.id)
            self.outbox.note(note, None, beside)
        else:
            text = entry.dump()
            self.journal.keep(entry, len(text))
            self.outbox.note(note, text, beside)
        return self.outbox.noted()

    def end(self, entry: Entry, happened: Happened, result: str | None, error: tuple[str, str] | None) -> None:
        """Bring a command to its end."""
        entry.result, entry.error = result, error
        entry.step(happened, self._clock.now().time)
        replies, entry.copies = (entry.reply, *entry.copies), ()
        records = [self.say(entry, reply) for reply in replies]
        _ = self.keep(entry, beside=records[-1])  # and with the last one those before it
        took_ms = None if entry.started is None else (entry.finished or 0) // 1_000_000 - entry.started // 1_000_000
        said = {"command": entry.command, "id": entry.id, "state": entry.state.value, "took_ms": took_ms}
        log.info("command", extra=said if error is None else said | {"code": error[0], "reason": error[1]})
        if self.journal.is_crowded:
            self.forget_old()

    def say(self, entry: Entry, reply: ReplyTo) -> Record | None:
        """Say the last state; return ``None`` where nobody is to be told, or that waits for room in the outbox."""
        if reply == LOCAL:
            return None
        submission = Submission(
            reply.channel,
            orjson.dumps(entry.data()),
            Priority.CRITICAL,
            always=True,
            subject=entry.command,
            traceparent=reply.traceparent,
            correlation=reply.correlation,
        )
        try:
            return self.outbox.put(submission)
        except OutboxError as error:
            log.warning("reply_waits", extra={"id": entry.id, "reason": str(error)})
            self.unsaid.append((entry, reply))
            return None

    def say_again(self) -> None:
        """Try again what there was no room for."""
        for _ in range(len(self.unsaid)):
            self.say(*self.unsaid.popleft())

    def forget_old(self) -> None:
        """Forget what has outlived its use."""
        for command_id in self.journal.outlived(self._clock.now(), may_repeat=self._may_repeat):
            self.journal.forget(command_id)
            self.outbox.note(PREFIX + command_id, None)
