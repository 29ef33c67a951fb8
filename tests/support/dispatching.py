"""Commands on a real outbox and a real store in a folder, in virtual time; what is sent is looked at, not sent."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field
from typing_extensions import override

from edge_agent.adapters.store_file import StoreFile
from edge_agent.command_ports import Call, Command, CutOff
from edge_agent.core.authority import Authority
from edge_agent.core.batch import Batch, Committed
from edge_agent.core.command_entry import Entry, Moment, ReplyTo
from edge_agent.core.command_states import State
from edge_agent.core.config_models import Commands
from edge_agent.core.config_models import Outbox as OutboxConfig
from edge_agent.core.config_types import Section
from edge_agent.core.events import Stamp, TimeState
from edge_agent.core.records import Priority
from edge_agent.core.timebase import NANOSECONDS_PER_SECOND, RawNs, UtcNs
from edge_agent.errors import StoreError, StoreFault
from edge_agent.ports import Delivery, Store
from edge_agent.services.dispatcher import Dispatcher, Incoming
from edge_agent.services.keeping import Keeping
from edge_agent.services.outbox import Outbox
from edge_agent.services.outbox_writer import OutboxWriter
from tests.fakes import EPOCH, FakeClock, InlineWorker

S = NANOSECONDS_PER_SECOND
TO = ReplyTo("reply/c-1")
_boots = itertools.count()


class NArgs(Section):
    """One optional number."""

    n: int = Field(0)


def at(s: float = 0, *, age: float | None = None, known: bool = True, boot: int = 0) -> Moment:
    """Return a moment, in seconds after an epoch; the age is the same unless it is given."""
    stamp = Stamp(UtcNs(int(EPOCH + s * S)), "synced" if known else "unsynced")
    return Moment(stamp, int((s if age is None else age) * S), boot)


def an_entry(name: str = "c-1", **changes: Any) -> Entry:  # noqa: ANN401  # fields of one
    """Return an accepted command that arrived at 0 s."""
    made = Entry(name, "do", "d", {"n": 1}, ReplyTo(f"reply/{name}"), EPOCH, 0, 0, timed=True, state=State.ACCEPTED)
    return replace(made, **changes)


def incoming(command: str, said: object = None, **more: Any) -> Incoming:  # noqa: ANN401  # fields of one
    """Return a command as it arrives."""
    payload = said if isinstance(said, bytes) else b"" if said is None else orjson.dumps(said)
    address, channel = more.pop("address", "dev-1"), more.pop("channel", None)
    return Incoming(
        command, address, Delivery("", payload, **({"retained": False, "qos": 1, "packet_id": 1} | more)), channel
    )


class StoodClock(FakeClock):
    """A clock that can be stepped, and knows how well it goes."""

    state: TimeState = "synced"
    raw_base: int = 0

    @override
    def now(self) -> Stamp:
        """Return the loop's time."""
        return Stamp(UtcNs(self.wall()), self.state)

    @override
    def raw(self) -> RawNs:
        """Return the loop's time since the boot."""
        return RawNs(self.monotonic() - self.raw_base)


class FailingKeeping(Keeping):
    """A store on a disk that fails while ``fails`` is set."""

    fails = False
    commits = 0

    @override
    def _commit(self, store: Store, batch: Batch) -> Committed:
        if self.fails:
            raise StoreError(StoreFault.IO, "the disk fails")
        self.commits += 1
        return super()._commit(store, batch)


@dataclass
class Handlers:
    """What the commands do: ``do`` may run once, ``see`` more than once, ``end`` ends the agent.

    Attributes:
        runs: the ids of what was begun, by command.
        lasts: how many seconds a run takes; ``None`` = it never ends by itself.
        deaf: whether it ignores its cancellation.
        raises: what it raises at its end.
        result: what it returns.
    """

    runs: dict[str, list[str]] = field(default_factory=lambda: {"do": [], "see": [], "end": []})
    lasts: float | None = 0.0
    deaf: bool = False
    raises: BaseException | None = None
    result: object = "done"
    release: asyncio.Event = field(default_factory=asyncio.Event)

    def command(self, name: str, cut_off: CutOff, **more: Any) -> Command:  # noqa: ANN401  # fields of one
        """Return a command that does as it is set here."""

        async def run(call: Call, _args: NArgs) -> object:
            self.runs[name].append(call.id)
            while True:
                try:
                    if self.lasts is None:
                        await self.release.wait()
                    else:
                        await asyncio.sleep(self.lasts)
                except asyncio.CancelledError:
                    if not self.deaf:
                        raise
                    continue
                break
            if self.raises is not None:
                raise self.raises
            return self.result

        return Command(name, "Try.", NArgs, Any, run, cut_off=cut_off, **more)

    def registry(self, **more: Any) -> dict[str, Command]:  # noqa: ANN401  # fields of all
        """Return all of them."""
        kinds = {"do": CutOff.INTERRUPTED, "see": CutOff.AGAIN, "end": CutOff.DONE}
        return {name: self.command(name, cut_off, **more) for name, cut_off in kinds.items()}


class Desk:
    """One life of an agent that obeys commands.

    Attributes:
        told: states that were said at once, and got lost if nobody listened.
    """

    def __init__(
        self,
        folder: Path,
        registry: Mapping[str, Command],
        *,
        clock: StoodClock | None = None,
        boot: str | None = None,
        allow: tuple[str, ...] = ("*",),
        **config: Any,  # noqa: ANN401  # as the model takes it
    ) -> None:
        self.clock = clock or StoodClock()
        names = itertools.count(1)
        self.config = OutboxConfig(**config)
        self.file = StoreFile(folder)
        self.keeping = FailingKeeping(
            self.file, InlineWorker(), max_bytes=self.config.max_bytes, new_name=lambda: f"o{next(names)}"
        )
        self.outbox = Outbox(
            self.keeping,
            config=self.config,
            clock=self.clock,
            boot_id=boot or f"boot{next(_boots)}",
            new_name=lambda: "memory",
        )
        ids = itertools.count(1)
        authority = Authority(Commands(allow=allow, answers=("fleet/+/answers",)), "dev-1", ("plant",), None)
        life = next(_boots)
        self.dispatcher = Dispatcher(
            registry, authority, self.outbox, clock=self.clock, new_name=lambda: f"{life}-{next(ids)}"
        )
        self.book = self.dispatcher.runs.book
        self.told: list[dict[str, Any]] = []
        self.dispatcher.runs.tell = lambda _reply, data: self.told.append(orjson.loads(orjson.dumps(data)))
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Open the store, take up what was left, and go on."""
        await self.outbox.open()
        self.dispatcher.recall()
        loop = asyncio.get_running_loop()
        writer = OutboxWriter(self.outbox, self.keeping, clock=self.clock)
        self.tasks = [loop.create_task(writer.run()), loop.create_task(self.dispatcher.run())]

    async def stop(self) -> None:
        """Stop gracefully."""
        while self.tasks:
            task = self.tasks.pop()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run it while the block does."""
        await self.start()
        try:
            yield
        finally:
            await self.stop()

    async def mend(self) -> None:
        """Mend the disk, as the upkeep does."""
        self.keeping.fails = False
        await self.keeping.mend(self.outbox.identity)
        self.outbox.must_write()
        await asyncio.sleep(11)

    def take(self, command: str, said: object = None, **more: Any) -> asyncio.Future[Any]:  # noqa: ANN401
        """Take a command as it arrives over MQTT."""
        return self.dispatcher.take(incoming(command, said, **more))

    async def obey(self, command: str, said: object = None, **more: Any) -> None:  # noqa: ANN401
        """Take one, and wait until it may be acknowledged, and a little longer."""
        await self.take(command, said, **more)
        await asyncio.sleep(0.1)

    def replies(self, command_id: str | None = None) -> list[dict[str, Any]]:
        """Return ``data`` of the durable replies that are in the outbox, in order: memory and store."""
        found: dict[int, bytes] = {}
        store = self.keeping._store
        if store is not None:
            for row in store.page(Priority.CRITICAL, 0, rows=10_000, max_bytes=1 << 30)[0]:
                found[row.key] = row.body
        for record in self.outbox.lanes[0].fresh.values():
            found[record.key] = record.body
        said = [orjson.loads(body) for _, body in sorted(found.items())]
        return [one for one in said if isinstance(one, dict) and "command" in one and command_id in (None, one["id"])]

    def states(self, command_id: str | None = None) -> list[str]:
        """Return the states that the durable replies tell."""
        return [one["state"] for one in self.replies(command_id)]
