"""What blocks, off the loop."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from edge_agent.errors import JobError
from edge_agent.jobs.off_loop import off_loop
from tests.support.job_context import context


async def test_what_fails_in_the_system_is_a_failure_of_the_job(tmp_path: Path) -> None:
    """It names the file; a bug stays a bug."""
    with pytest.raises(JobError, match=f"{tmp_path}/x: No such file or directory"):
        await off_loop(context(tmp_path), (tmp_path / "x").read_bytes)
    with pytest.raises(ZeroDivisionError):
        await off_loop(context(tmp_path), lambda: 1 // 0)
    assert await off_loop(context(tmp_path), lambda: 1) == 1


async def test_what_hangs_takes_one_thread_for_good_and_no_more(tmp_path: Path) -> None:
    """Until it comes back, the job's runs fail; other jobs are not touched."""
    go = threading.Event()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(off_loop(context(tmp_path), go.wait))
        await asyncio.sleep(0)
        task.cancel()
    with pytest.raises(JobError, match="still hangs"):
        await off_loop(context(tmp_path), lambda: 1)
    assert await off_loop(context(tmp_path, job="other"), lambda: 1) == 1
    hung = next(thread for thread in threading.enumerate() if thread.name == "job-j")
    go.set()
    hung.join(10)
    assert await off_loop(context(tmp_path), lambda: 2) == 2
