"""The commands that are built in, all together: on paper, and on a real agent."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest

from edge_agent.adapters.control_client import ControlClient
from edge_agent.commands import advertised
from edge_agent.errors import EdgeAgentError, UsageError
from tests.support.agents import AgentProcess, agent, config_text
from tests.support.brokers import free_port
from tests.support.command_table import PAGE, filled, registry_of
from tests.support.commands import fits

JOBS = {f"job-{what}" for what in ("list", "get", "put", "delete", "run", "cancel", "pause", "resume")}
OTHERS = {"clock-status", "clock-sync", "queue-stat", "queue-purge", "config-get", "config-reload", "agent-status"}
NAMES = JOBS | OTHERS | {"ping", "log-level", "exec", "diag", "profile", "cancel", "restart"}
EXTRA = """
[programs]
hi.argv = ["/bin/echo", "hi"]
[jobs.a]
kind = "exec"
every = "1h"
options = { program = "hi" }
[jobs.b]
kind = "exec"
every = "1h"
options = { program = "hi" }
"""
CALLS: dict[str, dict[str, object]] = {
    "job-get": {"job": "a"},
    "job-put": {"job": "c", "config": {"kind": "exec", "every": "1h", "options": {"program": "hi"}}},
    "job-run": {"job": "a"},
    "job-cancel": {"job": "a"},
    "job-pause": {"job": "a"},
    "job-resume": {"job": "a"},
    "job-delete": {"job": "b"},
    "log-level": {"level": "debug"},
    "exec": {"program": "hi"},
    "profile": {"seconds": 1},
    "cancel": {"id": "c-1"},
}


def ask(process: AgentProcess, name: str, **args: object) -> Any:  # noqa: ANN401  # whatever it answers
    """Return what a command answers over the control socket, once there is one."""
    path = process.config.with_name("control.sock")
    while not path.exists():
        time.sleep(0.01)
    with ControlClient(path) as client:
        return client.call(name, **args)


def test_there_are_those_of_the_contract(tmp_path: Path) -> None:
    """Each says what it does in a sentence, describes every argument, and has a result that can be described."""
    registry = registry_of(tmp_path)
    assert set(registry) == NAMES
    for name, command in registry.items():
        assert name == command.name
        assert command.summary.endswith(".")
        assert all(field.description for field in command.args.model_fields.values()), name


def test_the_page_says_what_the_registry_says(tmp_path: Path) -> None:
    """Every command is in its table, and the life cycle is the one that is obeyed; see tests/support/command_table."""
    page = PAGE.read_text()
    assert filled(page, registry_of(tmp_path).values()) == page, "run python -m tests.support.command_table"


def test_all_that_is_advertised_fits_a_message(tmp_path: Path) -> None:
    """With every command, and schemas that are schemas."""
    found = advertised(registry_of(tmp_path), lambda _name: True)
    assert len(orjson.dumps(found)) <= 24 << 10
    assert [one["name"] for one in found["commands"]] == sorted(NAMES)
    for one in found["commands"]:
        jsonschema.Draft202012Validator.check_schema(one["args"])
    level = next(one["args"] for one in found["commands"] if one["name"] == "log-level")
    jsonschema.validate({"level": "info", "for": "10m"}, level)


@pytest.mark.timeout_s(60)
async def test_each_answers_as_its_type_says(tmp_path: Path) -> None:
    """On a running agent; restart is the last."""
    (tmp_path / "other").mkdir()
    registry = registry_of(tmp_path / "other")
    async with agent(tmp_path, config_text(f"mqtt://127.0.0.1:{free_port()}", extra=EXTRA)) as process:
        await process.logged("started")
        for name in [*sorted(NAMES - {"restart", *CALLS}), *CALLS, "restart"]:
            found = await asyncio.to_thread(ask, process, name, **CALLS.get(name, {}))
            fits(registry[name], found)
        await process.logged("started", 2)
        assert process.process is not None
        assert process.process.poll() is None, "it is the same process"


async def test_who_may_use_the_control_socket_may_say_paths(tmp_path: Path) -> None:
    """As local files may."""
    async with agent(tmp_path, config_text(f"mqtt://127.0.0.1:{free_port()}")) as process:
        await process.logged("started")
        job = {"kind": "prune", "every": "1h", "options": {"folder": str(tmp_path), "max_age": "1d"}}
        assert (await asyncio.to_thread(ask, process, "job-put", job="p", config=job))["kind"] == "prune"


async def test_a_reload_tells_whoever_asked_for_it_what_is_wrong(tmp_path: Path) -> None:
    """File, key and reason; or that it counts now, or what of it waits for a restart."""
    text = config_text(f"mqtt://127.0.0.1:{free_port()}")
    async with agent(tmp_path, text) as process:
        await process.logged("started")
        before = (await asyncio.to_thread(ask, process, "agent-status"))["config"]["digest"]
        process.config.write_text(text.replace("every", "evry"))
        with pytest.raises(EdgeAgentError, match=r"edge-agent\.toml: heartbeat\.evry: unknown key 'evry'"):
            await asyncio.to_thread(ask, process, "config-reload")
        process.config.write_text(text.replace('"dev-1"', '"dev-2"'))
        found = await asyncio.to_thread(ask, process, "config-reload")
        assert found["digest"] == before
        status = await asyncio.to_thread(ask, process, "agent-status")
        assert status["config_conditions"] == ["restart_needed: device.id"]
        process.config.write_text(text.replace('"1s"', '"2s"'))
        found = await asyncio.to_thread(ask, process, "config-reload")
        assert found["digest"] != before
        status = await asyncio.to_thread(ask, process, "agent-status")
        assert (status["interval_s"], status["config"]["digest"]) == (2.0, found["digest"])


async def test_wrong_arguments_are_a_usage_error(tmp_path: Path) -> None:
    """On the command line that is exit code 64."""
    async with agent(tmp_path, config_text(f"mqtt://127.0.0.1:{free_port()}")) as process:
        await process.logged("started")
        with pytest.raises(UsageError, match="unknown key 'x'"):
            await asyncio.to_thread(ask, process, "ping", x=1)


@pytest.mark.parametrize("variable", ["NOTIFY_SOCKET", "SYSTEMD_EXEC_PID"])
async def test_under_systemd_a_restart_is_an_exit(tmp_path: Path, variable: str) -> None:
    """With the code that the unit names; who only inherits INVOCATION_ID begins anew by itself."""
    text = config_text(f"mqtt://127.0.0.1:{free_port()}")
    prefix = ["sh", "-c", 'export SYSTEMD_EXEC_PID=$$; exec "$@"', "sh"] if variable == "SYSTEMD_EXEC_PID" else []
    environ = {"NOTIFY_SOCKET": str(tmp_path / "none")} if variable == "NOTIFY_SOCKET" else {}
    async with agent(tmp_path, text, prefix=prefix, INVOCATION_ID="x", **environ) as process:
        await process.logged("started")
        await asyncio.to_thread(ask, process, "restart")
        assert await process.wait() == 75
    unit = (Path(__file__).parents[2] / "systemd/edge-agent.service").read_text()
    assert {"RestartForceExitStatus=75", "SuccessExitStatus=75"} <= set(unit.splitlines())
