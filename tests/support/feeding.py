"""A program that feeds an agent through its control socket, and a consumer that misses nothing the broker keeps."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_agent.adapters.mqtt_connector import Login, MqttConnector
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.core.config_models import Tls
from edge_agent.core.config_types import parse_broker_url
from edge_agent.core.connection import Attempt, ProtocolVersion
from edge_agent.core.timebase import seconds
from edge_agent.core.verification import Report, Verification
from edge_agent.errors import ConnectFailedError

UP = "edge/dev-1/up/"
_WINDOW = 100  # requests at once; the daemon takes 128


@dataclass
class Feeder:
    """Hands in records ``{"n": n}``.

    Attributes:
        socket: the daemon's control socket.
        asked: how many were handed in.
        confirmed: the id of each ``n`` whose acceptance was confirmed.
        refused: what was said of the others.
    """

    socket: Path
    asked: int = 0
    confirmed: dict[int, str] = field(default_factory=dict)
    refused: list[Any] = field(default_factory=list)

    async def put(self, count: int, *, every_s: float = 0, **params: Any) -> None:  # noqa: ANN401  # as JSON has them
        """Hand in so many, one after another, and return when all are answered.

        Raises:
            ConnectionError: the daemon has gone; what was confirmed by then stays.
        """
        reader, writer = await self._connect()
        room = asyncio.Semaphore(_WINDOW)
        padding = params.pop("padding", 0)

        async def hear() -> None:
            for _ in range(count):
                try:
                    line = await reader.readline()
                finally:
                    room.release()  # also when that was the end: somebody may wait for room
                if not line:
                    room.release()  # whoever waits for room is to see that nothing more is answered
                    raise ConnectionResetError("the daemon has gone")
                answer = json.loads(line)
                if "result" in answer:
                    self.confirmed[answer["id"]] = answer["result"]["id"]
                else:
                    self.refused.append(answer["error"])

        try:
            hearing = asyncio.get_running_loop().create_task(hear())
            begun = time.monotonic()
            for index in range(count):
                await room.acquire()
                if hearing.done():
                    break
                self.asked += 1
                data = {"n": self.asked} | ({"padding": "x" * padding} if padding else {})
                request = {"channel": "data/n", **params, "data": data}
                line = {"jsonrpc": "2.0", "id": self.asked, "method": "publish", "params": request}
                writer.write(json.dumps(line).encode() + b"\n")
                await asyncio.sleep(max(begun + (index + 1) * every_s - time.monotonic(), 0))
            await hearing
        finally:
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(OSError):
                    return await asyncio.open_unix_connection(self.socket)
                await asyncio.sleep(0.02)


@dataclass
class Consumer:
    """Reads everything of all devices with a session that outlasts its broker's restarts.

    Attributes:
        url: the broker's.
        protocol: 5 or 4.
        slow_s: how long it takes for each message.
        seen: when (monotonic seconds), where, what.
        verification: what it makes of that.
        came: the ids of the records.
    """

    url: str
    protocol: ProtocolVersion = 5
    slow_s: float = 0
    seen: list[tuple[float, str, bytes]] = field(default_factory=list)
    verification: Verification = field(default_factory=lambda: Verification(from_start=True))
    came: set[str] = field(default_factory=set)
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Read for ever."""
        login = Login(f"consumer-{os.getpid()}", seconds(60), seconds(3600), seconds(0), Tls())
        attempt = Attempt(parse_broker_url(self.url), self.protocol, will_retained=True, wait=seconds(0))
        connector = MqttConnector(login, clock=SystemClock())
        while True:
            try:
                connection = await connector.connect(attempt, None)
            except ConnectFailedError:
                await asyncio.sleep(0.05)
                continue
            # What the session has kept comes first, and unless it is taken nothing more is read, no SUBACK either.
            subscribing = asyncio.get_running_loop().create_task(connection.subscribe_to(["edge/#"]))
            subscribing.add_done_callback(self._subscribed)
            while (delivery := await connection.receive()) is not None:
                now = time.monotonic()
                self.seen.append((now, delivery.topic, delivery.payload))
                self.verification.take(delivery.payload)
                if delivery.topic.startswith(f"{UP}data/"):
                    self.came.add(json.loads(delivery.payload)["id"])
                await asyncio.sleep(self.slow_s)
                connection.acknowledge(delivery)
            await subscribing

    def _subscribed(self, done: asyncio.Task[list[int] | None]) -> None:
        if not done.cancelled() and done.result() is not None:
            self.ready.set()

    def events(self, channel: str = "data/") -> list[dict[str, Any]]:
        """Return the events of a channel."""
        found: list[dict[str, Any]] = []
        for _, topic, payload in self.seen:
            if topic.startswith(UP + channel):
                parsed = json.loads(payload)
                found += parsed if isinstance(parsed, list) else [parsed]
        return found

    def gaps(self) -> list[dict[str, Any]]:
        """Return the gaps that were named."""
        return [gap for event in self.events("event/outbox") for gap in event["data"].get("gaps", ())]

    def _settled(self) -> bool:
        """Return whether the last word is a heartbeat that says so; it was measured after all that came before."""
        if not self.seen or self.seen[-1][1] != f"{UP}heartbeat":
            return False
        outbox = json.loads(self.seen[-1][2])["data"]["outbox"]
        highest: dict[str, int] = {}
        for record in self.came:
            name, _, number = record.rpartition(".")
            highest[name] = max(highest.get(name, 0), int(number))
        return outbox["records"] == 0 and all(
            outbox["settled"].get(name, 0) >= number for name, number in highest.items()
        )

    def first_after(self, moment: float) -> float | None:
        """Return when the first record came after an instant, if one has."""
        return next((at for at, topic, _ in self.seen if at > moment and topic.startswith(f"{UP}data/")), None)

    async def until_settled(self, count: int = 0, *, within_s: float = 60) -> Report:
        """Wait until so many different records came and the device says that nothing waits; return the report."""
        try:
            async with asyncio.timeout(within_s):
                while len(self.came) < count or not self._settled():  # noqa: ASYNC110  # another task's
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{len(self.came)} of {count} came; {self.verification.report()}") from None
        return self.verification.report()


@contextlib.asynccontextmanager
async def consumer(url: str, *, protocol: ProtocolVersion = 5, slow_s: float = 0) -> AsyncIterator[Consumer]:
    """Consume while the block runs."""
    one = Consumer(url, protocol, slow_s)
    task = asyncio.get_running_loop().create_task(one.run())
    try:
        async with asyncio.timeout(30):
            await one.ready.wait()
        yield one
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
