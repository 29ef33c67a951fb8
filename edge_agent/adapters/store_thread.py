"""The one thread that touches the store, so that a slow disk never stalls the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

T = TypeVar("T")


class StoreThread:
    """Runs one call after another, in the order in which they were asked for.

    A daemon thread, not an executor's: a disk that hangs must not hold up the end of the process.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Future[Any], Callable[[], Any]] | None]
        self._calls = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def run(self, call: Callable[[], T]) -> asyncio.Future[T]:
        """Have a call made; the future holds what it returns or raises, and comes in the order of the calls."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="store", daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._calls.put((loop, cast("asyncio.Future[Any]", done), call))
        return done

    def stop(self) -> None:
        """End the thread once it has done what was asked for."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread = None

    def _work(self) -> None:
        while (asked := self._calls.get()) is not None:
            loop, done, call = asked
            value: Any = None
            error: Exception | None = None
            try:
                value = call()
            except Exception as caught:  # noqa: BLE001  # handed on to whoever waits
                error = caught
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_finish, done, value, error)
            del asked, done, call, value, error


def _finish(done: asyncio.Future[Any], value: object, error: Exception | None) -> None:
    if done.cancelled():
        return
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(value)
