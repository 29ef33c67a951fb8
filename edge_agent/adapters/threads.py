"""Runs one blocking call in a thread that nobody has to wait for.

The loop's own executor joins its threads when the process ends, and a resolver that hangs would hold up the stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")


async def in_daemon_thread(work: Callable[[], T], *, name: str, late: Callable[[], None]) -> T:
    """Return what ``work()`` returns, or raise what it raises.

    Args:
        work: the blocking call.
        name: of the thread.
        late: called in the loop when the work ends after the caller was cancelled; cleans up after it.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def finish(tell: Callable[[], None]) -> None:
        if done.cancelled():
            late()
        else:
            tell()

    def run() -> None:
        try:
            tell = partial(done.set_result, work())
        except Exception as error:  # noqa: BLE001  # handed on to the caller
            tell = partial(done.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(finish, tell)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await done
