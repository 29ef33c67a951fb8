"""Has commands run, at most once, each to exactly one final state, and takes up again what the last life has left.

A command is on the disk before its door is told so, and again before its handler begins; its end goes there in one
transaction with the replies. What has to wait, for its time or for those before it, waits in the journal. What may run
twice and was never delivered before begins at once; if it is quick its end is all that is written.

While the disk cannot be written, what may run twice is obeyed all the same, and its door is told so at its end;
anything else waits for the disk, or is refused if the disk does not know of it yet.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from functools import partial
from typing import Final, Protocol

from edge_agent.command_ports import Call, CutOff, Registry
from edge_agent.core.command_entry import STARTS, Entry, ReplyTo
from edge_agent.core.command_request import Code, CommandError, parse_args
from edge_agent.core.command_states import Happened, State
from edge_agent.core.timebase import NANOSECONDS_PER_SECOND, DurationNs, later, seconds
from edge_agent.ports import Clock
from edge_agent.services.command_book import LOCAL, CommandBook
from edge_agent.services.command_line import Lines, Ready
from edge_agent.services.command_work import CommandWork, Outcome

MAX_RESULT: Final = 112 << 10
MAX_LOCAL: Final = 8 << 20
"""Of what goes to somebody on the device, and is not kept."""

ROOM: Final = 1024
"""What the other members of a reply take, of ``outbox.max_record``."""

QUICK_S: Final = 0.02
"""What takes no longer, and may run twice, is written down once: at its end."""

LOOK_AGAIN: Final = seconds(3600)
TRY_AGAIN: Final = seconds(10)

CUT_OFF: Final = (Happened.CUT_OFF, None, (Code.INTERRUPTED.value, "the agent stopped while it ran"))
_GONE: Final = (
    Happened.FAULT,
    None,
    (Code.FAILED.value, "this agent does not know the command or its arguments any more"),
)
_LATE: Final = (Happened.LATE, None, (Code.EXPIRED.value, "its expiry passed while it waited"))
NO_DISK: Final = "the device's disk fails, so that it could not be remembered: it was not begun; try again later"


class Tell(Protocol):
    """Says something of a command to its sender now, or never."""

    def __call__(self, reply: ReplyTo, data: Mapping[str, object]) -> None:
        """Say ``data`` of a reply."""


class CommandRuns:
    """The commands that have not ended.

    Attributes:
        book: what is remembered of commands.
        open: those that have not ended, by id.
        lines: who waits for a place.
        tell: how states are said that nobody has to know.
        stopping: whether no more is begun, or taken in.
    """

    def __init__(self, registry: Registry, book: CommandBook, clock: Clock) -> None:
        self.book = book
        self.open: dict[str, Ready] = {}
        self.lines = Lines()
        self.tell: Tell = lambda _reply, _data: None
        self.stopping = False
        self._registry = registry
        self._clock = clock
        self._look_at = self._forget_at = clock.monotonic()
        self._wake = asyncio.Event()
        self._has_news = False
        book.outbox.pending.notes.recalled = self._recalled
        book.owes = self._wake.set

    # ---------------------------------------------------------------- life
    def _recalled(self) -> None:
        self._has_news = True  # only taken note of: the outbox is in the middle of something
        self._wake.set()

    def recall(self) -> None:
        """Take up what the last life has left: what it cut off ends or begins again, what waited goes on waiting."""
        self._has_news = False
        for entry in self.book.recall():
            self._take_up(entry)

    def _take_up(self, entry: Entry) -> None:
        command = self._registry.get(entry.command)
        try:
            ready = None if command is None else Ready(entry, command, parse_args(command.args, entry.args), told=True)
        except CommandError:
            ready = None
        if ready is None:
            self._end(entry, *(CUT_OFF if entry.state is State.RUNNING else _GONE))
            return
        if entry.state is State.RUNNING:
            cut_off = ready.cut_off
            if cut_off is CutOff.DONE:
                self._end(entry, Happened.DONE, '{"done":true}', None)
            elif cut_off is CutOff.INTERRUPTED:
                self._end(entry, *CUT_OFF)
            elif entry.starts >= STARTS:
                reason = f"it was begun {entry.starts} times, and the agent ended each time"
                self._end(entry, Happened.POISON, None, (Code.FAILED.value, reason))
            else:
                entry.step(Happened.AGAIN, self.book.moment())
                _ = self.book.keep(entry)
        if not entry.state.is_final:
            self.open[entry.id] = ready
            self.lines.add(ready)
            self._wake.set()

    async def run(self) -> None:
        """Begin what is due until cancelled; then end what is under way, and leave what waits to the next life."""
        try:
            while True:
                self._wake.clear()
                wait = DurationNs(self._look())
                self._look_at = later(self._clock.monotonic(), wait)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait / NANOSECONDS_PER_SECOND):
                        await self._wake.wait()
        finally:
            await self._stop()

    def time_changed(self) -> None:
        """Take note that true time is another than one would have expected."""
        self._wake.set()

    async def _stop(self) -> None:
        self.stopping = True
        await self.book.outbox.noted()  # by then whatever was to begin has begun, or has been put back
        at_work = [ready.work for ready in self.open.values() if ready.work is not None]
        for work in at_work:
            work.call_off(Happened.CUT_OFF, CUT_OFF[2][1])
        for work in at_work:
            await work.over()
        for ready in self.open.values():
            if ready.over is not None:
                ready.over.set()

    # ---------------------------------------------------------------- in
    def find(self, command_id: str) -> Entry | None:
        """Return a command that is remembered."""
        if self._has_news:
            self.recall()
        return self.book.journal.find(command_id)

    def admit(self, ready: Ready) -> asyncio.Future[None]:
        """Have a command run now or later; return a future that is done when that is durable."""
        entry, at = ready.entry, self.book.moment()
        ready.arrived = arrived = asyncio.get_running_loop().create_future()
        self.open[entry.id] = ready
        self.lines.add(ready)
        if entry.is_due(at):
            self.lines.line_up(ready)
            self._go_on(ready.command.name)
        if ready.work is None:
            self.book.keep(entry).add_done_callback(partial(self._noted, ready))
            look = entry.next_look(at)
            if look is not None and later(self._clock.monotonic(), DurationNs(look)) < self._look_at:
                self._wake.set()
        return arrived

    def _noted(self, ready: Ready, noted: asyncio.Future[bool]) -> None:
        """What waits is on the disk, or cannot be."""
        if noted.result():
            ready.arrive()
            if ready.entry.id in self.open:
                self._tell_accepted(ready)
        settled = self.stopping or ready.work or ready.entry.stored or ready.entry.state.is_final
        if not (noted.result() or settled or (ready.in_line and ready.may_be_forgotten)):
            self._reject(ready)

    def _tell_accepted(self, ready: Ready) -> None:
        if not ready.told:
            ready.told = True
            said = ready.entry.data() | {"state": State.ACCEPTED.value, "started": None, "finished": None}
            self.tell(ready.entry.reply, said)

    def cancel(self, command_id: str) -> bool:
        """End a command that waits or runs; return whether there was one."""
        ready = self.open.get(command_id)
        if ready is None:
            return False
        reason = "it was cancelled"
        if ready.work is not None:
            ready.work.call_off(Happened.CALLED_OFF, reason)
        else:
            self._end(ready.entry, Happened.CALLED_OFF, None, (Code.INTERRUPTED.value, reason))
        return True

    # ---------------------------------------------------------------- what is due
    def _look(self) -> int:
        """Begin what is due, end what is late; return after how many nanoseconds to look again."""
        if self._has_news:
            self.recall()
        at, wait = self.book.moment(), int(LOOK_AGAIN)
        for ready in [one for one in self.open.values() if one.work is None]:
            if ready.entry.is_late(at):
                self._end(ready.entry, *_LATE)
                continue
            if not ready.in_line and ready.entry.is_due(at):
                self.lines.line_up(ready)
            wait = min(wait, ready.entry.next_look(at) or wait)
        for name in self.lines.names():
            self._go_on(name)
        self.book.say_again()
        if self._clock.monotonic() >= self._forget_at:
            self._forget_at = later(self._clock.monotonic(), LOOK_AGAIN)
            self.book.forget_old()
        return min(wait, int(TRY_AGAIN)) if self.book.owed or not self.book.can_remember else wait

    def _go_on(self, name: str) -> None:
        """Begin the next ones of a command."""
        while not self.stopping and (ready := self.lines.next(name)) is not None:
            if not (ready.may_be_forgotten or self.book.can_remember):
                break
            if ready.entry.is_late(self.book.moment()):
                self._end(ready.entry, *_LATE)
            else:
                self._begin(ready)

    def _begin(self, ready: Ready) -> None:
        """Have it written down that a command is begun, and then begin it."""
        entry = ready.entry
        entry.step(Happened.BEGUN, self.book.moment())
        self.lines.begin(ready)
        call = Call(entry.id, entry.reply.traceparent, entry.reply == LOCAL)
        limit = min(MAX_RESULT, self.book.outbox.config.max_record - ROOM)
        limit = MAX_LOCAL if call.local and not entry.deduplicated else limit
        ready.work = CommandWork(ready.command, call, ready.args, max_result=limit)
        if ready.may_begin_at_once and not entry.is_passing:
            self.book.hold(entry)
            self._go(ready, ready.work)
            asyncio.get_running_loop().call_later(QUICK_S, self._is_slow, ready)
        else:
            self.book.keep(entry).add_done_callback(partial(self._start, ready, ready.work))

    def _is_slow(self, ready: Ready) -> None:
        """Write down after all that a command has begun which was taken to be quick: its door waits for that."""
        if ready.entry.id in self.open and ready.entry.state is State.RUNNING:
            self.book.keep(ready.entry).add_done_callback(lambda noted: ready.arrive() if noted.result() else None)

    def _start(self, ready: Ready, work: CommandWork, noted: asyncio.Future[bool]) -> None:
        if noted.result():
            ready.arrive()
        may_begin = (noted.result() or ready.may_be_forgotten) and not self.stopping
        if not may_begin and work.stopped_by is None:
            self._put_back(ready)
        else:
            self._go(ready, work)

    def _go(self, ready: Ready, work: CommandWork) -> None:
        self._tell_accepted(ready)
        self.tell(ready.entry.reply, ready.entry.data())
        work.begin(partial(self._ended, ready), partial(self._freed, ready.command.name))

    def _put_back(self, ready: Ready) -> None:
        """It cannot begin now: the disk fails, or the agent stops."""
        entry = ready.entry
        entry.step(Happened.AGAIN, self.book.moment())
        entry.started, entry.starts = None, entry.starts - 1
        ready.work = None
        self.lines.free(ready.command.name)
        self.lines.add(ready)
        if self.stopping or entry.stored:
            self.lines.line_up(ready, first=True)
            _ = self.book.keep(entry)
            self._wake.set()
        else:
            self._reject(ready)

    def _reject(self, ready: Ready) -> None:
        """Refuse what was accepted a moment ago: the disk could not take it, so that nobody would remember it."""
        entry = ready.entry
        entry.error = (Code.BUSY.value, NO_DISK)
        entry.step(Happened.REFUSED, self.book.moment())
        self.book.forget(entry.id)
        for to in (entry.reply, *entry.copies):
            self.tell(to, entry.data())
        self._leave(ready)
        ready.arrive()

    def _ended(self, ready: Ready, outcome: Outcome) -> None:
        entry = ready.entry
        if outcome[0] is Happened.CUT_OFF and ready.cut_off is not CutOff.INTERRUPTED:
            entry.starts -= 1  # a stop is no fault of its own; in the next life it goes on
            _ = self.book.keep(entry)
        else:
            self._end(entry, *outcome)

    def _freed(self, name: str) -> None:
        self.lines.free(name)
        self._go_on(name)

    def _end(self, entry: Entry, happened: Happened, result: str | None, error: tuple[str, str] | None) -> None:
        durable = self.book.end(entry, happened, result, error)
        ready = self.open.get(entry.id)
        if ready is not None:
            self._leave(ready)
            durable.add_done_callback(lambda _: ready.arrive())

    def _leave(self, ready: Ready) -> None:
        """It has ended."""
        del self.open[ready.entry.id]
        if ready.work is None:
            self.lines.leave(ready)
        if ready.over is not None:
            ready.over.set()
