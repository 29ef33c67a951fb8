"""Does what blocks off the loop, one thread a job, however long a dead disk or network drive makes it hang."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from edge_agent.adapters.threads import in_daemon_thread
from edge_agent.errors import JobError
from edge_agent.job_ports import Context

T = TypeVar("T")
_busy: Final[set[str]] = set()


async def off_loop(ctx: Context, work: Callable[[], T]) -> T:
    """Return what ``work()`` returns, or raise what it raises; when the run is cancelled, it goes on by itself.

    Raises:
        JobError: what an earlier run of the job began has not come back yet; or the disk, a file or a folder failed.
    """
    if ctx.job in _busy:
        raise JobError("what an earlier run began still hangs: does a disk or a network drive not answer?")

    def then_free() -> T:
        try:
            return work()
        finally:
            _busy.discard(ctx.job)

    _busy.add(ctx.job)
    try:
        return await in_daemon_thread(then_free, name=f"job-{ctx.job}", late=lambda: None)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        fix = "; let the agent's user use it" if isinstance(error, PermissionError) else ""
        raise JobError(f"{where}{error.strerror or error}{fix}") from error
