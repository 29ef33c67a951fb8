"""The jobs' part of the agent, put together: from the configuration to the record at the broker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.command_ports import Call
from edge_agent.core.config_models import Config
from edge_agent.core.events import JobsData
from edge_agent.core.timebase import DurationNs
from edge_agent.errors import JobError
from edge_agent.scheduling import Scheduling
from tests.support.commands import asked
from tests.support.flow import Flow

OFTEN = {"kind": "exec", "every": "100ms", "options": {"program": "echo"}}
ECHO = {"echo": {"argv": ["/bin/echo", "hello"]}}


def config_of(jobs: dict[str, Any], **sections: Any) -> Config:  # noqa: ANN401  # as TOML has them
    """Return a configuration."""
    return Config.model_validate({"device": {"id": "dev-1"}, "jobs": jobs, **sections})


@contextlib.asynccontextmanager
async def scheduling(flow: Flow, folder: Path, config: Config) -> AsyncIterator[Scheduling]:
    """Run the jobs of a configuration, with an outbox that sends."""
    jobs = Scheduling(config, flow.outbox, clock=flow.clock, uniform=lambda: 0.5, state_dir=folder)
    async with flow.running():
        jobs.configure(config)
        task = asyncio.get_running_loop().create_task(jobs.run(DurationNs(0), trusts_os=True))
        try:
            yield jobs
        finally:
            task.cancel()
            await asyncio.wait((task,))


async def came(flow: Flow, channel: str) -> dict[str, Any]:
    """Wait for a message on a channel, and return the first."""
    while not (found := flow.events(channel)):  # noqa: ASYNC110  # other tasks' doing
        await asyncio.sleep(0.01)
    return found[0]


async def test_a_job_of_the_configuration_publishes_on_its_channel(tmp_path: Path) -> None:
    """Its kind, its options, its program and its folder are those of the files; the heartbeat counts it."""
    flow = Flow(tmp_path)
    config = config_of({"greet": OFTEN}, programs=ECHO)
    async with scheduling(flow, tmp_path, config) as jobs:
        assert (await came(flow, "data/greet"))["data"] == {"text": "hello\n"}
        assert (tmp_path / "jobs" / "greet").is_dir()
        while jobs.measure().ok < 4:  # noqa: ASYNC110  # other tasks' doing
            await asyncio.sleep(0.01)
        counted = jobs.measure()
        assert counted == JobsData(ok=counted.ok, skipped=counted.skipped)  # a busy machine is late for some


async def test_an_edit_counts_from_then_on(tmp_path: Path) -> None:
    """Another job, and another program under the same name."""
    flow = Flow(tmp_path)
    async with scheduling(flow, tmp_path, config_of({"a": OFTEN}, programs=ECHO)) as jobs:
        await came(flow, "data/a")
        jobs.configure(config_of({"b": OFTEN}, programs={"echo": {"argv": ["/bin/echo", "bye"]}}))
        assert (await came(flow, "data/b"))["data"] == {"text": "bye\n"}
        found: Any = await asked(jobs.commands(), "job-list")
        assert [job["name"] for job in found["jobs"]] == ["b"]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"kind": "exec", "evry": "1m"}, "jobs.new.evry: unknown key 'evry'; did you mean 'every'"),
        ({"kind": "exce", "every": "1m"}, "jobs.new.kind: unknown kind 'exce'; did you mean 'exec'"),
        (OFTEN | {"options": {"program": "ecko"}}, "jobs.new.options.program: .* did you mean 'echo'"),
        (OFTEN | {"options": {}}, "jobs.new.options.program: this key is needed"),
    ],
)
async def test_what_is_put_is_judged_as_the_files_are(document: dict[str, Any], words: str, tmp_path: Path) -> None:
    """By the kinds that there are, and the tables of the local files; all that is wrong is said."""
    flow = Flow(tmp_path)
    async with scheduling(flow, tmp_path, config_of({}, programs=ECHO)) as jobs:
        with pytest.raises(JobError, match=words):
            await asked(jobs.commands(), "job-put", {"job": "new", "config": document})
        assert await asked(jobs.commands(), "job-put", {"job": "new", "config": OFTEN})
        await came(flow, "data/new")


async def test_runs_that_fail_are_counted_and_told(tmp_path: Path) -> None:
    """In the heartbeat, and by an event of the kind job."""
    flow = Flow(tmp_path)
    config = config_of({"bad": OFTEN}, programs={"echo": {"argv": ["/bin/false"]}})
    async with scheduling(flow, tmp_path, config) as jobs:
        event = await came(flow, "event/job")
        assert (event["subject"], event["data"]["what"], event["data"]["job"]) == ("job", "failing", "bad")
        assert "exit code 1" in event["data"]["reason"]
        measured = jobs.measure()
        assert measured.ok == 0 < measured.failed


PRUNE = {"kind": "prune", "every": "1h", "options": {"folder": "/var/log", "max_age": "1d"}}
ASK = {"kind": "http", "every": "1h", "options": {"endpoint": "https://x/?k=s3cret"}}


@pytest.mark.parametrize(("job", "option"), [(PRUNE, "folder"), (ASK, "endpoint")])
async def test_from_afar_no_path_and_no_url_is_brought_along(job: dict[str, Any], option: str, tmp_path: Path) -> None:
    """Whoever may use the control socket may say them, as local files do; what is refused is not repeated."""
    flow = Flow(tmp_path)
    async with scheduling(flow, tmp_path, config_of({})) as jobs:
        (put,) = (command for command in jobs.commands() if command.name == "job-put")
        args = put.args.model_validate({"job": "new", "config": job})
        with pytest.raises(JobError, match=rf"jobs\.new\.options\.{option}: only local files may say it so") as refused:
            await put.run(Call("c-1"), args)
        assert "s3cret" not in str(refused.value)
        await put.run(Call("c-2", local=True), args)
