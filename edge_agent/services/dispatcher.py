"""Obeys commands from every door: each is decided on at once, run at most once, and ends in exactly one final state.

A command is on the disk before its door is told so, and again before its handler begins; its end goes there in one
transaction with the reply. What has to wait, for its time or for those before it, waits in the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Protocol

import orjson

from edge_agent.command_ports import Call, Command, CutOff, Registry
from edge_agent.core.authority import Authority, Grant
from edge_agent.core.command_args import parse_args
from edge_agent.core.command_entry import STARTS, Entry, ReplyTo, entry_of, is_known
from edge_agent.core.command_request import Code, CommandError, Incoming, Request, id_from_correlation, request_from
from edge_agent.core.command_states import Happened, State
from edge_agent.core.config_findings import nearest, validated
from edge_agent.core.config_types import Section
from edge_agent.core.journal import MAX_OPEN_BYTES
from edge_agent.core.timebase import NANOSECONDS_PER_SECOND, later, seconds
from edge_agent.ports import Clock
from edge_agent.services.command_book import LOCAL, CommandBook
from edge_agent.services.command_work import CommandWork, Outcome
from edge_agent.services.outbox import Outbox

MAX_RESULT: Final = 112 << 10
MAX_LOCAL: Final = 8 << 20
"""Of what goes to somebody on the device, and is not kept."""

ROOM: Final = 1024
"""What the other members of a reply take, of ``outbox.max_record``."""

MAX_COPIES: Final = 1000
LOOK_AGAIN: Final = seconds(3600)
SAY_AGAIN: Final = seconds(10)

_CUT_OFF: Final = (Happened.CUT_OFF, None, (Code.INTERRUPTED.value, "the agent stopped while it ran"))
_FORGOTTEN: Final = (
    Happened.CUT_OFF,
    None,
    (Code.INTERRUPTED.value, "it may have been run before the journal was lost; look, and send it under another id"),
)
_GONE: Final = (Happened.FAULT, None, (Code.FAILED.value, "this agent does not know the command any more"))
_LATE: Final = (Happened.LATE, None, (Code.EXPIRED.value, "its expiry passed while it waited"))


class Tell(Protocol):
    """Says something of a command to its sender now, or never."""

    def __call__(self, reply: ReplyTo, data: Mapping[str, object]) -> None:
        """Say ``data`` of a reply."""


@dataclass(slots=True)
class _Ready:
    """A command that is under way or waits."""

    entry: Entry
    command: Command
    args: Section
    work: CommandWork | None = None
    answer: asyncio.Future[Entry] | None = None
    in_line: bool = False
    told: bool = False  # that it was accepted


class Dispatcher:
    """The commands of this agent.

    Attributes:
        authority: who may command what.
        registry: what can be obeyed.
        tell: how states are said that nobody has to know.
    """

    def __init__(
        self, registry: Registry, authority: Authority, outbox: Outbox, *, clock: Clock, new_name: Callable[[], str]
    ) -> None:
        """Prepare; call ``recall`` once the outbox is open, before anything else.

        Args:
            registry: what can be obeyed.
            authority: who may command what.
            outbox: takes replies, and notes down what must not be forgotten.
            clock: of the device.
            new_name: names what came without an id; never the same twice.
        """
        self.registry = registry
        self.authority = authority
        self.tell: Tell = lambda _reply, _data: None
        self._book = CommandBook(registry, outbox, clock)
        self._clock = clock
        self._new_name = new_name
        self._open: dict[str, _Ready] = {}
        self._line: dict[str, deque[_Ready]] = {}  # by command: those that are due
        self._running: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()
        self._forget_at = clock.monotonic()
        self._wake = asyncio.Event()
        self._stopping = False

    # ---------------------------------------------------------------- life
    def recall(self) -> None:
        """Take up what the last life has left: what it cut off ends or begins again, what waited goes on waiting."""
        for entry in self._book.recall():
            self._take_up(entry)

    def _take_up(self, entry: Entry) -> None:
        command = self.registry.get(entry.command)
        args = None if command is None else validated(command.args, entry.args)[0]
        if command is None or args is None:
            self._end(entry, *(_CUT_OFF if entry.state is State.RUNNING else _GONE))
            return
        if entry.state is State.RUNNING:
            cut_off = _cut_off(command, args)
            if cut_off is CutOff.DONE:
                self._end(entry, Happened.DONE, '{"done":true}', None)
            elif cut_off is CutOff.INTERRUPTED:
                self._end(entry, *_CUT_OFF)
            elif entry.starts >= STARTS:
                reason = f"it was begun {entry.starts} times, and the agent ended each time"
                self._end(entry, Happened.POISON, None, (Code.FAILED.value, reason))
            else:
                entry.step(Happened.AGAIN, self._clock.now().time)
                _ = self._book.keep(entry)
        if not entry.state.is_final:
            self._open[entry.id] = _Ready(entry, command, args, told=True)
            self._waiting[command.name] += 1

    async def run(self) -> None:
        """Begin what is due until cancelled; then end what is under way, and leave what waits to the next life."""
        try:
            while True:
                self._wake.clear()
                wait = self._look()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait / NANOSECONDS_PER_SECOND):
                        await self._wake.wait()
        finally:
            await self._stop()

    def time_changed(self) -> None:
        """Take note that true time is another than one would have expected."""
        self._wake.set()

    async def _stop(self) -> None:
        self._stopping = True
        at_work = [ready.work for ready in self._open.values() if ready.work is not None]
        for work in at_work:
            work.call_off(Happened.CUT_OFF, _CUT_OFF[2][1])
        await self._book.outbox.noted()  # then they have all begun
        for work in at_work:
            await work.over()
        for ready in self._open.values():
            if ready.answer is not None and not ready.answer.done():
                ready.answer.cancel()

    # ---------------------------------------------------------------- in
    def take(self, incoming: Incoming) -> asyncio.Future[Any]:
        """Decide on a command; return a future that is done when its sender may be told that it has arrived.

        Raises:
            CommandError: it is not obeyed; the error has the id under which that is to be said.
        """
        if self._stopping:
            return asyncio.get_running_loop().create_future()  # it is delivered again, in the next life
        command_id = id_from_correlation(incoming.correlation) if incoming.correlation else None
        try:
            request, grant = self.authority.read(incoming.command, incoming.address, incoming.payload)
            request = replace(request, id=request.id or command_id)
            command_id = request.id or self._new_id()
            return self._decide(incoming, request, grant, command_id)
        except CommandError as error:
            error.id = error.id or command_id or self._new_id()
            raise

    def _decide(self, incoming: Incoming, request: Request, grant: Grant, command_id: str) -> asyncio.Future[Any]:
        correlation = incoming.correlation.hex() if incoming.correlation else None
        reply = ReplyTo(incoming.channel or f"reply/{command_id}", correlation, incoming.traceparent)
        known = self._book.journal.find(command_id)
        if known is not None:
            return self._repeat(known, request, reply, retained=incoming.retained)
        command = self._find(incoming.command)
        if not grant.allows(command.name):
            raise CommandError(Code.NOT_ALLOWED, grant.refusal(command.name))
        if incoming.retained and not (request.id and (request.expires or incoming.expiry_s)):
            text = "a retained command needs an id and expires; publish it without RETAIN"
            raise CommandError(Code.RETAINED, text)
        ready = self._accept(command, request, command_id, reply, incoming.expiry_s)
        if self._book.journal.is_lost and (incoming.again or incoming.retained) and not command.idempotent:
            ready.entry.step(Happened.BEGUN, self._clock.now().time)
            self._end(ready.entry, *_FORGOTTEN)
            return self._book.outbox.noted()
        return self._admit(ready)

    def _accept(
        self, command: Command, request: Request, command_id: str, reply: ReplyTo, expiry_s: int | None = None
    ) -> _Ready:
        """Return what may wait or be run; raise ``CommandError`` if it may not."""
        now, age = self._clock.now(), self._book.outbox.age()
        if (request.expires or request.not_before) and not is_known(now):
            text = "the device does not know the time; use ttl or delay instead of expires or not_before, or wait"
            raise CommandError(Code.TIME_UNKNOWN, text)
        entry = entry_of(request, command_id, reply, now=now, age=age, expiry_s=expiry_s)
        if entry.is_late(now, age):
            raise CommandError(Code.EXPIRED, "its expiry has passed")
        if entry.is_never_due:
            raise CommandError(Code.INVALID_ARGS, "it would have to begin after it expires")
        args = parse_args(command.args, request.args)
        waiting = self._waiting[command.name]
        if waiting >= command.waiting or self._book.journal.open_bytes > MAX_OPEN_BYTES:
            raise CommandError(Code.BUSY, f"{waiting} {command.name} commands wait already; try again later")
        entry.step(Happened.TAKEN, now.time)
        return _Ready(entry, command, args)

    def _admit(self, ready: _Ready) -> asyncio.Future[Any]:
        """Have a command run now or later; return a future that is done when that is durable."""
        entry, name = ready.entry, ready.command.name
        self._open[entry.id] = ready
        free = self._running[name] < ready.command.at_once and not self._line.get(name)
        if free and entry.is_due(self._clock.now(), self._book.outbox.age()):
            return self._begin(ready)
        self._waiting[name] += 1
        noted = self._book.keep(entry)
        noted.add_done_callback(lambda _: self._tell_accepted(ready))
        self._wake.set()
        return noted

    def _tell_accepted(self, ready: _Ready) -> None:
        if not ready.told:
            ready.told = True
            said = ready.entry.data() | {"state": State.ACCEPTED.value, "started": None, "finished": None}
            self.tell(ready.entry.reply, said)

    def _repeat(self, known: Entry, request: Request, reply: ReplyTo, *, retained: bool) -> asyncio.Future[Any]:
        """Answer a command that is known already."""
        if retained:
            return self._book.outbox.noted()  # a broker's old message, on every connection anew
        _check_same(known, request)
        if known.id not in self._open:
            record = self._book.say(known, reply)
            return self._book.outbox.noted() if record is None else self._book.outbox.durable(record)
        known.copies = (*known.copies, reply)[:MAX_COPIES]
        return self._book.keep(known)

    async def perform(self, name: str, params: object) -> object:
        """Obey a command of somebody on this device, and return its result as JSON.

        Raises:
            CommandError: it was not obeyed, or did not succeed.
        """
        request = request_from(name, {"args": {} if params is None else params})
        entry = await self._performed(self._accept(self._find(name), request, self._new_id(), LOCAL))
        return orjson.Fragment(entry.result or "null")

    async def command(self, params: object) -> object:
        """Obey a command with all that MQTT knows of one, and return ``data`` of its last reply.

        Raises:
            CommandError: it was refused.
        """
        said = dict(params) if isinstance(params, Mapping) else {}
        name = said.pop("command", None)
        request = request_from(str(name)[:64], said)
        known = None if request.id is None else self._book.journal.find(request.id)
        if known is not None:
            _check_same(known, request)
            if known.id not in self._open:
                return known.data()
        ready = None if known is None else self._open[known.id]
        if ready is None:
            ready = self._accept(self._find(request.command), request, request.id or self._new_id(), LOCAL)
        with contextlib.suppress(CommandError):
            await self._performed(ready)
        return ready.entry.data()

    async def _performed(self, ready: _Ready) -> Entry:
        if ready.answer is None:
            ready.answer = asyncio.get_running_loop().create_future()
        if not self._stopping:
            if ready.entry.id not in self._open:
                _ = self._admit(ready)
            await asyncio.wait((ready.answer,))
        code, message = ready.entry.error or (None if ready.entry.state.is_final else _CUT_OFF[2]) or (None, "")
        if code is not None:
            raise CommandError(Code(code), message)
        return ready.entry

    def cancel(self, command_id: str) -> bool:
        """End a command that waits or runs; return whether there was one."""
        ready = self._open.get(command_id)
        if ready is None:
            return False
        reason = "it was cancelled"
        if ready.work is not None:
            ready.work.call_off(Happened.CALLED_OFF, reason)
        else:
            self._waiting[ready.command.name] -= 1
            self._end(ready.entry, Happened.CALLED_OFF, None, (Code.INTERRUPTED.value, reason))
        return True

    # ---------------------------------------------------------------- what is due
    def _look(self) -> int:
        """Begin what is due, end what is late; return after how many nanoseconds to look again."""
        now, age, wait = self._clock.now(), self._book.outbox.age(), int(LOOK_AGAIN)
        for ready in [one for one in self._open.values() if one.work is None]:
            entry = ready.entry
            if entry.is_late(now, age):
                self._waiting[entry.command] -= 1
                self._end(entry, *_LATE)
            elif not ready.in_line and entry.is_due(now, age):
                ready.in_line = True
                self._line.setdefault(entry.command, deque()).append(ready)
            wait = min(wait, entry.next_look(now, age) or wait)
        for name in [name for name, line in self._line.items() if line]:
            self._go_on(name)
        self._book.say_again()
        if self._clock.monotonic() >= self._forget_at:
            self._forget_at = later(self._clock.monotonic(), LOOK_AGAIN)
            self._book.forget_old()
        return min(wait, int(SAY_AGAIN)) if self._book.unsaid else wait

    def _go_on(self, name: str) -> None:
        """Begin the next ones of a command."""
        line = self._line.get(name)
        while line and not self._stopping and self._running[name] < line[0].command.at_once:
            ready = line.popleft()
            if self._open.get(ready.entry.id) is not ready:
                continue
            if ready.entry.is_late(self._clock.now(), self._book.outbox.age()):
                self._wake.set()  # it is ended there
                continue
            self._waiting[name] -= 1
            _ = self._begin(ready)

    def _begin(self, ready: _Ready) -> asyncio.Future[Any]:
        """Have it written down that a command is begun, and then begin it."""
        entry = ready.entry
        entry.step(Happened.BEGUN, self._clock.now().time)
        self._running[entry.command] += 1
        call = Call(entry.id, entry.reply.traceparent, entry.reply == LOCAL)
        limit = min(MAX_RESULT, self._book.outbox.config.max_record - ROOM)
        limit = MAX_LOCAL if call.local and not entry.deduplicated else limit
        ready.work = CommandWork(ready.command, call, ready.args, max_result=limit)
        noted = self._book.keep(entry)
        noted.add_done_callback(partial(self._start, ready, ready.work))
        return noted

    def _start(self, ready: _Ready, work: CommandWork, _noted: object) -> None:
        self._tell_accepted(ready)
        self.tell(ready.entry.reply, ready.entry.data())
        work.begin(partial(self._ended, ready))

    def _ended(self, ready: _Ready, outcome: Outcome) -> None:
        entry = ready.entry
        self._running[entry.command] -= 1
        cut_off = outcome[0] is Happened.CUT_OFF
        if cut_off and _cut_off(ready.command, ready.args) is not CutOff.INTERRUPTED:
            entry.starts -= 1  # a stop is no fault of its own; in the next life it goes on
            _ = self._book.keep(entry)
        else:
            self._end(entry, *outcome)
            self._go_on(entry.command)

    def _end(self, entry: Entry, happened: Happened, result: str | None, error: tuple[str, str] | None) -> None:
        ready = self._open.pop(entry.id, None)
        self._book.end(entry, happened, result, error)
        if ready is not None and ready.answer is not None and not ready.answer.done():
            ready.answer.set_result(entry)
        if self._book.unsaid:
            self._wake.set()

    # ---------------------------------------------------------------- reading
    def _new_id(self) -> str:
        return f"x-{self._new_name()}"

    def _find(self, name: str) -> Command:
        command = self.registry.get(name)
        if command is None:
            raise CommandError(
                Code.UNKNOWN_COMMAND, f"there is no command {name[:64]!r}; {nearest(name, list(self.registry))}"
            )
        return command


def _check_same(known: Entry, request: Request) -> None:
    if known.digest != request.digest():
        raise CommandError(Code.INVALID_ARGS, f"the id {known.id} was used for another command or other arguments")


def _cut_off(command: Command, args: Section) -> CutOff:
    return command.cut_off if isinstance(command.cut_off, CutOff) else command.cut_off(args)
