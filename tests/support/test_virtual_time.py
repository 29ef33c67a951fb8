"""The loop whose time jumps."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from tests.support.virtual_time import VirtualTimeLoop, run_virtual

DAY_S = 86_400.0


def test_a_month_of_sleep_takes_no_time() -> None:
    """Thirty sleeps of a day end at once, and the loop's clock has moved by exactly that."""

    async def main() -> float:
        for _ in range(30):
            await asyncio.sleep(DAY_S)
        return asyncio.get_running_loop().time()

    begun = time.monotonic()
    assert run_virtual(main()) == pytest.approx(30 * DAY_S)
    assert time.monotonic() - begun < 20


@pytest.mark.virtual
async def test_sleepers_wake_in_the_order_of_their_deadlines() -> None:
    """What is due first wakes first, at its own instant."""
    woken: list[tuple[float, str]] = []
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)

    async def sleeper(name: str, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        woken.append((loop.time(), name))

    async with asyncio.TaskGroup() as group:
        for name, delay_s in (("late", 3600.0), ("early", 1.0), ("middle", 60.0)):
            group.create_task(sleeper(name, delay_s))
    assert woken == [(1.0, "early"), (60.0, "middle"), (3600.0, "late")]


@pytest.mark.virtual
async def test_a_timeout_of_an_hour_fires_after_an_hour() -> None:
    """``asyncio.timeout`` obeys virtual time."""
    loop = asyncio.get_running_loop()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3600):
            await asyncio.Event().wait()
    assert loop.time() == 3600


@pytest.mark.virtual
async def test_time_stands_still_while_a_thread_works() -> None:
    """A timeout does not fire falsely over work in an executor."""
    async with asyncio.timeout(0.001):
        await asyncio.to_thread(time.sleep, 0.05)
    assert asyncio.get_running_loop().time() == 0


@pytest.mark.virtual(grace_s=0.5)
async def test_a_foreign_thread_is_heard_within_the_grace() -> None:
    """A call from a thread that the loop did not start arrives before time jumps."""
    loop = asyncio.get_running_loop()
    called = asyncio.Event()
    timer = threading.Timer(0.02, loop.call_soon_threadsafe, [called.set])
    timer.start()
    async with asyncio.timeout(1):
        await called.wait()
    timer.join()


@pytest.mark.virtual
async def test_a_real_tcp_echo_works_between_jumps() -> None:
    """Sockets on loopback are served before time moves, also with timers pending."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    for number in range(100):
        async with asyncio.timeout(0.5):
            writer.write(b"%d\n" % number)
            assert await reader.readline() == b"%d\n" % number
        await asyncio.sleep(60)
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    assert asyncio.get_running_loop().time() == 6000
