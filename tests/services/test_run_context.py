"""What a run is given of the agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_agent.core.config_jobs import Job
from edge_agent.core.records import Priority
from edge_agent.core.runs import Run
from edge_agent.core.submission import Submission
from edge_agent.core.timebase import seconds
from edge_agent.job_ports import Locals
from edge_agent.services.run_context import RunContexts
from tests.fakes import EPOCH, FakeClock

RUN = Run("lamp", EPOCH, "c" * 32)


def job_with(**settings: object) -> Job:
    """Return a job."""
    return Job.model_validate({"kind": "x", "every": "1m", **settings})


async def test_what_a_run_publishes_is_handed_in_as_its_job_says(tmp_path: Path) -> None:
    """On the job's own channel, with its priority, keep and durability; the run learns the record's id."""
    taken: list[Submission] = []

    async def accept(submission: Submission) -> str:
        taken.append(submission)
        return f"s.{len(taken)}"

    contexts = RunContexts(accept, FakeClock(), tmp_path, Locals({}, {}, {}), 1000)
    assert await contexts.of(RUN, job_with()).publish(b"1") == "s.1"
    urgent = contexts.of(RUN, job_with(priority="critical", keep="latest", durability="always"))
    assert await urgent.publish(b"2", key="k") == "s.2"
    assert taken == [
        Submission("data/lamp", b"1", Priority.NORMAL),
        Submission("data/lamp", b"2", Priority.CRITICAL, latest=True, key="lamp\0k", always=True),
    ]


@pytest.mark.parametrize(
    ("data", "error"), [({"a": 1}, TypeError), ("1", TypeError), (b"not json", ValueError), (b"", ValueError)], ids=repr
)
async def test_what_is_no_json_as_bytes_is_not_handed_in(tmp_path: Path, data: Any, error: type[Exception]) -> None:  # noqa: ANN401
    """It fails the run of the kind that has such a bug, not the agent and not those who read its messages."""

    async def accept(submission: Submission) -> str:
        raise AssertionError(submission)

    context = RunContexts(accept, FakeClock(), tmp_path, Locals({}, {}, {}), 1000).of(RUN, job_with())
    with pytest.raises(error):
        await context.publish(data)


async def test_a_run_knows_itself_and_what_is_allowed_now(tmp_path: Path) -> None:
    """A folder of its own, and the tables and limits of the latest configuration."""

    async def accept(submission: Submission) -> str:
        return submission.channel

    contexts = RunContexts(accept, FakeClock(), tmp_path, Locals({}, {}, {}), 1000)
    contexts.max_record = 2000
    context = contexts.of(RUN, job_with(grace="3s"))
    assert (context.job, context.slot, context.trace) == RUN[:3]
    assert (context.folder, context.max_record, context.grace_ns) == (tmp_path / "lamp", 2000, seconds(3))
    assert not context.folder.exists()
    assert context.locals is contexts.locals
