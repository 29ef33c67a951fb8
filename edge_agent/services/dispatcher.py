"""Decides on commands from every door, at once: which are obeyed, which were answered already, which are refused."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

import orjson

from edge_agent.command_ports import Command, Registry
from edge_agent.core.authority import Authority, Grant
from edge_agent.core.command_entry import Entry, ReplyTo, entry_of
from edge_agent.core.command_request import (
    MAX_CORRELATION,
    Code,
    CommandError,
    Request,
    id_from_correlation,
    parse_args,
    request_from,
)
from edge_agent.core.command_states import Happened
from edge_agent.core.config_findings import nearest
from edge_agent.core.units import quoted
from edge_agent.ports import Clock, Delivery
from edge_agent.services.command_book import LOCAL, CommandBook
from edge_agent.services.command_line import Ready
from edge_agent.services.command_runs import CUT_OFF, NO_DISK, CommandRuns
from edge_agent.services.outbox import Outbox

_FORGOTTEN: Final = (
    Happened.CUT_OFF,
    None,
    (Code.INTERRUPTED.value, "it may have been run before the journal was lost; look, and send it under another id"),
)


class Incoming(NamedTuple):
    """A command that arrived over MQTT.

    Attributes:
        command: its name.
        address: to whom it is addressed: the device's id, ``_group/GROUP`` or ``_all``.
        delivery: what came.
        channel: where replies go, if not to ``reply/<id>``.
    """

    command: str
    address: str
    delivery: Delivery
    channel: str | None = None

    def reply_to(self, command_id: str) -> ReplyTo:
        """Return where replies go, and with what."""
        correlation = self.delivery.correlation or b""
        sent_back = correlation.hex() if 0 < len(correlation) <= MAX_CORRELATION else None
        return ReplyTo(self.channel or f"reply/{command_id}", sent_back, self.delivery.traceparent)


class Dispatcher:
    """The commands of this agent.

    Attributes:
        authority: who may command what.
        registry: what can be obeyed.
        runs: those that have not ended; ``recall``, ``run``, ``time_changed`` and ``cancel`` are its.
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
        self._book = CommandBook(registry, outbox, clock)
        self._new_name = new_name
        self.runs = runs = CommandRuns(registry, self._book, clock)
        self.recall, self.run, self.time_changed, self.cancel = runs.recall, runs.run, runs.time_changed, runs.cancel

    def conditions(self) -> list[str]:
        """Return what is wrong, as stable words."""
        return ["journal_lost"] if self._book.is_lost else []

    def take(self, incoming: Incoming) -> asyncio.Future[Any]:
        """Decide on a command; return a future that is done when its sender may be told that it has arrived.

        Raises:
            CommandError: it is not obeyed; the error has the id under which that is to be said.
        """
        if self.runs.stopping:
            return asyncio.get_running_loop().create_future()  # it is delivered again, in the next life
        command_id, correlation = None, incoming.delivery.correlation
        try:
            command_id = id_from_correlation(correlation) if correlation else None
            request, grant = self.authority.read(incoming.command, incoming.address, incoming.delivery.payload)
            request = replace(request, id=request.id or command_id)
            command_id = request.id or self._new_id()
            return self._decide(incoming, request, grant, command_id)
        except CommandError as error:
            error.id = error.id or command_id or self._new_id()
            raise

    def _decide(self, incoming: Incoming, request: Request, grant: Grant, command_id: str) -> asyncio.Future[Any]:
        delivery, reply = incoming.delivery, incoming.reply_to(command_id)
        known = self.runs.find(command_id)
        if known is not None:
            if delivery.retained:
                return self._book.outbox.noted()  # a broker's old message, on every connection anew
            _check_same(known, request)
            return self._book.repeat(known, reply)
        command = self._find(incoming.command)
        if not grant.allows(command.name):
            raise CommandError(Code.NOT_ALLOWED, grant.refusal(command.name))
        has_end = request.expires is not None or delivery.expiry_s is not None
        if delivery.retained and (request.id is None or not has_end):
            text = "a retained command needs an id and expires; publish it without RETAIN"
            raise CommandError(Code.RETAINED, text)
        ready = self._accept(command, request, command_id, reply, delivery.expiry_s)
        if self._book.is_lost and (delivery.again or delivery.retained) and not command.idempotent:
            ready.entry.step(Happened.BEGUN, self._book.moment())
            return self._book.end(ready.entry, *_FORGOTTEN)
        ready.is_new = not (delivery.again or delivery.retained)
        if delivery.again and command.idempotent:
            ready.entry.starts = 1  # it may have begun, and ended the agent, before anything was written
        return self.runs.admit(ready)

    def _accept(
        self, command: Command, request: Request, command_id: str, reply: ReplyTo, expiry_s: int | None = None
    ) -> Ready:
        """Return what may wait or be run; raise ``CommandError`` if it may not."""
        at = self._book.moment()
        entry = entry_of(request, request.digest(), command_id, reply, at, expiry_s=expiry_s)
        ready = Ready(entry, command, parse_args(command.args, request.args))
        is_due, waiting = entry.is_due(at), self.runs.lines.waiting[command.name]
        if not (self._book.can_remember or (ready.may_be_forgotten and is_due)):
            raise CommandError(Code.BUSY, NO_DISK)
        begins = is_due and self.runs.lines.has_place(command)
        if self._book.journal.is_full and not entry.is_passing:
            raise CommandError(Code.BUSY, "too many commands wait or were not answered yet; try again later")
        if waiting >= command.waiting and not begins:
            raise CommandError(Code.BUSY, f"{waiting} {command.name} commands wait already; try again later")
        entry.step(Happened.TAKEN, at)
        return ready

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
        if not isinstance(name, str):
            raise CommandError(Code.INVALID_ARGS, 'command: the name of one is needed, as in {"command": "ping"}')
        request = request_from(name, said)
        known = None if request.id is None else self.runs.find(request.id)
        if known is None:
            ready = self._accept(self._find(name), request, request.id or self._new_id(), LOCAL)
        else:
            _check_same(known, request)
            if known.state.is_final:
                return known.data()
            ready = self.runs.open[known.id]
        with contextlib.suppress(CommandError):
            await self._performed(ready)
        return ready.entry.data()

    async def _performed(self, ready: Ready) -> Entry:
        if ready.over is None:
            ready.over = asyncio.Event()
        if not self.runs.stopping:
            if ready.entry.id not in self.runs.open:
                _ = self.runs.admit(ready)
            await ready.over.wait()
        error = ready.entry.error if ready.entry.state.is_final else CUT_OFF[2]
        if error is not None:
            raise CommandError(Code(error[0]), error[1])
        return ready.entry

    # ---------------------------------------------------------------- reading
    def _new_id(self) -> str:
        return f"x-{self._new_name()}"

    def _find(self, name: str) -> Command:
        command = self.registry.get(name)
        if command is None:
            text = f"there is no command {quoted(name)}; {nearest(name, list(self.registry))}"
            raise CommandError(Code.UNKNOWN_COMMAND, text)
        return command


def _check_same(known: Entry, request: Request) -> None:
    if known.digest != request.digest():
        raise CommandError(Code.INVALID_ARGS, f"the id {known.id} was used for another command or other arguments")
