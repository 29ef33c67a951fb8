"""A task for many: what never waits shares one with what comes after it, as a task costs a good part of a short run.

Whatever waits keeps the task for itself, so that it can be cancelled alone. What one leaves in its context, or a cancel
of itself that it did not wait for, does not reach the next; only who keeps hold of the task and cancels it later does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedTask(Generic[T]):
    """Does the same with each of many things, in a task of its own as far as that thing can tell."""

    def __init__(self, work: Callable[[T, asyncio.Task[None]], Awaitable[None]]) -> None:
        """Prepare.

        Args:
            work: is given a thing, and the task that it is in.
        """
        self._work = work
        self._next: deque[tuple[T, str]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._context = copy_context()

    def put(self, thing: T, name: str) -> asyncio.Task[None]:
        """Begin with a thing soon, in a task of that name; return who does so unless one before it waits."""
        self._next.append((thing, name))
        if self._task is None:
            self._task = self._new()
        return self._task

    def _new(self) -> asyncio.Task[None]:
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._run(), context=self._context.copy())
        loop.call_soon(self._relieve)  # right after its first step
        return task

    def _relieve(self) -> None:
        self._task = self._new() if self._next else None

    async def _run(self) -> None:
        task = self._task
        assert task is not None, "it is this one"
        for _ in range(len(self._next)):  # the loop has its turn between these and what they bring
            thing, name = self._next.popleft()
            task.set_name(name)
            await self._work(thing, task)
            if self._task is not task or task.cancelling() or copy_context() != self._context:
                break
