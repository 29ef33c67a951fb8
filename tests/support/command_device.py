"""A device that obeys a few commands as the contract says, on a real broker; and a real agent in its place.

It is a fake of what the agent does with commands, as far as an operator sees it: the tests of ``send`` hold both to the
same.
"""

from __future__ import annotations

import asyncio
import contextlib
import tomllib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_agent.adapters import jose
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.core.authority import Authority, Grant
from edge_agent.core.command_entry import REPLY
from edge_agent.core.command_request import Code, CommandError, Request
from edge_agent.core.config_models import Config
from edge_agent.core.events import CONTENT_TYPE, Origin, encode
from edge_agent.core.topics import Topics
from edge_agent.ports import Connection, Message
from tests.support.agents import DEVICE, HEARTBEAT, agent, config_text, connect, observer, time_servers
from tests.support.ntp_server import NtpServer, replying

KNOWN = ("ping", "agent-status")


@dataclass
class CommandDevice:
    """The fake.

    Attributes:
        copies: how often each reply is delivered.
        obeyed: the ids of the commands that it ran.
    """

    connection: Connection
    topics: Topics
    authority: Authority
    copies: int = 1
    obeyed: list[str | None] = field(default_factory=list)
    _journal: dict[str, dict[str, Any]] = field(default_factory=dict)
    _seq: int = 0

    async def serve(self) -> None:
        """Obey, until the connection ends."""
        while (delivery := await self.connection.receive()) is not None:
            address, _, rest = delivery.topic.removeprefix(f"{self.topics.prefix}/").partition("/down/cmd/")
            if rest:
                await self._obey(rest, address, delivery.payload)
            self.connection.acknowledge(delivery)

    async def _obey(self, command: str, address: str, payload: bytes) -> None:
        try:
            request, grant = self.authority.read(command, address, payload)
            if request.id in self._journal:
                await self._say(command, request.id or "", **self._journal[request.id or ""])
                return
            self._judge(request, grant)
        except CommandError as error:
            said = {"code": error.code, "message": str(error)}
            await self._say(command, error.id or "x-1", state="rejected", error=said)
            return
        await self._run(request)

    def _judge(self, request: Request, grant: Grant) -> None:
        name = request.command
        if name not in KNOWN:
            raise CommandError(Code.UNKNOWN_COMMAND, f"no command {name!r}", id=request.id)
        if not grant.allows(name):
            raise CommandError(Code.NOT_ALLOWED, grant.refusal(name), id=request.id)
        if request.args:
            raise CommandError(Code.INVALID_ARGS, "it takes no arguments", id=request.id)

    async def _run(self, request: Request) -> None:
        name = request.id or "x-1"
        await self._say(request.command, name, state="accepted")
        if request.delay:
            return
        self.obeyed.append(request.id)
        await self._say(request.command, name, state="running")
        self._journal[name] = {"state": "succeeded", "result": {"device": self.topics.device}}
        await self._say(request.command, name, **self._journal[name])

    async def _say(self, command: str, name: str, **data: object) -> None:
        self._seq += 1
        origin = Origin(self.topics.device, "0b-critical", self._seq)
        said = {"command": command, "id": name, **data, "started": None, "finished": None}
        payload = encode(REPLY, origin=origin, stamp=SystemClock().now(), data=said, subject=command)
        for _ in range(self.copies):
            await self.connection.room()
            await self.connection.send(Message(self.topics.up(f"reply/{name}"), payload, content_type=CONTENT_TYPE))


@contextlib.asynccontextmanager
async def command_device(
    url: str, commands: str = "", *, device: str = DEVICE, groups: Sequence[str] = (), copies: int = 1
) -> AsyncIterator[CommandDevice]:
    """Run the fake; ``commands`` is the section as TOML."""
    section = Config.model_validate(tomllib.loads(commands)).commands
    topics = Topics("edge", device)
    authority = Authority(section, device, groups, jose.verify if section.keys else None)
    connection = await connect(url, client_id=f"device-{device}")
    running = CommandDevice(connection, topics, authority, copies)
    await connection.subscribe_to(topics.filters(tuple(groups)))
    await connection.send(Message(topics.status, b"online", retain=True))
    task = asyncio.get_running_loop().create_task(running.serve())
    try:
        yield running
    finally:
        await connection.send(Message(topics.status, b"offline", retain=True))
        await connection.disconnect()
        await task


@contextlib.asynccontextmanager
async def fake(_tmp_path: Path, url: str, commands: str, groups: Sequence[str]) -> AsyncIterator[None]:
    """Run the fake as ``dev-1``."""
    async with command_device(url, commands, groups=groups):
        yield


@contextlib.asynccontextmanager
async def real(tmp_path: Path, url: str, commands: str, groups: Sequence[str]) -> AsyncIterator[None]:
    """Run an agent as ``dev-1``; where it has keys it knows the time, for what is signed expires."""
    listed = "[" + ", ".join(f'"{group}"' for group in groups) + "]"
    clock = SystemClock()
    with NtpServer(replying({"ahead": clock.wall() - clock.raw()})) as server:
        servers = time_servers(*([server.name] if "keys" in commands else []))
        text = config_text(url, every="200ms", extra=f"{commands}\n{servers}")
        async with observer(url) as seen, agent(tmp_path, text.replace("[device]\n", f"[device]\ngroups = {listed}\n")):
            state = "synced" if "keys" in commands else "os"
            await seen.until(
                lambda: [one for one in seen.on(HEARTBEAT) if one.data["clock"]["state"] == state], within_s=20
            )
            yield


DEVICES: dict[str, Callable[[Path, str, str, Sequence[str]], AbstractAsyncContextManager[None]]] = {
    "fake": fake,
    "real": real,
}
"""Who answers in the tests that hold for both."""
