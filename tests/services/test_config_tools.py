"""What may be asked of the configuration over the control socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from edge_agent.adapters.config_reader import ConfigReader
from edge_agent.adapters.config_store import ConfigStore
from edge_agent.config_ports import Commit
from edge_agent.core.command_request import CommandError
from edge_agent.core.config import Loaded
from edge_agent.core.config_jobs import Job
from edge_agent.core.config_remote import Desired
from edge_agent.core.job_entry import Origin
from edge_agent.core.submission import Submission
from edge_agent.core.timebase import RawNs
from edge_agent.errors import EdgeAgentError
from edge_agent.jobs import kinds
from edge_agent.services.config_start import begin
from edge_agent.services.config_tools import ConfigTools
from edge_agent.services.configuring import Configuring
from tests.fakes import FakeClock

pytestmark = pytest.mark.virtual

TEXT: Final = """
[device]
id = "gw-1"
[heartbeat]
every = "1s"
[programs]
p.argv = ["/bin/true", "hunter2hunter2"]
[jobs.a]
kind = "exec"
every = "1h"
options = { program = "p" }
"""


class Events:
    """Takes events, and keeps none."""

    def put(self, submission: Submission) -> None:
        """Take one."""


class Tools:
    """The tools of a configuration that is changed, and its file."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "x.toml"
        self.file.write_text(TEXT)
        files, store = ConfigReader(self.file, {}, kinds), ConfigStore(folder)
        begun = begin(files, files.read(), store, boot="b", raw=RawNs(0))
        self.configuring = Configuring(begun, files, store, Events(), clock=FakeClock(), boot="b")
        self.jobs: dict[str, tuple[Job, Origin]] = {
            name: (job, "file") for name, job in begun.loaded.config.jobs.items()
        }
        self.methods = ConfigTools(self.configuring, lambda: self.jobs).methods()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Make changes meanwhile, but none by itself."""

        async def watch(_changed: Callable[[], None]) -> None:
            await asyncio.Event().wait()

        async def commit() -> list[str]:
            return []

        def prepare(_old: Loaded, _new: Loaded) -> Commit:
            return commit

        task = asyncio.create_task(self.configuring.run(watch, prepare))
        yield
        task.cancel()
        await asyncio.wait((task,))

    async def ask(self, method: str, **params: object) -> Any:  # noqa: ANN401  # as JSON has it
        """Return what a method answers, as a client sees it."""
        return json.loads(orjson.dumps(await self.methods[method](params or None)))

    async def edit(self, text: str) -> None:
        """Change the file, and have it read."""
        self.file.write_text(text)
        await self.configuring.reload()


async def test_what_is_in_force_is_shown_with_where_it_comes_from(tmp_path: Path) -> None:
    """A file, nobody, the cloud, or whoever has put a job; what may be secret is not."""
    tools = Tools(tmp_path)
    tools.jobs["b"] = Job.model_validate({"kind": "x", "every": "1m", "options": {"a": None, "b": 1}}), "runtime"
    async with tools.running():
        await tools.configuring.desire(Desired(7, {"heartbeat": {"every": "9s", "x": 1}}), lambda: None)
        found = await tools.ask("config-show")
    assert found["version"] == found["cloud"]["version"] == 7
    assert (found["cloud"]["state"], found["cloud"]["ignored"]) == ("pending_confirm", ["heartbeat.x"])
    assert found["digest"] == tools.configuring.now.loaded.digest
    assert found["since"] == "2027-01-15T08:00:00.000000Z"
    assert found["config"]["programs"]["p"]["argv"] == ["/bin/true", "[hidden]"]
    assert found["config"]["jobs"]["b"]["every"] == "1m"
    assert found["config"]["jobs"]["b"]["options"] == {"b": 1}
    shown = {key: found["origins"][key] for key in ("device.id", "device.groups", "heartbeat.every", "jobs.a.every")}
    assert shown == {
        "device.id": str(tools.file),
        "device.groups": "default",
        "heartbeat.every": "cloud version 7",
        "jobs.a.every": str(tools.file),
    }
    assert {found["origins"][key] for key in ("jobs.b.kind", "jobs.b.timeout")} == {"put at run time"}


async def test_what_the_files_would_change_is_told_key_by_key(tmp_path: Path) -> None:
    """Also what only a restart changes, and that what the cloud says would not fit; of bad files what is wrong."""
    tools = Tools(tmp_path)
    async with tools.running():
        nothing: dict[str, list[object]] = {"changes": [], "pending": [], "unfit": [], "errors": [], "conditions": []}
        assert await tools.ask("config-diff") == nothing
        await tools.configuring.desire(Desired(7, {"heartbeat": {"every": "9s"}}), lambda: None)
        tools.file.write_text(TEXT.replace("1s", "2s").replace("gw-1", "gw-2") + "[config]\nremote = []\n")
        found = await tools.ask("config-diff")
        assert {change["key"]: (change["before"], change["after"]) for change in found["changes"]} == {
            "config.remote": (["heartbeat", "jobs", "log", "outbox"], []),
            "device.id": ("gw-1", "gw-2"),
            "heartbeat.every": ("9s", "2s"),
        }
        assert found["pending"] == ["device.id"]
        assert [error["key"] for error in found["unfit"]] == ["heartbeat"]
        tools.file.write_text("[")
        found = await tools.ask("config-diff")
        assert [(error["file"], error["line"]) for error in found["errors"]] == [(str(tools.file), 1)]
        assert found["changes"] == []


async def test_the_history_tells_what_can_be_gone_back_to(tmp_path: Path) -> None:
    """The newest first; what was kept of the last."""
    tools = Tools(tmp_path)
    async with tools.running():
        await tools.edit(TEXT.replace("1s", "2s"))
        found = await tools.ask("config-history")
        now, before = found["entries"]
        assert now == {
            "time": "2027-01-15T08:00:00.000000Z",
            "digest": found["digest"],
            "by": "files",
            "version": None,
            "changes": [{"key": "heartbeat.every", "before": "1s", "after": "2s"}],
            "kept": True,
        }
        assert (before["by"], before["changes"], before["kept"]) == ("start", [], True)
        (tmp_path / "config" / f"{before['digest']}.json").unlink()
        assert (await tools.ask("config-history"))["entries"][1]["kept"] is False


async def test_going_back_says_what_has_changed_and_for_how_long(tmp_path: Path) -> None:
    """Pinned = until the files are changed; what cannot be gone back to is an error."""
    tools = Tools(tmp_path)
    async with tools.running():
        with pytest.raises(EdgeAgentError, match="no such configuration to go back to"):
            await tools.ask("config-rollback")
        first = tools.configuring.now.loaded.digest
        await tools.edit(TEXT.replace("1s", "2s"))
        second = tools.configuring.now.loaded.digest
        assert await tools.ask("config-rollback") == {
            "digest": first,
            "changed": True,
            "before": second,
            "version": None,
            "changes": [{"key": "heartbeat.every", "before": "2s", "after": "1s"}],
            "pinned": True,
            "pending": [],
        }
        done = await tools.ask("config-rollback", digest=second)
        assert (done["digest"], done["before"], done["pinned"]) == (second, first, False)
        done = await tools.ask("config-rollback", digest=second)
        assert (done["changed"], done["changes"]) == (False, [])
        with pytest.raises(CommandError, match="12 hex digits"):
            await tools.ask("config-rollback", digest="../../etc")
