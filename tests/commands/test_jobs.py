"""What may be asked of the jobs, as a client sees it; in virtual time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from edge_agent.command_ports import Call, Command, CutOff
from edge_agent.commands.jobs import JobCommands, schedule
from edge_agent.core.command_request import CommandError
from edge_agent.core.config_jobs import Job
from edge_agent.errors import EdgeAgentError, JobError
from tests.support.commands import asked
from tests.support.schedules import Device

pytestmark = pytest.mark.virtual

MINUTELY = {"every": "1m", "splay": "0s"}


forgotten: list[str] = []
"""Jobs whose folders were removed."""


def family(device: Device) -> list[Command]:
    """Return the commands of a device; from remote, options must not hold a path."""

    def check(_name: str, document: Mapping[str, Any]) -> None:
        if document.get("options"):
            raise JobError("only local files may say it so")

    def new_trace() -> str:
        return f"{next(device._traces):032x}"

    async def forget(name: str) -> None:
        forgotten.append(name)

    return JobCommands(
        device.scheduler, device.runner, device.clock, new_trace=new_trace, check=check, forget=forget
    ).commands()


async def ask(device: Device, method: str, job: str | None = None, **params: object) -> Any:  # noqa: ANN401  # as JSON has it
    """Return what a command answers."""
    return await asked(family(device), method, params | ({} if job is None else {"job": job}))


async def states(device: Device) -> dict[str, str]:
    """Return the state of each job."""
    return {job["name"]: job["state"] for job in (await ask(device, "job-list"))["jobs"]}


async def test_the_list_says_how_each_job_stands() -> None:
    """When it runs next, how its last run ended, how late it was, and how often in a row it went as it did."""
    device = Device(a=MINUTELY, b={"cron": "0 6 * * *"})
    async with device.up():
        await asyncio.sleep(150)
        found = await ask(device, "job-list")
        assert found["time"] == "2027-01-15T00:02:30.000000Z"
        a, b = found["jobs"]
        assert (a["name"], a["kind"], a["origin"], a["schedule"]) == ("a", "test", "file", "every 1m")
        assert (a["next"], a["streak"], a["missed"]) == ("2027-01-15T00:03:00.000000Z", 2, 0)
        assert (a["last"]["slot"], a["last"]["status"]) == ("2027-01-15T00:02:00.000000Z", "succeeded")
        assert a["last"]["finished"].startswith("2027-01-15T00:02:00.5")
        assert a["last"]["duration_ms"] == 500
        assert (b["next"], b["last"], b["breaker"]) == ("2027-01-15T06:00:00.000000Z", None, None)


async def test_each_state_has_its_word() -> None:
    """What runs, what rests, and why."""
    device = Device(
        idle={"every": "1h"},
        running=MINUTELY,
        off={**MINUTELY, "enabled": False},
        paused={"every": "1h"},
        once={"after": "1s"},
        dated={"cron": "0 6 * * *"},
    )
    device.takes_s, device.clock.state = 5, "unsynced"
    async with device.up():
        await ask(device, "job-pause", "paused")
        await asyncio.sleep(62)
        assert await states(device) == {
            "idle": "idle",
            "running": "running",
            "off": "disabled",
            "paused": "paused",
            "once": "done",
            "dated": "awaits_time",
        }
        device.clock.state = "synced"
        device.scheduler.time_changed()
        await ask(device, "job-resume", "paused")
        assert {(await states(device))[name] for name in ("dated", "paused")} == {"idle"}


async def test_from_afar_a_job_is_shown_without_what_may_be_a_secret() -> None:
    """Whoever may use the control socket may read the files, too."""
    device = Device(
        a={**MINUTELY, "options": {"token": "s3cret-1", "url": "https://u:s3cret-2@h/x?k=s3cret-3", "n": 7}}
    )
    async with device.up():
        (get,) = (command for command in family(device) if command.name == "job-get")
        for local in (False, True):
            found = json.dumps(await get.run(Call("c-1", local=local), get.args.model_validate({"job": "a"})))
            assert found.count("s3cret") == (3 if local else 0)
            assert '"n": 7' in found


async def test_one_job_is_shown_with_its_settings_and_its_last_runs() -> None:
    """Settings as they were given, without defaults."""
    device = Device(a={**MINUTELY, "timeout": "1m30s", "breaker": {"failures": 1, "cooldown": "1h"}})
    device.takes_s = 100
    async with device.up():
        await asyncio.sleep(200)
        found = await ask(device, "job-get", "a")
        assert found["config"] == {
            "kind": "test",
            **MINUTELY,
            "timeout": "1m30s",
            "breaker": found["config"]["breaker"],
        }
        assert (found["breaker"], found["streak"]) == ("open", -1)
        assert found["counts"] == {"timed_out": 1, "skipped": 2}
        statuses = [(one["status"], one["reason"]) for one in found["history"]]
        assert statuses == [
            ("skipped", "the run before it has not ended"),
            ("timed_out", "it ran longer than 90 s"),
            ("skipped", "its breaker is open"),
        ]


async def test_a_job_is_run_now_and_its_run_is_found_by_the_trace() -> None:
    """Beside its schedule, and it can be cancelled."""
    device = Device(a={"every": "1h"})
    device.takes_s = 10
    async with device.up():
        trace = (await ask(device, "job-run", "a", wait=False))["trace"]
        await asyncio.sleep(1)
        assert await ask(device, "job-cancel", "a") == {"cancelled": True}
        await asyncio.sleep(1)
        assert await ask(device, "job-cancel", "a") == {"cancelled": False}
        (run,) = (await ask(device, "job-get", "a"))["history"]
        assert (run["trace"], run["cause"], run["status"]) == (trace, "manual", "cancelled")


async def test_an_answer_to_a_change_comes_when_it_is_on_the_disk() -> None:
    """And what is put runs from then on."""
    device = Device(a=MINUTELY)
    async with device.up():
        face = await ask(device, "job-put", "new", config={"kind": "test", **MINUTELY})
        assert (face["name"], face["origin"], face["next"]) == ("new", "runtime", "2027-01-15T00:01:00.000000Z")
        assert "job/new" in device.notebook.disk
        face = await ask(device, "job-put", "a", config={"kind": "test", "every": "30s", "splay": "0s"})
        assert (face["schedule"], face["origin"]) == ("every 30s", "runtime")
        await asyncio.sleep(61)
        assert (device.runs["a"], device.runs["new"]) == ([30.0, 60.0], [60.0])
        forgotten.clear()
        assert await ask(device, "job-delete", "a") == {"deleted": True}
        assert await ask(device, "job-delete", "new") == {"deleted": True}
        assert forgotten == ["a", "new"]
        assert await ask(device, "job-list") | {"time": None} == {"time": None, "jobs": [], "hidden": ["a"]}
        assert [*device.notebook.disk] == ["job/a"]
        face = await ask(device, "job-put", "a", restore=True)
        assert (face["schedule"], face["origin"], face["last"]) == ("every 1m", "file", None)


async def test_a_job_that_is_deleted_while_it_runs_is_cancelled_and_forgotten() -> None:
    """Whoever puts and deletes for ever does not fill the memory."""
    device = Device()
    device.takes_s = 100
    async with device.up():
        await ask(device, "job-put", "a", config={"kind": "test", "every": "1s", "breaker": {}})
        await asyncio.sleep(2)
        assert await states(device) == {"a": "running"}
        await ask(device, "job-delete", "a")
        await asyncio.sleep(1)
        assert device.statuses()["cancelled"] == 1
        assert (device.runner.history.jobs, device.runner.breakers) == ({}, {})


@pytest.mark.parametrize(
    ("method", "params", "words"),
    [
        ("job-get", {}, "args.job: this key is needed"),
        ("job-get", {"job": "a b"}, 'args.job: found "a b"; a name of 1 to 64'),
        ("job-run", {"job": "x"}, "there is no job 'x'; known: a"),
        ("job-cancel", {"job": "x"}, "there is no job 'x'"),
        ("job-pause", {"job": "x"}, "there is no job 'x'"),
        ("job-delete", {"job": "x"}, "there is no job 'x'"),
        ("job-put", {"job": "x"}, 'one of config, like {"kind"'),
        ("job-put", {"job": "a", "config": MINUTELY, "restore": True}, "and restore is needed"),
        ("job-put", {"job": "x", "config": [1]}, "args.config: found an array; a table is needed"),
        ("job-put", {"job": "x", "config": {"kind": "test"}}, "exactly one of every, cron, at, after"),
        ("job-put", {"job": "x", "restore": True}, "the files have no job 'x'"),
    ],
)
async def test_what_cannot_be_done_is_said(method: str, params: dict[str, Any], words: str) -> None:
    """With what is known or needed; nothing has changed."""
    device = Device(a=MINUTELY)
    async with device.up():
        with pytest.raises(EdgeAgentError, match=words):
            await ask(device, method, **params)
        assert list(await states(device)) == ["a"]


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ({"every": "1h30m"}, "every 1h30m"),
        ({"cron": "0 6 * * MON-FRI", "timezone": "Europe/Berlin"}, "cron 0 6 * * MON-FRI Europe/Berlin"),
        ({"cron": "@daily"}, "cron @daily"),
        ({"at": "2026-12-01T01:00:00+01:00"}, "at 2026-12-01T00:00:00Z"),
        ({"after": "0s"}, "after 0s"),
    ],
)
def test_a_schedule_is_said_as_people_write_it(when: dict[str, str], said: str) -> None:
    """A time in UTC."""
    assert schedule(Job.model_validate({"kind": "x"} | when)) == said


async def test_a_job_that_is_of_no_use_any_more_can_be_deleted() -> None:
    """It is not listed, and would count for ever."""
    device = Device()
    device.disk = {"job/one": b'{"version":1,"job":{"kind":"test","every":"never"}}'}
    async with device.up():
        assert await ask(device, "job-delete", "one") == {"deleted": True}
        assert device.notebook.notes == {}


@pytest.mark.parametrize("overlap", ["skip", "queue"])
async def test_who_waits_for_a_run_is_told_how_it_ended(overlap: str) -> None:
    """Its own run, not the one that another has begun; one that fails fails the command."""
    device = Device(a={"every": "1h", "overlap": overlap})
    async with device.up():
        first = asyncio.get_running_loop().create_task(ask(device, "job-run", "a"))
        await asyncio.sleep(0.1)
        if overlap == "skip":
            with pytest.raises(CommandError, match=r"jobs.a skipped: the run before it has not ended \(trace 0+2\)"):
                await ask(device, "job-run", "a")
        else:
            second = await ask(device, "job-run", "a")
            assert second["duration_ms"] == 500
        ran = await first
        assert (ran["status"], ran["duration_ms"], ran["reason"], ran["result"]) == ("succeeded", 500, None, None)
        device.fails = True
        with pytest.raises(CommandError, match=r"jobs\.a failed: it fails") as failed:
            await ask(device, "job-run", "a")
        assert failed.value.code == "failed"
        assert device.runner.awaited == {}


async def test_who_gives_up_waiting_ends_the_run() -> None:
    """For that it was begun; but no other run of that job."""
    device = Device(a={"every": "1h", "overlap": "queue"})
    device.takes_s = 100
    async with device.up():
        tasks = [asyncio.get_running_loop().create_task(ask(device, "job-run", "a")) for _ in range(2)]
        await asyncio.sleep(1)
        tasks[1].cancel()
        await asyncio.sleep(1)
        assert await states(device) == {"a": "running"}
        tasks[0].cancel()
        await asyncio.sleep(1)
        assert device.statuses() == {"cancelled": 2}


async def test_a_run_that_the_stop_ends_is_interrupted() -> None:
    """And runs again if its job is to run at least once."""
    device = Device(a={"every": "1h"}, b={"every": "1h", "guarantee": "at_least_once"})
    device.takes_s = 100
    async with device.up():
        task = asyncio.get_running_loop().create_task(ask(device, "job-run", "a"))
        await asyncio.sleep(1)
        run = next(command for command in family(device) if command.name == "job-run")
        assert callable(run.cut_off)
        found = {job: run.cut_off(run.args.model_validate({"job": job})) for job in ("a", "b", "unknown")}
        assert found == {"a": CutOff.INTERRUPTED, "b": CutOff.AGAIN, "unknown": CutOff.INTERRUPTED}
    await asyncio.sleep(1)
    assert device.statuses() == {"interrupted": 1}
    assert not task.done()  # and now it would be cut off
    task.cancel()


async def test_from_remote_a_job_brings_nothing_of_its_own() -> None:
    """Paths and URLs are for the files, and for who may use the control socket."""
    device = Device()
    given = {"job": "a", "config": {"kind": "test", "every": "1h", "options": {"folder": "/"}}}
    async with device.up():
        put = next(command for command in family(device) if command.name == "job-put")
        with pytest.raises(JobError, match="only local files"):
            await put.run(Call("c-1"), put.args.model_validate(given))
        assert await states(device) == {}
        await put.run(Call("c-1", local=True), put.args.model_validate(given))
        assert await states(device) == {"a": "idle"}
