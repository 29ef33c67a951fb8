"""The journal of commands on the disk: how far each has come, and its end in one transaction with its replies.

While the disk cannot be written, nothing is said of the end of a command that it knows: after a crash it would end once
more, and perhaps otherwise.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import orjson

from edge_agent.command_ports import Registry
from edge_agent.core.command_entry import MAX_COPIES, Entry, Moment, ReplyTo, load
from edge_agent.core.command_states import Happened
from edge_agent.core.journal import Journal
from edge_agent.core.records import Priority, Record
from edge_agent.core.submission import Submission
from edge_agent.errors import OutboxError
from edge_agent.ports import Clock
from edge_agent.services.lost_notes import LostNotes
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
        owed: what has ended, and has yet to be said somewhere; ``owes``: called when there is more of it.
    """

    def __init__(self, registry: Registry, outbox: Outbox, clock: Clock) -> None:
        self.journal = Journal()
        self.outbox = outbox
        self.owed: dict[str, Entry] = {}
        self.owes: Callable[[], None] = lambda: None
        self._saying: dict[str, tuple[Entry, list[tuple[Record, ReplyTo]]]] = {}  # not on the disk yet
        self._reads = frozenset(name for name, command in registry.items() if command.touches == "nothing")
        self._lost = LostNotes(outbox)
        self._may_repeat = frozenset(name for name, command in registry.items() if command.idempotent)
        self._clock = clock
        outbox.unnoted = self._take_back

    def moment(self) -> Moment:
        """Return now."""
        return Moment(self._clock.now(), self.outbox.age(), self.outbox.age_base)

    @property
    def can_remember(self) -> bool:
        """Whether what is noted down now gets on the disk."""
        return self.outbox.keeping.can_write

    @property
    def is_lost(self) -> bool:
        """Whether commands may have been forgotten that were begun."""
        return bool(self._lost)

    def recall(self) -> list[Entry]:
        """Recall what was noted down and is not known yet; return what has not ended, the oldest first."""
        found, unreadable = [], False
        for name, text in [*self.outbox.notes.items()]:
            if name.startswith(PREFIX) and self.journal.find(name.removeprefix(PREFIX)) is None:
                try:
                    found.append((load(text), len(text)))
                except (ValueError, TypeError, KeyError) as error:
                    log.error("command_unreadable", extra={"note": name, "reason": repr(error)})  # noqa: TRY400
                    self.outbox.note(name, None)
                    unreadable = True
        self._lost.look(unreadable=unreadable)
        for entry, size in sorted(found, key=lambda one: one[0].finished_age or one[0].age):
            self.journal.keep(entry, size)
            if entry.state.is_final and entry.copies:
                self._owe(entry)
        return [entry for entry, _ in sorted(found, key=lambda one: one[0].age) if not entry.state.is_final]

    def hold(self, entry: Entry) -> None:
        """Remember a command in memory alone, for now."""
        self.journal.keep(entry, len(entry.dump()))

    def keep(self, entry: Entry, beside: Record | None = None) -> asyncio.Future[bool]:
        """Note down how far a command has come; return a future that is done once that is durable, or cannot be.

        What nobody can ask for again is forgotten at its end.
        """
        if entry.is_passing:
            kept: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            kept.set_result(True)
            return kept
        if entry.state.is_final and not entry.deduplicated and not entry.copies:
            self.forget(entry.id, beside)
        else:
            text = entry.dump()
            self.journal.keep(entry, len(text))
            if text != self.outbox.notes.get(PREFIX + entry.id):  # that it was said once more changes nothing
                self.outbox.note(PREFIX + entry.id, text, beside)
        noted = self.outbox.noted()
        noted.add_done_callback(partial(_kept, entry))
        return noted

    def end(
        self, entry: Entry, happened: Happened, result: str | None, error: tuple[str, str] | None
    ) -> asyncio.Future[Any]:
        """Bring a command to its end; return a future that is done once that is durable, or cannot be."""
        entry.result, entry.error = result, error
        entry.step(happened, self.moment())
        entry.copies = tuple(one for one in (entry.reply, *entry.copies) if one != LOCAL)
        durable = self._say(entry)
        took_ms = None if entry.started is None else (entry.finished or 0) // 1_000_000 - entry.started // 1_000_000
        said = {"command": entry.command, "id": entry.id, "state": entry.state.value, "took_ms": took_ms}
        asked_here = entry.reply == LOCAL and not entry.deduplicated and entry.command in self._reads
        level = logging.DEBUG if asked_here and error is None else logging.INFO  # screens that look every second
        log.log(level, "command", extra=said if error is None else said | {"code": error[0], "reason": error[1]})
        if self.journal.is_crowded:
            self.forget_old()
        return durable

    def repeat(self, entry: Entry, reply: ReplyTo) -> asyncio.Future[Any]:
        """Say the last state of a command once more, now or, while it has none, at its end; see ``end``."""
        if len(entry.copies) >= MAX_COPIES or (not entry.state.is_final and self.journal.is_full):
            log.warning("command_repeated", extra={"id": entry.id, "reason": "too many; this one gets no reply"})
            return self.outbox.noted()
        entry.copies = (*entry.copies, reply)
        return self._say(entry) if entry.state.is_final else self.keep(entry)

    def say_again(self) -> None:
        """Say what there was no room for."""
        for entry in list(self.owed.values()) if self.outbox.keeping.can_write else ():
            _ = self._say(entry)

    def forget_old(self) -> None:
        """Forget what has outlived its use, also that some of it was lost."""
        self._lost.look_again()
        for command_id in self.journal.outlived(self.moment(), may_repeat=self._may_repeat):
            self.forget(command_id)

    def forget(self, command_id: str, beside: Record | None = None) -> None:
        """Forget a command."""
        self.journal.forget(command_id)
        self.outbox.note(PREFIX + command_id, None, beside)

    def _say(self, entry: Entry) -> asyncio.Future[Any]:
        """Say the last state wherever it has yet to go: all of that, and that it was said, in one transaction."""
        said: list[tuple[Record, ReplyTo]] = []
        data = orjson.dumps(entry.data())
        try:
            while entry.copies and (self.outbox.keeping.can_write or not entry.stored):
                record = self.outbox.put(_reply(entry, entry.copies[0], data))
                if said:
                    said[-1][0].bound = True
                said.append((record, entry.copies[0]))
                entry.copies = entry.copies[1:]
        except OutboxError as error:
            if entry.id not in self.owed:
                log.warning("reply_waits", extra={"id": entry.id, "reason": str(error)})
        if entry.copies:
            self._owe(entry)
        else:
            self.owed.pop(entry.id, None)
        noted = self.keep(entry, beside=said[-1][0] if said else None)
        if not said:
            return noted
        self._saying.setdefault(entry.id, (entry, []))[1].extend(said)
        durable = self.outbox.durable(said[-1][0])
        durable.add_done_callback(partial(self._said, entry.id, said[-1][0]))
        return durable

    def _said(self, command_id: str, last: Record, durable: asyncio.Future[str]) -> None:
        if not durable.cancelled() and durable.exception() is None:  # that it was lost is told elsewhere
            entry, said = self._saying.get(command_id, (None, []))
            if entry is not None and said[-1][0] is last:
                del self._saying[command_id]

    def _owe(self, entry: Entry) -> None:
        if entry.id not in self.owed:
            self.owed[entry.id] = entry
            self.owes()

    def _take_back(self) -> None:
        """The disk has failed: what it should know together with a reply has to wait for it, and so has the reply."""
        for entry, said in list(self._saying.values()):
            back = [(record, to) for record, to in said if entry.stored and self.outbox.pending.withdraw(record)]
            if back:
                del self._saying[entry.id]
                entry.copies = (*(to for _, to in back), *entry.copies)
                self._owe(entry)
                _ = self.keep(entry)
            for record, _ in back:
                if record.waiter is not None:
                    record.waiter.cancel()


def _reply(entry: Entry, to: ReplyTo, data: bytes) -> Submission:
    return Submission(
        to.channel,
        data,
        Priority.CRITICAL,
        always=True,
        subject=entry.command,
        traceparent=to.traceparent,
        correlation=to.correlation,
    )


def _kept(entry: Entry, noted: asyncio.Future[bool]) -> None:
    entry.stored = entry.stored or (not noted.cancelled() and noted.result())
