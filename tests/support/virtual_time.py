"""An event loop whose clock jumps: a day's sleep takes no time, and what is ready always goes first."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import selectors
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar, TypeVarTuple, Unpack

from typing_extensions import override

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _JumpingSelector(selectors.DefaultSelector):
    """Moves virtual time ahead in place of waiting, when nothing real is under way."""

    def __init__(self, grace_s: float) -> None:
        super().__init__()
        self.grace_s = grace_s
        self.virtual_s = 0.0
        self.busy_threads = 0

    @override
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None or self.busy_threads:
            return super().select(None)
        ready = super().select(self.grace_s)
        if not ready:
            self.virtual_s += max(timeout, 0.0)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop on which waiting is free; ``time()`` begins at 0.

    Time stands still while a job of an executor runs (``asyncio.to_thread``, ``run_in_executor``), for its end is an
    event of the real world. Sockets are real: on loopback what was sent is there at once; where a peer outside this
    process answers, give it ``grace_s`` of real time before each jump.
    """

    def __init__(self, *, grace_s: float = 0.0) -> None:
        self._jumping = _JumpingSelector(grace_s)
        super().__init__(self._jumping)

    @override
    def time(self) -> float:
        """Return virtual seconds since the loop was made."""
        return self._jumping.virtual_s

    @override
    def run_in_executor(
        self, executor: concurrent.futures.Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Run a blocking call in a thread, and hold time until it is done."""
        future = super().run_in_executor(executor, func, *args)
        self._jumping.busy_threads += 1
        future.add_done_callback(self._thread_done)
        return future

    @override
    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # asyncio's own
        """Wait for its threads in real time: from Python 3.12 on asyncio does so in the loop's, which would jump."""
        await super().shutdown_default_executor()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let time stand still while the block runs: it waits for a thread that the loop does not know of."""
        self._jumping.busy_threads += 1
        try:
            yield
        finally:
            self._jumping.busy_threads -= 1

    def _thread_done(self, _future: asyncio.Future[Any]) -> None:
        self._jumping.busy_threads -= 1


def run_virtual(coro: Coroutine[Any, Any, T], *, grace_s: float = 0.0) -> T:
    """Run a coroutine on a :class:`VirtualTimeLoop` and return its result."""
    with asyncio.Runner(debug=True, loop_factory=lambda: VirtualTimeLoop(grace_s=grace_s)) as runner:
        return runner.run(coro)
