"""A TCP relay on loopback that makes the way longer: bytes and their order are kept, each direction takes its time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from tests.support.brokers import LOOPBACK

_CHUNK: Final = 1 << 16
_CHUNKS_UNDER_WAY: Final = 1024  # beyond them the sender waits, as on a full network


@contextlib.asynccontextmanager
async def delay_proxy(target: int, delay_ms: float, *, host: str = LOOPBACK) -> AsyncIterator[int]:
    """Relay to a port while the block runs.

    Args:
        target: the port.
        delay_ms: for each direction, so that a round trip takes twice as long.
        host: where the target is.

    Yields:
        The port to connect to instead. Connections that are still open at the end are closed.
    """
    async with asyncio.TaskGroup() as tasks:

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            relays.add(relay := tasks.create_task(_relay(reader, writer, host, target, delay_ms / 1000)))
            relay.add_done_callback(relays.discard)

        relays: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(connected, LOOPBACK, 0)
        try:
            yield int(server.sockets[0].getsockname()[1])
        finally:
            server.close()
            for relay in relays:
                relay.cancel()


async def _relay(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int, delay_s: float
) -> None:
    """Carry one connection until both directions have ended, or one has failed."""
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(_closing(writer))
        try:
            far_reader, far_writer = await asyncio.open_connection(host, port)
            await stack.enter_async_context(_closing(far_writer))
            async with asyncio.TaskGroup() as directions:
                directions.create_task(_carry(reader, far_writer, delay_s))
                directions.create_task(_carry(far_reader, writer, delay_s))
        except* OSError:
            pass  # refused, or reset by either side: the other one sees the end


@contextlib.asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    try:
        yield
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    finally:
        writer.transport.abort()  # cancelled: whoever does not read is not waited for


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """Carry one direction; asyncio's sockets have TCP_NODELAY on, so that nothing else delays."""
    loop = asyncio.get_running_loop()
    way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_CHUNKS_UNDER_WAY)

    async def arrive() -> None:
        while True:
            due, data = await way.get()
            await asyncio.sleep(due - loop.time())
            if not data:
                writer.write_eof()
                return
            writer.write(data)
            await writer.drain()

    async with asyncio.TaskGroup() as ends:
        ends.create_task(arrive())
        while True:
            data = await reader.read(_CHUNK)
            await way.put((loop.time() + delay_s, data))
            if not data:
                break
