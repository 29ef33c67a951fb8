"""A real agent in a child process, and somebody who watches what it publishes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_agent.adapters.mqtt_connector import Login, MqttConnector
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.core.config_models import Tls
from edge_agent.core.config_types import parse_broker_url
from edge_agent.core.connection import Attempt, ProtocolVersion
from edge_agent.core.timebase import seconds
from edge_agent.ports import Connection

DEVICE = "dev-1"
STATUS, HEALTH, HEARTBEAT = (f"edge/{DEVICE}/up/{kind}" for kind in ("status", "health", "heartbeat"))
POLL_S = 0.01
PATIENCE_S = 60.0
"""How long is waited for what comes at once on a quiet machine; it finds what never comes."""


def toml(value: object) -> str:
    """Return a value as TOML writes it."""
    return json.dumps(value)


def config_text(broker: str | Sequence[str], *, every: str = "1s", extra: str = "", **mqtt: object) -> str:
    """Return a configuration for one device; ``mqtt`` are keys of that section."""
    brokers = [broker] if isinstance(broker, str) else list(broker)
    keys = {"brokers": brokers, **mqtt}
    lines = [f"{key} = {toml(value)}" for key, value in keys.items()]
    return f'[device]\nid = "{DEVICE}"\n[heartbeat]\nevery = "{every}"\n{extra}\n[mqtt]\n' + "\n".join(lines) + "\n"


def time_servers(*servers: str) -> str:
    """Return the section of time with these servers."""
    return f"[time]\nservers = {toml(servers)}"


@dataclass
class AgentProcess:
    """``edge-agent run`` as a child process.

    Attributes:
        config: its configuration file.
        log_path: its stderr.
        prefix: what stands before the command, such as ``ip netns exec``.
        bugs: how many of other people's it is to log, each with a traceback.
    """

    config: Path
    log_path: Path
    prefix: Sequence[str] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    bugs: int = 0

    def start(self) -> None:
        """Start it."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "edge_agent", "run", "--config", str(self.config)],
                stderr=log,
                stdout=log,
                env={**os.environ, **self._own_places(), **self.environ},
            )

    def _own_places(self) -> dict[str, str]:
        """Return directories such as a service manager gives; no test touches the system's own."""
        places = {name: self.log_path.with_suffix(f".{name.lower()}") for name in ("STATE", "RUNTIME")}
        for place in places.values():
            place.mkdir(exist_ok=True)
        return {f"{name}_DIRECTORY": str(place) for name, place in places.items()}

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process is not None
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    async def wait(self, within_s: float = PATIENCE_S) -> int:
        """Return its exit code."""
        assert self.process is not None
        return await asyncio.to_thread(self.process.wait, within_s)

    def events(self, name: str, **fields: object) -> list[dict[str, Any]]:
        """Return the log lines of one event so far; only those with these fields."""
        lines = self.log_path.read_text().splitlines()
        parsed = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [line for line in parsed if line["event"] == name and fields.items() <= line.items()]

    async def logged(
        self, name: str, count: int = 1, *, within_s: float = PATIENCE_S, **fields: object
    ) -> list[dict[str, Any]]:
        """Wait until an event, with these fields, was logged so many times, and return all of them."""
        async with asyncio.timeout(within_s):
            while len(found := self.events(name, **fields)) < count:
                assert self.process is not None
                assert self.process.poll() is None, self.log_path.read_text()
                await asyncio.sleep(POLL_S)
        return found


@contextlib.asynccontextmanager
async def agent(
    tmp_path: Path, text: str, *, prefix: Sequence[str] = (), **environ: str
) -> AsyncIterator[AgentProcess]:
    """Run an agent on a configuration; afterwards it is gone, and has logged no crash."""
    config = tmp_path / "edge-agent.toml"
    config.write_text(text)
    places = tmp_path / "edge-agent.d" / "00-places.toml"  # no test writes to the system's own directories
    places.parent.mkdir(exist_ok=True)
    places.write_text(
        f"[state]\ndir = {toml(str(tmp_path / 'state'))}\n[control]\nsocket = {toml(str(tmp_path / 'control.sock'))}\n"
        + ("" if "[time]" in text else "[time]\nservers = []\n")  # nor asks the servers of the host
    )
    process = AgentProcess(config, tmp_path / "agent.log", prefix, environ)
    process.start()
    try:
        yield process
    finally:
        if process.process is not None:
            process.process.kill()
            process.process.wait()
        assert not process.events("crashed"), process.log_path.read_text()
        assert process.log_path.read_text().count("Traceback") == process.bugs


@dataclass(frozen=True, slots=True)
class Seen:
    """One message as it came: when (monotonic seconds), topic, payload, whether retained."""

    at: float
    topic: str
    payload: bytes
    retained: bool

    @property
    def data(self) -> dict[str, Any]:
        """The data of the event."""
        return dict(json.loads(self.payload)["data"])


@dataclass
class Observer:
    """Sees everything under the prefix."""

    connection: Connection
    seen: list[Seen] = field(default_factory=list)

    async def collect(self) -> None:
        """Record what arrives, for ever."""
        while (delivery := await self.connection.receive()) is not None:
            self.seen.append(Seen(time.monotonic(), delivery.topic, delivery.payload, delivery.retained))
            self.connection.acknowledge(delivery)

    def on(self, topic: str, payload: bytes | None = None, *, after: float = 0) -> list[Seen]:
        """Return what was seen on a topic after an instant."""
        return [one for one in self.seen if one.topic == topic and one.at > after and payload in (None, one.payload)]

    async def wait(
        self,
        topic: str,
        payload: bytes | None = None,
        *,
        after: float = 0,
        count: int = 1,
        within_s: float = PATIENCE_S,
    ) -> Seen:
        """Wait until a topic was seen so many times, and return the last of them."""
        return await self.until(lambda: self.on(topic, payload, after=after)[count - 1 : count], within_s=within_s)

    async def until(self, found: Callable[[], list[Seen]], *, within_s: float = PATIENCE_S) -> Seen:
        """Wait until something is found, and return the first of it."""
        try:
            async with asyncio.timeout(within_s):
                while not (hits := found()):  # noqa: ASYNC110  # the messages are another task's
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            last = [(one.topic, one.payload[-200:]) for one in self.seen[-5:]]
            raise AssertionError(f"not seen within {within_s} s; last: {last}") from None
        return hits[0]


async def connect(url: str, *, client_id: str, protocol: ProtocolVersion = 5) -> Connection:
    """Connect as an ordinary client with a clean session."""
    login = Login(client_id, seconds(60), seconds(0), seconds(0), Tls())
    attempt = Attempt(parse_broker_url(url), protocol, will_retained=True, wait=seconds(0))
    return await MqttConnector(login, clock=SystemClock()).connect(attempt, None)


@contextlib.asynccontextmanager
async def observer(url: str, *, protocol: ProtocolVersion = 5) -> AsyncIterator[Observer]:
    """Watch everything under ``edge/`` on a broker."""
    connection = await connect(url, client_id=f"observer-{os.getpid()}", protocol=protocol)
    watcher = Observer(connection)
    await connection.subscribe_to(["edge/#"])
    task = asyncio.get_running_loop().create_task(watcher.collect())
    try:
        yield watcher
    finally:
        await connection.disconnect()
        await task
