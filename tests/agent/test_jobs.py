"""The jobs of a whole agent in a process of its own: when they run, through kills, stops, edits and wrong clocks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest

from edge_agent.adapters.control_client import ControlClient
from edge_agent.core.timebase import BUILD_EPOCH
from edge_agent.core.triggers import own_part
from edge_agent.services.scheduler import CATCH_UP_WITHIN
from tests.support.agents import DEVICE, HEARTBEAT, AgentProcess, agent, config_text, observer, time_servers, toml
from tests.support.brokers import LOOPBACK, mosquitto
from tests.support.chrony import free_udp_port
from tests.support.faketime import WallClock
from tests.support.ntp_server import NtpServer

OFFLINE: Final = "mqtt://127.0.0.1:1"
OFTEN: Final = {"kind": "system", "every": "1s", "splay": "0s", "options": {"what": ["load"]}}
SOON: Final = min((f"job-{n}" for n in range(200)), key=lambda name: own_part(DEVICE, f"{name}@", CATCH_UP_WITHIN))
"""The name of a job that catches up almost at once, on this device."""


def inline(value: object) -> str:
    """Return a value as TOML writes it in one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {inline(one)}" for key, one in value.items()) + " }"
    return toml(value)


def text(
    broker: str = OFFLINE, *, jobs: Mapping[str, object], programs: Mapping[str, str] | None = None, time: str = ""
) -> str:
    """Return a configuration with these jobs, and with programs that are scripts of a shell."""
    scripts = {name: {"argv": ["/bin/sh", "-c", script]} for name, script in (programs or {}).items()}
    return config_text(broker, extra=f"{time}\n[jobs]\n{lines(jobs)}\n[programs]\n{lines(scripts)}")


def lines(tables: Mapping[str, object]) -> str:
    """Return tables, each in one line."""
    return "\n".join(f"{name} = {inline(table)}" for name, table in tables.items())


async def until(found: Callable[[], object], *, within_s: float = 40) -> None:
    """Wait until something is there."""
    async with asyncio.timeout(within_s):
        while not found():  # noqa: ASYNC110  # another process makes it
            await asyncio.sleep(0.01)


def slots(process: AgentProcess, job: str) -> list[datetime]:
    """Return the slots of all runs of a job that have ended."""
    return [datetime.fromisoformat(run["slot"]) for run in process.events("job_run", task_name=job)]


def check_grid(process: AgentProcess, job: str, *, since: int = 0) -> None:
    """Ask of a job that runs each second: no slot twice, and those that a busy machine has missed are told."""
    ran = [round(slot.timestamp()) for slot in slots(process, job)][since:]
    assert [slot.timestamp() for slot in slots(process, job)][since:] == ran
    assert ran == sorted(set(ran))
    missed = sum(event["count"] for event in process.events("job_missed", task_name=job))
    assert ran[-1] - ran[0] + 1 - len(ran) <= missed
    assert len(ran) > (ran[-1] - ran[0]) / 2


def ask(tmp_path: Path, *calls: tuple[str, Mapping[str, object]]) -> list[Any]:
    """Ask an agent over its control socket."""
    with ControlClient(tmp_path / "control.sock") as client:
        return [client.call(method, **params) for method, params in calls]


async def runs(process: AgentProcess, job: str, more: int, *, within_s: float = 40) -> None:
    """Wait until a job has run so many times more."""
    await process.logged("job_run", len(slots(process, job)) + more, task_name=job, within_s=within_s)


async def killed(process: AgentProcess) -> None:
    """Kill the agent, and start it again."""
    process.signal(signal.SIGKILL)
    await process.wait()
    process.start()


@contextlib.contextmanager
def ended(*files: Path) -> Iterator[None]:
    """End afterwards what programs have left: the processes whose ids they have written down."""
    try:
        yield
    finally:
        for file in files:
            for pid in file.read_text().split() if file.exists() else ():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(int(pid), signal.SIGKILL)


@pytest.mark.broker
async def test_jobs_publish_what_they_find(tmp_path: Path) -> None:
    """What the device measures, and what a program prints; the heartbeat counts them."""
    programs = {"hello": "echo '{\"n\": 1}'; echo '{\"n\": 2}'"}
    says = {"kind": "exec", "every": "1s", "splay": "0s", "options": {"program": "hello", "output": "lines"}}
    async with (
        mosquitto(tmp_path) as broker,
        observer(broker.url) as seen,
        agent(tmp_path, text(broker.url, programs=programs, jobs={"load": OFTEN, "says": says})),
    ):
        measured = await seen.wait(f"edge/{DEVICE}/up/data/load", count=2)
        await seen.wait(f"edge/{DEVICE}/up/data/says", count=4)
        await seen.until(lambda: [one for one in seen.on(HEARTBEAT) if one.data["jobs"]["ok"] >= 4])
    assert measured.data["load"]
    assert [one.data["n"] for one in seen.on(f"edge/{DEVICE}/up/data/says")[:4]] == [1, 2, 1, 2]


async def test_a_kill_during_a_run_is_told_and_the_run_comes_again_if_that_was_promised(tmp_path: Path) -> None:
    """Two jobs that are due once, and whose programs are under way when the agent is killed; twice."""
    files = {name: tmp_path / name for name in ("most", "least")}
    programs = {name: f"echo $$ >> {file}; exec sleep 600" for name, file in files.items()}
    once = {"kind": "exec", "after": "0s", "timeout": "10m"}
    jobs = {
        "often": OFTEN,
        "most": once | {"options": {"program": "most"}},
        SOON: once | {"options": {"program": "least"}, "guarantee": "at_least_once"},
    }

    def begun(name: str) -> int:
        return len(files[name].read_text().split()) if files[name].exists() else 0

    async with agent(tmp_path, text(programs=programs, jobs=jobs)) as process:
        with ended(*files.values()):
            await until(lambda: begun("most") == begun("least") == 1)
            await killed(process)
            await until(lambda: begun("least") == 2)
            await runs(process, "often", 2)
            await killed(process)
            await until(lambda: begun("least") == 3)
            await runs(process, "often", 3)
            assert (begun("most"), begun("least")) == (1, 3)
            for name, told in (("most", 1), (SOON, 2)):
                ends = process.events("job_run", task_name=name)
                assert [end["status"] for end in ends] == ["interrupted"] * told
                assert len({end["slot"] for end in ends}) == 1


async def test_what_was_missed_while_the_agent_was_stopped_follows_misfire(tmp_path: Path) -> None:
    """It is half past when the agent stops, and three hours later when it is there again."""
    wall = WallClock(tmp_path / "wall")
    half_past = 1800 - time.time() % 3600
    wall.set(half_past)
    hourly = {"kind": "system", "cron": "0 * * * *", "options": {"what": ["load"]}}
    jobs = {"often": OFTEN, "skips": hourly, SOON: hourly | {"misfire": "run_once"}}
    async with agent(tmp_path, text(jobs=jobs), **wall.environ) as process:
        await runs(process, "often", 2)
        process.signal(signal.SIGTERM)
        assert await process.wait() == 0
        wall.set(half_past + 3 * 3600)
        process.start()
        await process.logged("job_run", task_name=SOON)
        await runs(process, "often", 2)
        for name, ran in (("skips", 0), (SOON, 1)):
            assert len(slots(process, name)) == ran
            assert sum(one["count"] for one in process.events("job_missed", task_name=name)) == 3 - ran


async def test_a_reload_changes_what_was_edited_and_nothing_else(tmp_path: Path) -> None:
    """What is new begins, what is changed goes by that, what is gone is called off; the rest misses no second."""
    pids = tmp_path / "pids"
    long = {"kind": "exec", "after": "0s", "timeout": "10m", "options": {"program": "long"}}
    programs = {"long": f"echo $$ >> {pids}; exec sleep 600"}
    before = text(programs=programs, jobs={"same": OFTEN, "changed": OFTEN, "gone": long})
    edited = {"same": OFTEN, "changed": OFTEN | {"every": "500ms"}, "fresh": OFTEN}
    after = text(programs=programs, jobs=edited)
    with ended(pids):
        async with agent(tmp_path, before) as process:
            await runs(process, "changed", 2)
            await until(pids.exists)
            process.config.write_text(after)
            process.signal(signal.SIGHUP)
            await process.logged("job_run", task_name="gone", status="cancelled")
            await runs(process, "fresh", 3)
            await runs(process, "changed", 3)
            assert {job["name"] for job in ask(tmp_path, ("job-list", {}))[0]["jobs"]} == {"same", "changed", "fresh"}
    check_grid(process, "same")
    check_grid(process, "fresh")
    assert {slot.microsecond for slot in slots(process, "changed")} == {0, 500_000}


async def test_what_is_changed_at_run_time_outlives_a_kill(tmp_path: Path) -> None:
    """A job that was put, one that pauses, one that was deleted: each is durable when it is answered."""
    async with agent(tmp_path, text(jobs={"tired": OFTEN, "unwanted": OFTEN, "same": OFTEN})) as process:
        await runs(process, "unwanted", 1)
        put, paused, deleted = {"job": "fresh", "config": OFTEN}, {"job": "tired"}, {"job": "unwanted"}
        await asyncio.to_thread(ask, tmp_path, ("job-put", put), ("job-pause", paused), ("job-delete", deleted))
        await killed(process)
        await process.logged("started", 2)
        before = {name: len(slots(process, name)) for name in ("tired", "unwanted")}
        await runs(process, "fresh", 2)
        await runs(process, "same", 2)
        assert before == {name: len(slots(process, name)) for name in before}
        (listed,) = await asyncio.to_thread(ask, tmp_path, ("job-list", {}))
    assert {job["name"]: job["origin"] for job in listed["jobs"]} == {
        "fresh": "runtime",
        "same": "file",
        "tired": "file",
    }


async def test_what_has_a_date_waits_until_time_is_known(tmp_path: Path) -> None:
    """What has an interval does not; then both run by true time, each slot once."""
    dated = {"kind": "system", "cron": "* * * * * *", "options": {"what": ["load"]}}
    jobs = {"often": OFTEN, "dated": dated}
    port = free_udp_port()
    async with agent(tmp_path, text(time=time_servers(f"{LOOPBACK}:{port}"), jobs=jobs)) as process:
        await runs(process, "often", 2)
        assert slots(process, "dated") == []
        with NtpServer(port=port):
            await asyncio.to_thread(ask, tmp_path, ("clock-sync", {}))
            await process.logged("clock_event", what="sync_gained", within_s=50)
            known = len(slots(process, "often"))
            await runs(process, "dated", 3)
            await runs(process, "often", 1)
    assert all(slot.timestamp() > BUILD_EPOCH / 1e9 + 100 * 86_400 for slot in slots(process, "dated"))
    check_grid(process, "dated")
    check_grid(process, "often", since=known)
    assert all(event["count"] < 60 for event in process.events("job_missed"))  # nobody was asleep for months


async def test_a_stop_gives_a_program_its_grace(tmp_path: Path) -> None:
    """It is asked to end, and has the time to do so."""
    note = tmp_path / "note"
    program = f"trap 'sleep 0.3; echo ended >> {note}; exit 0' TERM; echo begun >> {note}; sleep 600 & wait"
    long = {"kind": "exec", "after": "0s", "timeout": "10m", "grace": "30s", "options": {"program": "long"}}
    async with agent(tmp_path, text(programs={"long": program}, jobs={"long": long})) as process:
        await until(note.exists)
        process.signal(signal.SIGTERM)
        assert await process.wait() == 0
    assert note.read_text().split() == ["begun", "ended"]
    assert process.events("job_run", task_name="long", status="interrupted")
    assert not process.events("left_behind")


STUBBORN: Final = '''
import asyncio, time
from edge_agent.core.config_types import Section
from edge_agent.job_ports import Kind

class Options(Section):
    """None."""

async def deaf(ctx, options):
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

async def blocked(ctx, options):
    await asyncio.to_thread(time.sleep, 3600)

DEAF, BLOCKED = Kind("deaf", Options, deaf), Kind("blocked", Options, blocked)
'''


async def test_what_cannot_be_ended_does_not_keep_the_agent_from_stopping(tmp_path: Path) -> None:
    """A task that does not let itself be cancelled, and a thread that nobody can cancel."""
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    info = tmp_path / "stubborn-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stubborn\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[edge_agent.jobs]\ndeaf = stubborn:DEAF\nblocked = stubborn:BLOCKED\n")
    stuck = {name: {"kind": name, "after": "0s", "grace": "0s"} for name in ("deaf", "blocked")}
    jobs = {"often": OFTEN, **stuck}
    async with agent(tmp_path, text(jobs=jobs), PYTHONPATH=str(tmp_path)) as process:
        await runs(process, "often", 2)
        process.signal(signal.SIGTERM)
        assert await process.wait() == 0
        assert all(process.events("job_run", task_name=name, status="interrupted") for name in stuck)
        assert process.events("stopped")
        assert process.events("left_behind")


async def test_jobs_that_were_put_are_there_as_soon_as_there_is_a_store(tmp_path: Path) -> None:
    """The agent has started without one; and without the group it warns once, for the socket and the inbox."""
    state, away = tmp_path / "state", tmp_path / "away"
    async with agent(tmp_path, text(jobs={})) as process:
        await process.logged("started")
        await until((tmp_path / "control.sock").exists)
        put = {"job": "put", "config": OFTEN}
        ask(tmp_path, ("job-put", put), ("job-put", {**put, "job": "gone"}), ("job-delete", {"job": "gone"}))
        await runs(process, "put", 1)
        process.signal(signal.SIGTERM)
        assert await process.wait() == 0
        state.rename(away)
        state.write_text("in the way")
        process.start()
        await process.logged("started", 2)
        before = len(slots(process, "put"))
        state.unlink()
        away.rename(state)
        await process.logged("job_run", before + 1, task_name="put", within_s=30)
        assert len(process.events("group_missing")) == 2  # one each start


async def test_the_folder_of_a_deleted_job_goes_with_it(tmp_path: Path) -> None:
    """What it has kept there is not for a job that gets its name later."""
    own = tmp_path / "state" / "jobs" / "kept"
    job = {"kind": "exec", "every": "1s", "splay": "0s", "options": {"program": "keep"}}
    async with agent(tmp_path, text(jobs={}, programs={"keep": "touch here"})) as process:
        await process.logged("started")
        await until((tmp_path / "control.sock").exists)
        ask(tmp_path, ("job-put", {"job": "kept", "config": job}))
        await until((own / "here").exists)
        ask(tmp_path, ("job-delete", {"job": "kept"}))
        assert not own.exists()
