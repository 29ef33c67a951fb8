"""Bad configuration files: what is said about each, and that a running agent goes on as if there were none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from edge_agent.cli import main
from edge_agent.errors import ConfigProblem
from tests.support.agents import DEVICE, HEARTBEAT, STATUS, agent, config_text, observer, time_servers
from tests.support.bad_files import MAIN, SPOKEN, BadFile, bad_files
from tests.support.brokers import mosquitto, require

TICKS = f"edge/{DEVICE}/up/data/tick"
EVENTS = f"edge/{DEVICE}/up/event/"
EVERY_MS = 500
TICK = f'[jobs.tick]\nkind = "system"\nevery = "{EVERY_MS}ms"\n[jobs.tick.options]\nwhat = ["uptime"]\n'
BAD_FILES = bad_files()


def unprivileged() -> list[str]:
    """Return what to put before a command so that closed files are closed to it, for root too."""
    privileges = "-dac_override,-dac_read_search"
    return [] if os.geteuid() else [require("setpriv", "util-linux"), "--bounding-set", privileges]


@pytest.mark.parametrize("bad", BAD_FILES, ids=[bad.name for bad in BAD_FILES])
def test_check_says_what_is_wrong_with_a_bad_file(
    bad: BadFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file, the key or the line, what was found and what is allowed; all of it, nothing else, and no secret."""
    config = tmp_path / MAIN
    config.touch()
    (tmp_path / "edge-agent.d").mkdir()
    (tmp_path / "edge-agent.d" / "00-good.toml").touch()
    arguments = ["check", "--json", "--config", str(config)]
    with bad.put(config) as problems:
        if bad.is_closed:
            command = [*unprivileged(), sys.executable, "-m", "edge_agent", *arguments]
            checked = subprocess.run(command, stdout=subprocess.PIPE, check=False)
            code, said = checked.returncode, checked.stdout.decode()
        else:
            code, said = main(arguments), capsys.readouterr().out
    assert code == 78
    assert [ConfigProblem(**problem) for problem in json.loads(said)["problems"]] == problems
    assert SPOKEN not in said
    assert main(arguments) == 0


def test_there_are_many_and_no_two_are_one() -> None:
    """The names tell them apart."""
    assert len(BAD_FILES) == len({bad.name for bad in BAD_FILES}) >= 120


@pytest.mark.timeout_s(60)
async def test_a_running_agent_goes_on_as_if_there_were_none(tmp_path: Path) -> None:
    """Each is put in place: what check says is logged, and connection, schedule, outbox and digest are the same."""
    extra = TICK + time_servers()  # in the main file, for no section of a bad one to be in another file too
    async with (
        mosquitto(tmp_path) as broker,
        observer(broker.url) as seen,
        agent(tmp_path, config_text(broker.url, every="200ms", extra=extra), prefix=unprivileged()) as process,
    ):
        await seen.wait(HEARTBEAT)
        await seen.wait(TICKS)
        for bad in BAD_FILES:
            before = len(process.events("config_rejected"))
            with bad.put(process.config) as problems:
                process.signal(signal.SIGHUP)
                logged = (await process.logged("config_rejected", before + len(problems)))[before:]
                said = [ConfigProblem(*(line[name] for name in ("file", "key", "reason", "line"))) for line in logged]
                assert said[: len(problems)] == problems, bad.name
                assert set(said) == set(problems)  # it may have noticed the edit by itself, too, and says it again
            good = len(process.events("config_applied"))
            process.signal(signal.SIGHUP)
            await process.logged("config_applied", good + 1)
        applied = process.events("config_applied")
        await seen.wait(HEARTBEAT, after=time.monotonic(), count=2)
        await seen.wait(TICKS, after=time.monotonic(), count=2)

        assert not any(one["restarted"] for one in applied)
        assert [one.payload for one in seen.on(STATUS)] == [b"online"]
        assert len(process.events("connected")) == 1
        beats = [beat.data for beat in seen.on(HEARTBEAT)]
        assert {(beat["session"], beat["config"]["digest"], beat["agent"]["pid"]) for beat in beats} == {
            (beats[0]["session"], applied[0]["config"], process.pid)
        }
        slots = [datetime.fromisoformat(run["slot"]) for run in process.events("job_run", task_name="tick")]
        assert {(slot - slots[0]).total_seconds() * 1000 % EVERY_MS for slot in slots} == {0}
        records = [one.payload for one in seen.seen if one.topic.startswith((TICKS, EVENTS))]
        ids = [json.loads(record)["id"].rpartition(".") for record in records]
        assert len({stream for stream, _, _ in ids}) == 1
        numbers = [int(number) for _, _, number in ids]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert SPOKEN not in process.log_path.read_text()
