"""An outbox on a real store that says what it has promised, and a judge of what is left of it after a fault.

A worker reports three kinds of marks, each a list in one line: ``P id n`` (whoever waited was told that record n is
safe), ``D id n`` (the broker has it), ``G stream first last reason`` (it was told that these numbers will not come).
The body of record n follows from n, so that damage shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import secrets
import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
from typing_extensions import override

from edge_agent.adapters.store_file import StoreFile
from edge_agent.adapters.store_thread import StoreThread
from edge_agent.core.config_models import Outbox as OutboxConfig
from edge_agent.core.config_types import BrokerUrl
from edge_agent.core.connection import ConnectionPolicy
from edge_agent.core.number_ranges import NumberRanges, holes
from edge_agent.core.pace import Pace
from edge_agent.core.records import Priority
from edge_agent.core.refusals import Pauses
from edge_agent.core.submission import Submission
from edge_agent.core.timebase import seconds
from edge_agent.core.topics import Topics
from edge_agent.errors import OutboxError, StoreFault
from edge_agent.ports import Clock, Message
from edge_agent.services.drain import Drain
from edge_agent.services.keeping import Keeping
from edge_agent.services.link import Link
from edge_agent.services.outbox import Outbox
from edge_agent.services.outbox_writer import OutboxWriter
from edge_agent.services.upkeep import Upkeep
from tests.fakes import FakeBroker, FakeClock, fake_link

Say = Callable[[bytes], None]

SMALL: Final = 256 * 1024
"""Room for records that is soon full."""

OF_POLICY: Final = frozenset({"full", "expired", "memory_full", "dead_letter", "purged"})
"""Why a record may be missing although it was promised."""


def body(number: int) -> bytes:
    """Return the data of a record."""
    rng = random.Random(number)  # noqa: S311  # reproducible
    size = rng.choice((20, 100, 400, 400, 2000))
    return orjson.dumps({"n": number, "pad": rng.randbytes(size).hex()})


def is_latest(number: int) -> bool:
    """Return whether record n replaces an unsent one of its channel."""
    return number % 25 == 4


def submission(number: int, *, always: bool = False) -> Submission:
    """Return record n; of ten, one is critical and three are bulk, and some are the latest of their channel."""
    priority = (Priority.CRITICAL, *[Priority.NORMAL] * 6, *[Priority.BULK] * 3)[number % 10]
    latest = is_latest(number)
    return Submission(
        "data/last" if latest else f"data/c{number % 3}", body(number), priority, None, latest, None, always
    )


@dataclass
class Running:
    """An outbox and those who work for it."""

    outbox: Outbox
    keeping: Keeping
    upkeep: Upkeep

    async def put(self, numbers: Iterable[int], *, always: bool = False, say: Say = lambda _mark: None) -> list[str]:
        """Put records at once, wait until they are safe, and say so; return the ids."""
        records = [(number, self.outbox.put(submission(number, always=always))) for number in numbers]
        ids = await asyncio.gather(*(self.outbox.durable(one) for _, one in records), return_exceptions=True)
        kept = [(name, number) for name, (number, _) in zip(ids, records, strict=True) if isinstance(name, str)]
        for name, number in kept:
            say(f"P {name} {number}".encode())
        assert all(isinstance(name, str | OutboxError) for name in ids), ids
        return [name for name, _ in kept]

    async def until(self, condition: Callable[[], bool], *, within_s: float = 60) -> None:
        """Wait until something is so."""
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110  # it is other tasks' doing
                await asyncio.sleep(0.002)


def prepared(
    folder: Path,
    *,
    max_bytes: int = 64 << 20,
    clock: Clock | None = None,
    boot: str = "boot",
    **config: Any,  # noqa: ANN401  # settings
) -> Running:
    """Return an outbox of a folder that is not open yet."""
    clock = clock or FakeClock()
    keeping = Keeping(
        StoreFile(folder), StoreThread(), max_bytes=max_bytes, new_name=(name := lambda: secrets.token_hex(8))
    )
    settings = OutboxConfig().model_copy(update={"max_bytes": max_bytes, "rate": 0, **config})
    outbox = Outbox(keeping, config=settings, clock=clock, boot_id=boot, new_name=name)
    return Running(outbox, keeping, Upkeep(outbox, keeping, clock=clock))


@contextlib.asynccontextmanager
async def running(
    folder: Path,
    *,
    broker: FakeBroker | None = None,
    looks_after: bool = True,
    max_bytes: int = 64 << 20,
    boot: str = "boot",
    **config: Any,  # noqa: ANN401  # settings
) -> AsyncIterator[Running]:
    """Run an outbox; with a broker, the link and the drain, too. It ends with a clean stop."""
    clock = FakeClock()
    one = prepared(folder, max_bytes=max_bytes, clock=clock, boot=boot, **config)
    await one.outbox.open()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(OutboxWriter(one.outbox, one.keeping, clock=clock).run())]
        if looks_after:
            tasks.append(group.create_task(one.upkeep.run()))
        if broker is not None:
            link, topics = _link(broker, clock)
            pace = Pace(one.outbox.config.rate, uniform=lambda: 0.0)
            pauses = Pauses(uniform=lambda: 0.5)
            drain = Drain(one.outbox, link, topics=topics, pace=pace, pauses=pauses, clock=clock)
            tasks += [group.create_task(link.run()), group.create_task(drain.run())]
        try:
            yield one
        finally:
            for task in reversed(tasks):
                task.cancel()
                await asyncio.wait((task,))


def _link(broker: FakeBroker, clock: FakeClock) -> tuple[Link, Topics]:
    """Return a link that comes back at once."""
    link, topics = fake_link(broker, clock=clock)
    link.policy = ConnectionPolicy(
        (BrokerUrl("mqtt", "fake", 1883),), protocol=None, reconnect_max=seconds(1), uniform=lambda: 0.1
    )
    return link, topics


class TellingBroker(FakeBroker):
    """Says what it has got before it acknowledges it."""

    def __init__(self, say: Say) -> None:
        super().__init__()
        self.say = say

    @override
    def route(self, message: Message) -> None:
        if "/up/data/" in message.topic or "/up/event/" in message.topic:
            event = json.loads(message.payload)
            for gap in event["data"].get("gaps", ()):
                self.say(f"G {gap['stream']} {gap['first']} {gap['last']} {gap['reason']}".encode())
            self.say(f"D {event['id']} {event['data'].get('n', -1)}".encode())
        super().route(message)


# ---------------------------------------------------------------- at work
async def lives(folder: Path, say: Say, *, group: int, first: int = 0, rounds: int = 12) -> None:
    """Live through all that an outbox meets: offline, online, an outage, a full store, damage, a stop, shrinking."""
    numbers = itertools.count(first)

    def some(count: int = group) -> list[int]:
        return list(itertools.islice(numbers, count))

    async with running(folder, looks_after=False) as one:
        for _ in range(rounds):
            await one.put(some(), say=say)
    broker = TellingBroker(say)
    async with running(folder, broker=broker, looks_after=False, commit=seconds(0.02)) as one:
        for turn in range(rounds):
            await one.put(some(), always=turn % 2 == 0, say=say)
        broker.crash()
        for _ in range(rounds):
            await one.put(some(), say=say)
        one.keeping.fault = StoreFault.DAMAGED
        await one.upkeep._mend()
        for _ in range(rounds):
            await one.put(some(), say=say)
    broker = TellingBroker(say)
    broker.puback = lambda topic: 0 if "/up/data/" not in topic else None
    async with running(folder, broker=broker, looks_after=False, max_bytes=SMALL) as one:
        for _ in range(max(rounds * 2, 200 // group)):
            await one.put(some(), always=True, say=say)
        await one.upkeep.announce()
        await one.put(some(), always=True, say=say)
    broker = TellingBroker(say)
    async with running(folder, broker=broker, looks_after=False) as one:
        await one.until(lambda: one.outbox.online and not one.outbox.state.records)
        while await one.keeping.read(lambda store: store.shrink(20)):
            pass
        await one.put(some(), say=say)


def cutting(_report: Say, folder: str, group: str) -> None:
    """Be the worker whose power is cut: marks go into the folder itself."""
    from tests.support.power_cut import marker  # noqa: PLC0415  # in the child alone

    asyncio.run(lives(Path(folder), marker(Path(folder)), group=int(group)))


def living(report: Say, folder: str, first: str) -> None:
    """Be the worker that is killed: with a small store, putting, sending and dropping, for ever."""

    async def main() -> None:
        broker = TellingBroker(report)
        numbers = itertools.count(int(first))
        async with running(Path(folder), broker=broker, max_bytes=SMALL, commit=seconds(0.02)) as one:
            report(b"R")
            while True:
                for turn in range(30):
                    if turn == 10:
                        broker.crash()
                    if turn == 28:
                        broker.up = True
                        await one.until(lambda: one.outbox.online)
                        await one.upkeep.announce()
                    some = list(itertools.islice(numbers, (1, 50, 7)[turn % 3]))
                    await one.put(some, always=turn % 4 == 0, say=report)

    asyncio.run(main())


# ---------------------------------------------------------------- judged
def _repeats(was: int, now: int) -> bool:
    """Return whether a consumer loses nothing when it drops a record that has the id of another."""
    older_value = now < was and is_latest(was) and is_latest(now)
    return now == was or older_value


@dataclass
class Past:
    """What a worker has said."""

    promised: dict[str, int] = field(default_factory=dict)
    delivered: dict[str, int] = field(default_factory=dict)
    named: set[tuple[str, int, int, str]] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    def add(self, marks: Iterable[bytes]) -> None:
        """Take note of marks; the same id for two records is wrong."""
        for mark in marks:
            match mark.decode().split():
                case ["P", name, number]:
                    # what is replaced while it waits has the same number as what replaces it
                    self.promised[name] = max(int(number), self.promised.get(name, -1))
                case ["D", name, number]:
                    was = self.delivered.setdefault(name, int(number))
                    if not _repeats(was, int(number)):
                        self.wrong.append(f"{name} was {was} and is {number}")
                case ["G", stream, low, high, reason]:
                    self.named.add((stream, int(low), int(high), reason))
                case other:
                    assert other == ["R"], other  # it runs

    @property
    def highest(self) -> int:
        """The highest record's n."""
        return max([*self.promised.values(), *self.delivered.values()], default=-1)


async def reopened(folder: Path, past: Past, *, max_bytes: int = 64 << 20) -> list[str]:
    """Open what is left of an outbox as the agent does, and return all that is wrong with it."""
    wrong = list(past.wrong)
    async with running(folder, looks_after=False, max_bytes=max_bytes) as one:
        if not one.keeping.is_open:
            return [f"not opened: {one.keeping.fault}"]
        await one.upkeep._salvage({})
        first_new = past.highest + 1_000_000
        new = {name: first_new + at for at, name in enumerate(await one.put(range(first_new, first_new + 10)))}
        wrong += [f"{name} is used again" for name in new if name in past.promised or name in past.delivered]
    past.promised.update(new)
    return wrong + _judged(folder, past)


def _judged(folder: Path, past: Past) -> list[str]:  # noqa: C901  # one rule after another
    """Return what is wrong with a closed store."""
    wrong: list[str] = []
    with contextlib.closing(sqlite3.connect(folder / "outbox.db")) as db:
        if db.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
            wrong.append("the file is damaged")
        reserved = dict(db.execute("SELECT k, v FROM meta"))
        outbox = reserved["outbox"]
        names = {int(priority): f"{outbox}-{priority.name.lower()}" for priority in Priority}
        stored = {
            f"{names[key >> 48]}.{key & (1 << 48) - 1}": data for key, data in db.execute("SELECT key, body FROM q")
        }
        gaps = db.execute("SELECT stream, first, last, reason FROM gap").fetchall()
    told: dict[str, int] = {}
    for name, data in stored.items():
        told[name] = orjson.loads(data).get("n", -1)
        if told[name] >= 0 and data != body(told[name]):
            wrong.append(f"{name} is damaged")
        if not _repeats(was := past.delivered.get(name, told[name]), told[name]):
            wrong.append(f"{name} was delivered as {was} and is {told[name]}")
    covered: dict[str, NumberRanges] = defaultdict(NumberRanges)
    policy: dict[str, NumberRanges] = defaultdict(NumberRanges)
    for stream, low, high, reason in [*gaps, *past.named]:
        covered[stream].add(low, high)
        if reason in OF_POLICY:
            policy[stream].add(low, high)
    for name, number in past.promised.items():
        stream, _, seq = name.rpartition(".")
        if not (told.get(name, -1) >= number or name in past.delivered or int(seq) in policy[stream]):
            wrong.append(f"{name} ({number}) was promised and is lost")
    last = {f"{names[at]}": reserved[f"reserved{at}"] for at in names}
    for name in [*stored, *past.delivered]:
        stream, _, seq = name.rpartition(".")
        covered[stream].add(int(seq), int(seq))
        last[stream] = max(last.get(stream, 0), int(seq))
    unexplained = {stream: list(holes([covered[stream]], 1, upto)) for stream, upto in last.items()}
    return wrong + [f"{stream}: nobody explains {found}" for stream, found in unexplained.items() if found]
