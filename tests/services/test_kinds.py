"""How the work of a run begins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest
from pydantic import ValidationError

from edge_agent.core.config_jobs import Job
from edge_agent.core.config_types import Section
from edge_agent.core.runs import Run
from edge_agent.core.timebase import seconds
from edge_agent.errors import JobError
from edge_agent.job_ports import Context, Kind, Locals
from edge_agent.services.kinds import Kinds
from tests.fakes import EPOCH, FakeClock

RUN: Final = Run("lamp", EPOCH, "c" * 32)


class _Blink(Section):
    times: int = 1


async def _publish(data: bytes, *, key: str | None = None) -> str:
    return f"{key}-{len(data)}"


async def _blink(context: Context, options: _Blink) -> Mapping[str, object]:
    return {"job": context.job, "trace": context.trace, "grace_ns": context.grace_ns, "times": options.times}


def _context(run: Run, job: Job) -> Context:
    return Context(
        run.job, run.slot, run.trace, Locals({}, {}, {}), _publish, 1000, FakeClock(), Path(run.job), job.grace
    )


KINDS: Final = Kinds(lambda: {"blink": Kind("blink", _Blink, _blink)}, _context)


def _job(kind: str, **options: object) -> Job:
    return Job.model_validate({"kind": kind, "every": "1m", "grace": "2s", "options": options})


async def test_a_kind_is_given_its_context_and_its_options() -> None:
    """Defaults filled in."""
    expected = {"job": "lamp", "trace": RUN.trace, "grace_ns": seconds(2)}
    assert await KINDS.begin(RUN, _job("blink", times=3)) == expected | {"times": 3}
    assert await KINDS.begin(RUN, _job("blink")) == expected | {"times": 1}


async def test_a_kind_that_there_is_not_is_named_with_those_there_are() -> None:
    """A package may have been removed since the job was put."""
    with pytest.raises(JobError, match=r"no kind 'glow' \(known: blink\)"):
        await KINDS.begin(RUN, _job("glow"))


async def test_options_that_are_wrong_are_no_reason_from_outside() -> None:
    """They were checked when the job was put: it is a bug if they get here."""
    with pytest.raises(ValidationError):
        await KINDS.begin(RUN, _job("blink", times="often"))


async def test_jobs_that_are_alike_share_their_options() -> None:
    """And no others: equal numbers of another type are not the same options."""
    seen: list[Section] = []

    async def _see(_context: Context, options: Section) -> None:
        seen.append(options)

    class _Any(Section):
        value: object = None

    kinds = Kinds(lambda: {"see": Kind("see", _Any, _see)}, _context)
    for name, value in (("a", 1), ("b", 1), ("c", True), ("a", 2)):
        await kinds.begin(Run(name, EPOCH, "c" * 32), _job("see", value=value))
    assert seen[0] is seen[1]
    assert [repr(options) for options in seen[1:]] == ["_Any(value=1)", "_Any(value=True)", "_Any(value=2)"]
