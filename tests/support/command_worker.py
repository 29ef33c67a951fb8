"""Commands obeyed on a real store, and a judge of what becomes of them after a fault, when all are delivered again.

A worker reports marks, each a list in one line: ``A id`` (its sender may be told that it has arrived), ``E id`` (its
handler was called), ``F id state`` (the broker has its last reply).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from typing_extensions import override

from edge_agent.command_ports import Call, Command, CutOff
from edge_agent.core.authority import Authority
from edge_agent.core.command_entry import Entry
from edge_agent.core.command_request import CommandError
from edge_agent.core.config_models import Commands
from edge_agent.core.config_types import Section
from edge_agent.core.events import Stamp
from edge_agent.core.timebase import UtcNs, seconds
from edge_agent.errors import StoreFault
from edge_agent.ports import Delivery, Message
from edge_agent.services.dispatcher import Dispatcher, Incoming
from tests.fakes import FakeBroker, FakeClock
from tests.support.outbox_worker import Running, Say, running

KINDS: Final = ("effect", "effect", "again", "later", "endless")
EXPIRES: Final = "2099-01-01T00:00:00Z"


class SyncedClock(FakeClock):
    """Knows the time."""

    @override
    def now(self) -> Stamp:
        return Stamp(UtcNs(self.wall()), "synced", 1)


class Args(Section):
    """What a command of this worker takes."""

    pad: str = ""


def kind_of(command_id: str) -> str:
    """Return which command it is whose id ends in a number."""
    return KINDS[int(command_id.rpartition("-")[2]) % len(KINDS)]


def incoming(command_id: str, **how: Any) -> Incoming:  # noqa: ANN401  # as the tuple takes it
    """Return a command as it arrives; some are large, and some wait for an hour."""
    kind, number = kind_of(command_id), int(command_id.rpartition("-")[2])
    said: dict[str, object] = {"id": command_id, "args": {"pad": "x" * (6000 if number % 7 == 3 else 40)}}
    said |= {"delay": "1h"} if kind == "later" else {}
    said |= {"expires": EXPIRES} if how.get("retained") else {}
    delivery = Delivery("", json.dumps(said).encode(), **({"retained": False, "qos": 1, "packet_id": 1} | how))
    return Incoming("effect" if kind == "later" else kind, "dev-1", delivery)


@dataclass
class Obeying:
    """Those who obey, and which handlers were called."""

    one: Running
    dispatcher: Dispatcher
    called: Counter[str]

    async def take(self, ids: Iterable[str], say: Say = lambda _mark: None, **how: Any) -> None:  # noqa: ANN401
        """Have commands arrive at once, and wait until all may be acknowledged."""

        async def arrive(one: str) -> None:
            await self.dispatcher.take(incoming(one, **how))
            say(f"A {one}".encode())

        await asyncio.gather(*map(arrive, ids))

    def find(self, command_id: str) -> Entry | None:
        """Return what the journal knows of a command."""
        return self.dispatcher._book.journal.find(command_id)

    async def ended(self, ids: Iterable[str]) -> None:
        """Wait until commands have ended."""
        wanted = list(ids)
        await self.one.until(lambda: all((found := self.find(i)) is not None and found.state.is_final for i in wanted))


@contextlib.asynccontextmanager
async def obeying(folder: Path, *, say: Say = lambda _mark: None, **more: Any) -> AsyncIterator[Obeying]:  # noqa: ANN401
    """Run an outbox and a dispatcher on it; ``more`` is for ``running``."""
    called: Counter[str] = Counter()

    async def effect(call: Call, _args: Args) -> str:
        called[call.id] += 1
        say(f"E {call.id}".encode())
        return "done"

    async def endless(call: Call, args: Args) -> None:
        await effect(call, args)
        await asyncio.get_running_loop().create_future()

    commands = (
        Command("effect", "Do it.", Args, str, effect, cut_off=CutOff.INTERRUPTED),
        Command("again", "Do it.", Args, str, effect),
        Command("endless", "Do it.", Args, str, endless, cut_off=CutOff.INTERRUPTED, timeout=seconds(3600), at_once=9),
    )
    names = itertools.count()
    authority = Authority(Commands(allow=("*",)), "dev-1", (), None)
    async with running(folder, **more) as one:
        dispatcher = Dispatcher(
            {command.name: command for command in commands},
            authority,
            one.outbox,
            clock=SyncedClock(),
            new_name=lambda: str(next(names)),
        )
        dispatcher.recall()
        one.upkeep.adopted = dispatcher.recall
        task = asyncio.get_running_loop().create_task(dispatcher.run())
        try:
            yield Obeying(one, dispatcher, called)
        finally:
            task.cancel()
            await asyncio.wait((task,))


class AnsweredBroker(FakeBroker):
    """Says which last replies it has got before it acknowledges them."""

    def __init__(self, say: Say) -> None:
        super().__init__()
        self.say = say

    @override
    def route(self, message: Message) -> None:
        if "/up/reply/" in message.topic:
            data = json.loads(message.payload)["data"]
            if data["state"] not in ("accepted", "running"):
                self.say(f"F {data['id']} {data['state']}".encode())
        super().route(message)


async def lives(folder: Path, say: Say, *, rounds: int = 6) -> None:
    """Live through what befalls a journal: replies sent and kept, a store that is replaced, a stop."""
    numbers = itertools.count()

    def some(count: int = 5) -> list[str]:
        return [f"c-{number}" for number in itertools.islice(numbers, count)]

    broker = AnsweredBroker(say)
    async with obeying(folder, say=say, broker=broker, looks_after=False, commit=seconds(0.02)) as all_of_it:
        one = all_of_it.one
        for _ in range(rounds):
            await all_of_it.take(some(), say)
        await one.until(lambda: not any(lane.fresh or lane.acked for lane in one.outbox.lanes.values()))
        one.keeping.fault = StoreFault.DAMAGED
        await one.upkeep._mend()
        broker.crash()
        for _ in range(rounds):
            await all_of_it.take(some(), say)
        broker.up = True
        await one.until(lambda: one.outbox.online and not one.outbox.state.records)
        all_of_it.dispatcher.cancel("c-4")
        await all_of_it.ended(["c-4"])
    async with obeying(folder, say=say, looks_after=False) as all_of_it:
        await all_of_it.take(some(), say)


def cutting(_report: Callable[[bytes], None], folder: str) -> None:
    """Be the worker whose power is cut: marks go into the folder itself."""
    from tests.support.power_cut import marker  # noqa: PLC0415  # in the child alone

    asyncio.run(lives(Path(folder), marker(Path(folder))))


# ---------------------------------------------------------------- judged
@dataclass
class History:
    """What a worker has said."""

    acknowledged: set[str] = field(default_factory=set)
    called: Counter[str] = field(default_factory=Counter)
    told: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def add(self, marks: Iterable[bytes]) -> None:
        """Take note of marks; two last states of one command are wrong."""
        for mark in marks:
            match mark.decode().split():
                case ["A", name]:
                    self.acknowledged.add(name)
                case ["E", name]:
                    self.called[name] += 1
                case ["F", name, state]:
                    if self.told.setdefault(name, state) != state:
                        self.wrong.append(f"{name} was {self.told[name]} and is {state}")
                case other:
                    raise AssertionError(other)


async def delivered_again(
    folder: Path, past: History, ids: Iterable[str], *, whole: bool, retained: bool = False
) -> tuple[list[str], bool]:
    """Open what is left as the agent does, have all commands delivered again, and return what is wrong.

    Args:
        folder: the state directory.
        past: what was said by then.
        ids: of all commands that were ever sent.
        whole: whether nothing may be missing in the journal.
        retained: whether they come because the broker retains them.

    Returns:
        What is wrong, and whether the journal says that something is missing.
    """
    wrong, wanted = list(past.wrong), list(ids)
    broker = FakeBroker(up=False)
    async with obeying(folder, broker=broker) as all_of_it:
        lost = bool(all_of_it.dispatcher.conditions())
        if whole:
            wrong += ["something is missing"] * lost
            wrong += [
                f"{one} was acknowledged and is not known" for one in past.acknowledged if not all_of_it.find(one)
            ]
            for one, state in past.told.items():
                found = all_of_it.find(one)
                if found is None or found.state.value != state:
                    wrong.append(f"{one} was told to be {state} and is {found and found.state.value}")
        for one in wanted:
            try:
                await all_of_it.dispatcher.take(incoming(one, again=not retained, retained=retained))
            except CommandError as error:
                wrong.append(f"{one}: {error}")
        await all_of_it.ended(one for one in wanted if kind_of(one) in ("effect", "again"))
        for one in wanted:
            calls = past.called[one] + all_of_it.called[one]
            if kind_of(one) != "again" and calls > 1:
                wrong.append(f"{one} was done {calls} times")
    return wrong, lost
