"""What the benchmarks of the outbox share: the records, the ways in which they are handed in, and the report."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from benchmarks.footprint import Row, table
from tests.support.agents import DEVICE, POLL_S, toml

CHANNEL: Final = "data/bench"
TOPIC: Final = f"edge/{DEVICE}/up/{CHANNEL}"
DATA_BYTES: Final = 200
_FILLING: Final = b"x" * (DATA_BYTES - 2) + b'"}'
_REACH_WITHIN_S: Final = 15.0


def encoded(number: int) -> bytes:
    """Return a record's data as JSON: its number, and as much as makes it ``DATA_BYTES``."""
    head = b'{"n":%d,"v":"' % number
    return head + _FILLING[len(head) :]


def sections(folder: Path, **outbox: object) -> str:
    """Return the part of an agent's configuration that keeps its files in a folder; ``outbox`` are keys of that."""
    keys = "\n".join(f"{key} = {toml(value)}" for key, value in outbox.items())
    files = f"[state]\ndir = {toml(str(state_dir(folder)))}\n[control]\nsocket = {toml(str(socket_path(folder)))}\n"
    return f"{files}[outbox]\n{keys}\n"


def state_dir(folder: Path) -> Path:
    """Return where the agent keeps its state."""
    return folder / "state"


def socket_path(folder: Path) -> Path:
    """Return where the agent's control socket is."""
    return folder / "control.sock"


async def put_all(put: Callable[[int], Awaitable[object]], count: int, *, putters: int) -> None:
    """Put the records 0 to ``count`` - 1 by so many tasks, each awaiting its put before the next."""
    numbers = iter(range(count))

    async def putter() -> None:
        for number in numbers:
            await put(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(putters):
            group.create_task(putter())


class Control:
    """A program that hands records to a running agent: JSON-RPC 2.0, one object a line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._pending: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._last = 0

    async def publish(self, number: int) -> str:
        """Hand in a record and return its id once it is durable."""
        self._last += 1
        params = {"channel": CHANNEL, "data": json.loads(encoded(number))}
        request = {"jsonrpc": "2.0", "id": self._last, "method": "publish", "params": params}
        answered = self._pending[self._last] = asyncio.get_running_loop().create_future()
        self._writer.write(json.dumps(request).encode() + b"\n")
        await self._writer.drain()
        answer = await answered
        if "result" not in answer:
            raise RuntimeError(f"record {number} was not accepted: {answer}")
        return str(answer["result"]["id"])

    async def read(self) -> None:
        """Take the answers, until the agent hangs up."""
        try:
            with contextlib.suppress(ConnectionError):
                while line := await self._reader.readline():
                    answer = json.loads(line)
                    self._pending.pop(answer["id"]).set_result(answer)
        finally:
            for waiting in self._pending.values():
                waiting.set_exception(ConnectionError("the agent has closed its control socket"))


async def _connect(socket: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    while True:
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            return await asyncio.open_unix_connection(socket)
        await asyncio.sleep(POLL_S)


@contextlib.asynccontextmanager
async def control(socket: Path) -> AsyncIterator[Control]:
    """Connect to an agent's control socket, as soon as it is there."""
    async with asyncio.timeout(_REACH_WITHIN_S):
        reader, writer = await _connect(socket)
    client = Control(reader, writer)
    task = asyncio.get_running_loop().create_task(client.read())
    try:
        yield client
    finally:
        writer.close()
        task.cancel()
        await asyncio.wait((task,))


def report(rows: Sequence[Row], args: argparse.Namespace) -> int:
    """Print the rows, and on stderr what is missed; return the exit code."""
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        print(*table(list(rows)), sep="\n")
    missed = [row for row in rows if row.ok is False]
    for row in missed:
        print(f"missed: {row.what}: {row.measured}, required {row.required}", file=sys.stderr)
    return 1 if args.check and missed else 0
