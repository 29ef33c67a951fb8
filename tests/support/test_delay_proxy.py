"""The longer way."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from tests.support.brokers import LOOPBACK, free_port
from tests.support.delay_proxy import delay_proxy


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def _echo_server() -> AsyncIterator[int]:
    async with await asyncio.start_server(_echo, LOOPBACK, 0) as server:
        yield server.sockets[0].getsockname()[1]


@contextlib.asynccontextmanager
async def _connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_each_direction_takes_its_time() -> None:
    """A round trip takes twice the delay, and not much more: several may be under way at once."""
    async with _echo_server() as target, delay_proxy(target, 50) as port, _connection(port) as (reader, writer):
        begun = time.monotonic()
        for number in range(100):
            writer.write(bytes([number]))
            await asyncio.sleep(0.005)
        assert await reader.readexactly(100) == bytes(range(100))
        assert 0.1 <= time.monotonic() - begun < 5  # one after the other they would take 10 s


async def test_bytes_and_order_are_kept_and_the_end_is_passed_on() -> None:
    """8 MB come back as they were sent, also when the sender only reads afterwards; then the end."""
    sent = b"".join(number.to_bytes(4, "big") for number in range(2_000_000))
    async with _echo_server() as target, delay_proxy(target, 5) as port, _connection(port) as (reader, writer):
        writer.write(sent)
        writer.write_eof()
        assert await reader.read(-1) == sent


async def _reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(1)
    writer.transport.abort()  # with bytes unread: a reset


async def test_a_target_that_refuses_or_resets_ends_the_connection() -> None:
    """Whoever has connected sees the end, not silence; and the proxy goes on."""
    async with await asyncio.start_server(_reset, LOOPBACK, 0) as server:
        for target in (free_port(), server.sockets[0].getsockname()[1]):
            async with delay_proxy(target, 1) as port:
                for _ in range(2):
                    async with _connection(port) as (reader, writer):
                        with contextlib.suppress(ConnectionError):
                            writer.write(bytes(100))
                            assert await reader.read() == b""


async def test_who_does_not_read_does_not_hold_up_the_end() -> None:
    """The block ends although the proxy still has bytes for him."""
    async with _echo_server() as target:
        async with delay_proxy(target, 1) as port:
            _reader, writer = await asyncio.open_connection(LOOPBACK, port)
            writer.write(bytes(20_000_000))
            await asyncio.sleep(0.3)
        writer.transport.abort()


async def test_nothing_is_left_when_the_block_ends() -> None:
    """An open connection is closed, and nobody listens any more."""
    async with _echo_server() as target:
        async with delay_proxy(target, 1) as port:
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
        assert await reader.read() == b""
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(LOOPBACK, port)
