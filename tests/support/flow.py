"""The outbox from put to PUBACK on a fake broker, in virtual time, with the real store in a folder."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

from typing_extensions import override

from edge_agent.adapters.store_file import StoreFile
from edge_agent.core.batch import Batch, Committed
from edge_agent.core.config_models import Outbox as OutboxConfig
from edge_agent.core.events import AgentData, ConfigData, HeartbeatData, Origin, encode
from edge_agent.core.pace import Pace
from edge_agent.core.records import Priority, Record
from edge_agent.core.refusals import Pauses
from edge_agent.core.submission import Submission
from edge_agent.errors import StoreError, StoreFault
from edge_agent.ports import Message, Store
from edge_agent.services.drain import Drain
from edge_agent.services.keeping import Keeping
from edge_agent.services.outbox import Outbox
from edge_agent.services.outbox_writer import OutboxWriter
from edge_agent.services.upkeep import Upkeep
from tests.fakes import FakeBroker, FakeClock, InlineWorker, fake_link

UP = "edge/dev-1/up/"
_boots = itertools.count()


class CountingKeeping(Keeping):
    """Remembers what was written."""

    batches: list[Batch]
    fails = False

    @override
    async def commit(self, batch: Batch) -> Committed | None:
        self.batches.append(batch)
        return await super().commit(batch)

    @override
    def _commit(self, store: Store, batch: Batch) -> Committed:
        if self.fails:
            raise StoreError(StoreFault.IO, "the disk fails")
        return super()._commit(store, batch)


class Flow:
    """An outbox with its writer, its drain and its upkeep.

    Attributes:
        broker: the fake broker.
        outbox: the outbox.
        keeping: its store, which remembers every batch in ``batches``.
        worker: the store's thread, without a thread.
    """

    def __init__(
        self,
        folder: Path,
        broker: FakeBroker | None = None,
        *,
        rate: int = 0,
        uniform: float = 0.0,
        boot: str | None = None,
        clock: FakeClock | None = None,
        **config: Any,  # noqa: ANN401  # as the model takes it
    ) -> None:
        self.broker = broker or FakeBroker()
        self.clock = clock or FakeClock()
        self.worker = InlineWorker()
        self.config = OutboxConfig(rate=rate, **config)
        names = itertools.count(1)
        self.keeping = CountingKeeping(
            StoreFile(folder),
            self.worker,
            max_bytes=self.config.max_bytes,
            new_name=lambda: f"o{next(names)}",
        )
        self.keeping.batches = []
        self.outbox = Outbox(
            self.keeping,
            config=self.config,
            clock=self.clock,
            boot_id=boot or f"boot{next(_boots)}",
            new_name=lambda: "memory",
        )
        self.link, self.topics = fake_link(self.broker, clock=self.clock)
        self.pace = Pace(rate, uniform=lambda: uniform)
        self.pauses = Pauses(uniform=lambda: uniform)
        self.drain = Drain(
            self.outbox, self.link, topics=self.topics, pace=self.pace, pauses=self.pauses, clock=self.clock
        )
        self.upkeep = Upkeep(self.outbox, self.keeping, clock=self.clock)
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Open it and start everything."""
        await self.outbox.open()
        writer = OutboxWriter(self.outbox, self.keeping, clock=self.clock)
        services: list[Coroutine[Any, Any, None]] = [
            writer.run(),
            self.upkeep.run(),
            self.link.run(),
            self.drain.run(),
        ]
        self.tasks = [asyncio.get_running_loop().create_task(service) for service in services]

    async def stop(self) -> None:
        """Stop everything in the agent's order; whatever failed is raised."""
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

    def put(
        self,
        n: int,
        channel: str = "data/n",
        *,
        priority: Priority = Priority.NORMAL,
        latest: bool = False,
        always: bool = False,
        padding: int = 0,
    ) -> Record:
        """Put a record ``{"n": n}``, larger by some bytes."""
        data = json.dumps({"n": n} | ({"padding": "x" * padding} if padding else {})).encode()
        return self.outbox.put(Submission(channel, data, priority, latest=latest, always=always))

    # -- what the broker has

    def messages(self, channel: str = "") -> list[Message]:
        """Return what came out of the outbox, on a channel."""
        branches = tuple(f"{UP}{branch}/" for branch in ("data", "event", "reply"))
        return [
            message
            for message in self.broker.log
            if message.topic.startswith(branches) and message.topic.removeprefix(UP).startswith(channel)
        ]

    def events(self, channel: str = "") -> list[dict[str, Any]]:
        """Return the events that came, one after another, also out of arrays."""
        found: list[dict[str, Any]] = []
        for message in self.messages(channel):
            parsed = json.loads(message.payload)
            found += parsed if isinstance(parsed, list) else [parsed]
        return found

    def numbers(self, channel: str = "data/") -> list[int]:
        """Return the ``n`` of the records that came."""
        return [event["data"]["n"] for event in self.events(channel)]

    def said(self, word: str) -> list[Any]:
        """Return what the outbox has said of itself."""
        return [event["data"][word] for event in self.events("event/outbox") if word in event["data"]]

    def heartbeat(self, seq: int) -> bytes:
        """Return a heartbeat with what the outbox says of itself now."""
        data = HeartbeatData(0, "b", "s", 60.0, AgentData("1", 1, 1), ConfigData("d"), outbox=self.outbox.measure())
        return encode("edge.heartbeat.v1", origin=Origin("dev-1", "s", seq), stamp=self.clock.now(), data=data)


async def online(flow: Flow, within_s: float = 120) -> None:
    """Wait until there is a session."""
    async with asyncio.timeout(within_s):
        while not flow.outbox.online:  # noqa: ASYNC110  # other tasks' doing
            await asyncio.sleep(0.02)
