"""The store's own thread."""

from __future__ import annotations

import asyncio
import threading

import pytest

from edge_agent.adapters.store_thread import StoreThread


async def test_calls_are_made_in_order_on_one_thread_that_is_not_the_loops() -> None:
    """Also when nobody waits for them in between; what one raises comes back to whoever asked."""
    thread, order = StoreThread(), list[tuple[int, int]]()

    def call(number: int) -> int:
        order.append((number, threading.get_ident()))
        return 1 // number

    calls = [thread.run(lambda number=number: call(number)) for number in (3, 2, 1, 0)]  # type: ignore[misc]
    assert await asyncio.gather(*calls[:3]) == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        await calls[3]
    assert [number for number, _ in order] == [3, 2, 1, 0]
    assert {ident for _, ident in order}.isdisjoint({threading.get_ident()})
    thread.stop()


async def test_a_call_that_hangs_stops_neither_the_loop_nor_who_gives_up_waiting() -> None:
    """The call itself goes on; what comes after it waits."""
    thread, release = StoreThread(), threading.Event()
    hanging = thread.run(release.wait)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await hanging
    after = thread.run(lambda: 7)
    await asyncio.sleep(0.05)
    assert not after.done()
    release.set()
    assert await after == 7
    thread.stop()
