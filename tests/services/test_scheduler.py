"""Jobs fire at their slots, whatever happens to the clock, the device and the configuration; in virtual time."""

from __future__ import annotations

import asyncio
import json
from importlib.resources import files

import jsonschema
import pytest

from edge_agent.core.config_jobs import Job
from edge_agent.core.config_jobs import Runner as Limits
from edge_agent.core.runs import Run
from edge_agent.core.timebase import seconds
from edge_agent.services.scheduler import CATCH_UP_WITHIN
from tests.support.schedules import MIDNIGHT, Device

pytestmark = pytest.mark.virtual

MINUTELY = {"every": "1m", "splay": "0s"}
TEN_MINUTES = {"every": "10m", "splay": "0s"}
HOURLY = {"cron": "0 * * * *"}
CATCH_UP_S = CATCH_UP_WITHIN / 1e9


def job(**settings: object) -> Job:
    """Return a job with these settings."""
    return Job.model_validate({"kind": "test", **settings})


async def test_a_job_runs_at_each_of_its_slots() -> None:
    """An interval on its grid, a cron expression by the calendar, others once."""
    device = Device(
        often=MINUTELY,
        rarely=HOURLY,
        later={"after": "90s"},
        fixed={"at": "2027-01-15T00:30:00Z"},
        off={**MINUTELY, "enabled": False},
    )
    async with device.up():
        await asyncio.sleep(3 * 3600 + 1)
    assert device.runs["often"] == [60.0 * n for n in range(1, 181)]
    assert device.runs["rarely"] == [3600.0, 7200.0, 10_800.0]
    assert device.runs["later"] == [90.0]
    assert device.runs["fixed"] == [1800.0]
    assert device.runs["off"] == []
    assert device.statuses() == {"succeeded": 185}


async def test_a_frequent_job_costs_no_write_and_a_rare_one_does() -> None:
    """Flash is spared."""
    device = Device(often=MINUTELY, rarely=HOURLY)
    async with device.up():
        await asyncio.sleep(3601)
        assert [*device.notebook.notes] == ["job/rarely"]


async def test_until_time_is_known_what_has_a_date_waits_and_what_has_an_interval_runs() -> None:
    """The first synchronisation is no reason to catch up with anything, and no slot counts as missed."""
    device = Device(often={**MINUTELY, "misfire": "run_all"}, rarely=HOURLY, later={"after": "700s"})
    device.clock.state = "unsynced"
    device.wait_s = 86_400
    async with device.up():
        await asyncio.sleep(301)
        assert len(device.runs["often"]) == 5
        device.clock.step(10 * 86_400)
        device.clock.state = "synced"
        device.scheduler.time_changed()
        await asyncio.sleep(3600)
        assert len(device.runs["often"]) == 65
        assert device.runs["rarely"] == [10 * 86_400 + 3600.0]
        assert len(device.runs["later"]) == 1
    assert not device.said


async def test_when_time_is_not_to_be_had_what_has_a_date_runs_all_the_same() -> None:
    """After ``first_sync_wait``, by what the clock says."""
    device = Device(rarely=HOURLY)
    device.clock.state = "unsynced"
    device.wait_s = 5000
    async with device.up():
        await asyncio.sleep(5 * 3600)
    assert device.runs["rarely"] == [7200.0, 10_800.0, 14_400.0]


@pytest.mark.parametrize(
    ("misfire", "expected"), [("skip", []), ("run_once", [4 * 3600.0]), ("run_all", [3600.0 * n for n in (2, 3, 4)])]
)
async def test_what_was_missed_while_the_agent_was_stopped_follows_misfire(misfire: str, expected: list[float]) -> None:
    """The rest is counted and said; what is caught up with is so within half a minute."""
    device = Device(rarely={**HOURLY, "misfire": misfire, "misfire_window": "1d", "overlap": "queue"})
    async with device.up():
        await asyncio.sleep(3700)
    await asyncio.sleep(3 * 3600)
    async with device.up() as scheduler:
        due = scheduler.next_due("rarely")
        assert due is not None
        assert (due - device.clock.now().time < CATCH_UP_WITHIN) is bool(expected)
        await asyncio.sleep(CATCH_UP_S + 10)
        assert device.runs["rarely"] == [3600.0, *expected]
        missed = sum(one["count"] for one in device.notebook.said if one["what"] == "missed")
        assert missed == 3 - len(expected) == device.scheduler.missed
        await asyncio.sleep(3600)
        assert device.runs["rarely"][len(expected) + 1 :] == [5 * 3600.0]


@pytest.mark.parametrize(("guarantee", "again"), [("at_most_once", 0), ("at_least_once", 1)])
async def test_a_run_that_a_crash_cuts_off_comes_again_only_if_that_was_promised(guarantee: str, again: int) -> None:
    """In either case it is told that it was interrupted."""
    device = Device(rarely={**HOURLY, "guarantee": guarantee, "timeout": "1m"})
    device.takes_s = 20
    async with device.up(crash=True):
        await asyncio.sleep(3610)
    async with device.up():
        await asyncio.sleep(CATCH_UP_S + 30)
    assert device.runs["rarely"] == [3600.0] * (1 + again)
    assert device.statuses() == {"interrupted": 1} | ({"succeeded": 1} if again else {})
    async with device.up():
        await asyncio.sleep(60)
    assert len(device.runs["rarely"]) == 1 + again


async def test_a_crash_before_the_books_are_written_comes_before_the_run_too() -> None:
    """What was not begun is decided again after the restart."""
    device = Device(rarely={**HOURLY, "misfire": "run_once"})
    async with device.up(crash=True):
        await asyncio.sleep(3600.005)
        assert device.runs["rarely"] == []
    async with device.up():
        await asyncio.sleep(CATCH_UP_S + 1)
    assert device.runs["rarely"] == [3600.0]


@pytest.mark.parametrize("by_s", [-3600.0, 3600.0, -86_400.0 * 400])
async def test_a_step_of_true_time_doubles_nothing_and_stops_nothing(by_s: float) -> None:
    """A job with an interval goes on at once, one with a date does not run its slots twice, but for an absurd step."""
    device = Device(often=MINUTELY, rarely=HOURLY)
    async with device.up():
        await asyncio.sleep(2 * 3600 + 10)
        device.clock.step(by_s)
        device.scheduler.time_changed(stepped=True)
        before = len(device.runs["often"])
        await asyncio.sleep(3600)
        assert len(device.runs["often"]) - before == 60 + (by_s > 0)  # the slot ten seconds ago is not too late
        await asyncio.sleep(3600)
    rarely = device.runs["rarely"]
    assert len(rarely) == len(set(rarely))
    assert len(rarely) == {-3600.0: 3, 3600.0: 5}.get(by_s, 4)


async def test_an_edit_leaves_the_others_alone() -> None:
    """What changed begins anew, what is gone is called off, the rest keeps its phase and its run."""
    device = Device(same=MINUTELY, changed=MINUTELY, gone=MINUTELY)
    device.takes_s = 10
    async with device.up():
        await asyncio.sleep(65)
        device.configure(
            {
                "same": device.jobs["same"],
                "changed": Job.model_validate({"kind": "test", "every": "20s", "splay": "0s"}),
            }
        )
        assert device.runner.state("gone") == "running"
        await asyncio.sleep(60)
    assert device.runs["same"] == [60.0, 120.0]
    assert device.runs["gone"] == [60.0]
    assert device.runs["changed"] == [60.0, 80.0, 100.0, 120.0]
    assert device.statuses()["cancelled"] == 1


async def test_what_is_changed_at_run_time_outlives_a_restart() -> None:
    """A job that was put, one that was put over the files', one that was deleted, one that pauses."""
    device = Device(filed=MINUTELY, unwanted=MINUTELY, tired=MINUTELY)
    document = {"kind": "test", "every": "30s", "splay": "0s"}
    async with device.up(crash=True) as scheduler:
        for name in ("filed", "fresh"):
            scheduler.book.put(name, document)
        scheduler.book.delete("unwanted")
        scheduler.pause("tired", paused=True)
        await scheduler.book.written()
    async with device.up() as scheduler:
        await asyncio.sleep(61)
        assert {name: entry.origin for name, entry in scheduler.entries.items()} == {
            "filed": "runtime",
            "fresh": "runtime",
            "tired": "file",
        }
        assert (device.runs["filed"], device.runs["fresh"]) == ([30.0, 60.0], [30.0, 60.0])
        assert device.runs["unwanted"] == device.runs["tired"] == []
        scheduler.book.delete("fresh")
        scheduler.settle("fresh")
        scheduler.pause("tired", paused=False)
        await asyncio.sleep(60)
    assert device.runs["fresh"] == [30.0, 60.0]
    assert device.runs["tired"] == [120.0]


async def test_what_was_put_and_is_valid_no_longer_gives_way_to_the_files() -> None:
    """It is said in the log, and stays."""
    device = Device(one=MINUTELY)
    device.disk = {"job/one": b'{"version":1,"job":{"kind":"test","every":"never"}}'}
    async with device.up() as scheduler:
        assert scheduler.entries["one"].origin == "file"
        await asyncio.sleep(61)
    assert device.runs["one"] == [60.0]


async def test_a_job_that_begins_to_fail_is_told_once_and_so_is_its_breaker() -> None:
    """And that it runs again; the breaker survives a restart."""
    device = Device(
        shaky={**MINUTELY, "timeout": "1s", "breaker": {"failures": 3, "cooldown": "10m"}, "fallback": "calm"},
        calm={"every": "10d"},
    )
    device.takes_s = 2
    async with device.up():
        await asyncio.sleep(4 * 60 + 10)
    assert [one["what"] for one in device.said] == ["failing", "breaker_opened"]
    assert len(device.runs["shaky"]) == 3
    async with device.up():
        device.takes_s = 0.5
        await asyncio.sleep(20 * 60)
    assert [one["what"] for one in device.said] == ["failing", "breaker_opened", "breaker_closed"]
    assert len(device.runs["calm"]) >= 8
    assert 3 + 6 <= len(device.runs["shaky"]) <= 3 + 12


async def test_every_event_fits_the_schema_that_ships() -> None:
    """Each of the five words, from a job that fails, is left alone, recovers, and misses slots."""
    device = Device(
        shaky={**MINUTELY, "timeout": "1s", "breaker": {"failures": 2, "cooldown": "5m"}},
        rarely={**HOURLY, "misfire": "run_once"},
    )
    device.takes_s = 2
    async with device.up():
        await asyncio.sleep(150)
        device.takes_s = 0.5
        await asyncio.sleep(600)
    await asyncio.sleep(3 * 3600)
    async with device.up():
        await asyncio.sleep(60)
    assert {one["what"] for one in device.said} == {
        *("failing", "recovered", "missed", "breaker_opened", "breaker_closed")
    }
    schema = json.loads((files("edge_agent") / "schemas/edge.event.v1.json").read_text())
    (about,) = (each["then"]["properties"]["data"] for each in schema["allOf"] if "job" in str(each["if"]))
    for one in device.said:
        jsonschema.Draft202012Validator(about | {"additionalProperties": False}).validate(one)


async def test_a_pause_is_over_after_a_restart_too() -> None:
    """What came in it is neither missed nor caught up with."""
    device = Device(rarely={**HOURLY, "misfire": "run_all"})
    async with device.up() as scheduler:
        await asyncio.sleep(3700)
        scheduler.pause("rarely", paused=True)
        await asyncio.sleep(3 * 3600)
        scheduler.pause("rarely", paused=False)
        await asyncio.sleep(1)
    async with device.up():
        await asyncio.sleep(CATCH_UP_S + 10)
    assert (device.runs["rarely"], device.said) == ([3600.0], [])


async def test_a_job_that_pauses_catches_up_when_it_goes_on() -> None:
    """Not before."""
    device = Device(rarely={**HOURLY, "misfire": "run_all"})
    async with device.up():
        await asyncio.sleep(3700)
    await asyncio.sleep(3 * 3600)
    async with device.up() as scheduler:
        await asyncio.sleep(0.1)
        scheduler.pause("rarely", paused=True)
        await asyncio.sleep(CATCH_UP_S + 10)
        assert device.runs["rarely"] == [3600.0]
        scheduler.pause("rarely", paused=False)
        await asyncio.sleep(CATCH_UP_S + 10)
    assert device.runs["rarely"] == [3600.0 * n for n in (1, 2, 3, 4)]


@pytest.mark.parametrize("meanwhile", [{"misfire": "skip"}, {"misfire": "run_all", "enabled": False}])
async def test_old_books_say_nothing_of_a_time_without(meanwhile: dict[str, object]) -> None:
    """While a job needed none, its slots were run, or it was switched off: none is missed or comes again."""
    device = Device(one={**TEN_MINUTES, "misfire": "run_all"})
    async with device.up():
        await asyncio.sleep(605)
    device.jobs = {"one": job(**TEN_MINUTES, **meanwhile)}
    async with device.up():
        await asyncio.sleep(3600)
    device.jobs = {"one": job(**TEN_MINUTES, misfire="run_all")}
    async with device.up():
        await asyncio.sleep(CATCH_UP_S + 5)
    assert len(device.runs["one"]) == len(set(device.runs["one"])) == (7 if "enabled" not in meanwhile else 1)
    assert not device.said


async def test_a_run_as_a_fallback_is_none_of_the_slots() -> None:
    """Though it has the time of one, which is still owed."""
    device = Device(calm={**HOURLY, "guarantee": "at_least_once", "timeout": "1h"})
    device.takes_s = 600
    async with device.up() as scheduler:
        await asyncio.sleep(3700)
        entry = scheduler.entries["calm"]
        (slot,) = entry.memory.owed
        device.runner.submit(Run("calm", slot, "1", "fallback"), entry.job)
        assert device.statuses() == {"skipped": 1}
        assert entry.memory.owed == [slot]


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("by_s", [-3 * 86_400.0, 300 * 86_400.0])
async def test_what_counts_from_when_it_was_put_does_so_by_the_counter(by_s: float, is_known: bool) -> None:  # noqa: FBT001
    """A step of the clock makes it neither early nor late, nor lost, and it never comes again."""
    device = Device(later={"after": "90s"}, soon={"after": "20s"})
    device.wait_s = 0
    device.clock.state = "synced" if is_known else "unsynced"
    async with device.up(crash=True) as scheduler:
        await asyncio.sleep(60)
        device.clock.step(by_s)
        scheduler.time_changed(stepped=True)
        await asyncio.sleep(29)
        assert (len(device.runs["soon"]), len(device.runs["later"])) == (1, 0)
        await asyncio.sleep(2)
        assert len(device.runs["later"]) == 1
    async with device.up():
        await asyncio.sleep(4 * 86_400)
    assert (len(device.runs["soon"]), len(device.runs["later"])) == (1, 1)


async def test_what_ran_by_a_clock_that_was_far_ahead_does_not_run_again() -> None:
    """Neither at the first synchronisation nor after a restart."""
    device = Device(later={"after": "30s"})
    device.clock.state = "unsynced"
    device.clock.step(3 * 86_400)
    async with device.up() as scheduler:
        await asyncio.sleep(60)
        device.clock.step(-3 * 86_400)
        device.clock.state = "synced"
        scheduler.time_changed()
        await asyncio.sleep(10)
    async with device.up():
        await asyncio.sleep(4 * 86_400)
    assert len(device.runs["later"]) == 1


async def test_a_clock_that_was_never_right_has_missed_nothing_when_it_is_set() -> None:
    """A device without NTP servers starts in 1970, and the host sets its clock later."""
    device = Device(often={**MINUTELY, "misfire": "run_all"}, rarely=HOURLY, plain=MINUTELY)
    device.clock.state = "unsynced"
    device.wait_s = 0
    async with device.up() as scheduler:
        await asyncio.sleep(65)
        device.clock.step(300 * 86_400.0)
        scheduler.time_changed(stepped=True)
        await asyncio.sleep(CATCH_UP_S)
    assert len(device.runs["often"]) == len(device.runs["plain"]) == 1
    assert not device.said


@pytest.mark.parametrize("overlap", ["skip", "queue", "cancel"])
async def test_slots_seconds_apart_do_not_come_in_a_bunch(overlap: str) -> None:
    """After a step or a sleep the newest runs, the others are missed."""
    device = Device(often={"cron": "* * * * * *", "overlap": overlap})
    device.takes_s = 0.05
    async with device.up() as scheduler:
        await asyncio.sleep(5.1)
        before = len(device.runs["often"])
        device.clock.step(50)
        scheduler.time_changed(stepped=True)
        await asyncio.sleep(0.5)
    assert device.runs["often"][before:] == [55.0]
    assert sum(one["count"] for one in device.said) == 49


async def test_a_job_that_the_files_no_longer_have_is_forgotten() -> None:
    """One of the same name is another job."""
    device = Device(rarely=HOURLY, later={"after": "30s"})
    async with device.up():
        await asyncio.sleep(3700)
        device.configure({})
        assert device.notebook.notes == {}
        device.configure(device.jobs)
        await asyncio.sleep(60)
    assert len(device.runs["later"]) == 2
    device.jobs = {}
    async with device.up():
        assert device.notebook.notes == {}


async def test_an_edit_between_the_books_and_the_run_neither_doubles_nor_loses_it() -> None:
    """Unless the job is gone."""
    device = Device(edited=HOURLY, gone=HOURLY)
    async with device.up():
        await asyncio.sleep(3600.005)
        assert device.runs["edited"] == []
        device.configure({"edited": job(**HOURLY, timeout="30s")})
        await asyncio.sleep(10)
    assert (device.runs["edited"], device.runs["gone"]) == ([3600.0], [])
    assert device.statuses() == {"succeeded": 1}


async def test_an_edit_does_not_hide_how_a_job_went() -> None:
    """What was missed stays counted, and who was told that it fails is told when it does not."""
    device = Device(shaky={**MINUTELY, "timeout": "1s"})
    device.takes_s = 2
    async with device.up() as scheduler:
        await asyncio.sleep(65)
        scheduler.entries["shaky"].missed = 3
        device.takes_s = 0.1
        device.configure({"shaky": job(**MINUTELY, timeout="2s")})
        await asyncio.sleep(60)
        assert scheduler.entries["shaky"].missed == 3
    assert [one["what"] for one in device.said] == ["failing", "recovered"]


@pytest.mark.parametrize(("misfire", "expected"), [("skip", []), ("run_once", [3660.0])])
async def test_a_run_that_waits_when_the_agent_stops_was_missed(misfire: str, expected: list[float]) -> None:
    """It had no place yet, so that nothing forbids to run it after the restart."""
    device = Device(first={**HOURLY, "timeout": "1h"}, waits={"cron": "1 * * * *", "misfire": misfire})
    device.takes_s = 100
    async with device.up():
        device.runner.limits = Limits(max_concurrent=1)
        await asyncio.sleep(3670)
        assert (device.runner.state("first"), device.runner.state("waits")) == ("running", "waiting")
    async with device.up():
        await asyncio.sleep(CATCH_UP_S + 10)
    assert (device.runs["first"], device.runs["waits"]) == ([3600.0], [60.0, *expected])


async def test_a_first_synchronisation_that_proves_the_clock_right_doubles_nothing() -> None:
    """Neither what ran before it was known; what was missed while the agent was stopped is known only now."""
    device = Device(often={**MINUTELY, "misfire": "run_all"}, rarely={"every": "1h", "splay": "0s"})
    async with device.up():
        await asyncio.sleep(3590)
    device.clock.state = "unsynced"
    await asyncio.sleep(120)
    async with device.up():
        await asyncio.sleep(100)
        assert device.runs["often"][59:] == [3720.0, 3780.0]
        device.clock.state = "synced"
        device.clock.step(1)
        device.scheduler.time_changed()
        await asyncio.sleep(CATCH_UP_S + 2)
    assert sorted(device.runs["often"]) == [60.0 * n for n in range(1, 65)]
    assert device.runs["rarely"] == []
    assert [one["count"] for one in device.said] == [1]


@pytest.mark.parametrize("wait_s", [60.0, 86_400.0])
async def test_a_clock_that_learns_what_year_it_is_makes_nothing_missed(wait_s: float) -> None:
    """Nobody tells the scheduler of a jump before time is known; what counts from when it was put is not early."""
    device = Device(often=MINUTELY, rarely={**HOURLY, "misfire": "run_all"}, later={"after": "10m"})
    device.clock.state, device.wait_s = "unsynced", wait_s
    async with device.up():
        await asyncio.sleep(301)
        device.clock.step(400 * 86_400)
        await asyncio.sleep(240)
        device.clock.state = "synced"
        device.scheduler.time_changed()
        assert device.runs["later"] == []
        await asyncio.sleep(3600)
    assert 68 <= len(device.runs["often"]) <= 70
    assert device.runs["rarely"] == [400 * 86_400 + 3600.0]
    assert device.runs["later"] == [400 * 86_400 + 600.0]
    assert not device.said


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_clock_that_was_far_ahead_keeps_no_job_from_its_day(restarts: bool) -> None:  # noqa: FBT001
    """Also when it was believed in after a while."""
    device = Device(fixed={"at": "2027-01-15T02:00:00Z"})
    device.clock.state, device.wait_s = "unsynced", 60.0
    device.clock.step(3650 * 86_400)
    async with device.up():
        await asyncio.sleep(600)
        if not restarts:
            device.clock.step(-3650 * 86_400)
            device.clock.state = "synced"
            device.scheduler.time_changed()
            await asyncio.sleep(7200)
    if restarts:
        device.clock.step(-3650 * 86_400)
        device.clock.state = "synced"
        async with device.up():
            await asyncio.sleep(7200)
    assert device.runs["fixed"] == [7200.0]


async def test_what_a_wrong_clock_made_of_the_books_is_put_right_on_the_disk_too() -> None:
    """What it had called 00:20 comes once more when it is that, after a restart as well."""
    device = Device(often={"every": "10m", "splay": "0s", "misfire": "run_once"})
    device.clock.state = "unsynced"
    async with device.up():
        await asyncio.sleep(1201)
        device.clock.step(-500)
        device.scheduler.time_changed()
    device.clock.state = "synced"
    async with device.up():
        await asyncio.sleep(600)
    assert device.runs["often"] == [600.0, 1200.0, 1200.0]


async def test_another_schedule_begins_anew_on_the_disk_too() -> None:
    """Also when time is not known, and the clock was set back."""
    device = Device(often={"every": "10m", "splay": "0s", "misfire": "run_once"})
    async with device.up():
        await asyncio.sleep(1201)
    device.clock.step(-20)
    device.clock.state = "unsynced"
    async with device.up():
        device.configure({"often": device.jobs["often"].model_copy(update={"every": seconds(300)})})
    device.jobs["often"] = device.jobs["often"].model_copy(update={"every": seconds(300)})
    device.clock.state = "synced"
    async with device.up():
        await asyncio.sleep(60)
    assert device.runs["often"] == [600.0, 1200.0, 1200.0]


async def test_a_slot_that_is_owed_is_not_owed_twice() -> None:
    """Though a clock that was believed in has called another instant by its name."""
    device = Device(rarely={**HOURLY, "guarantee": "at_least_once", "overlap": "queue", "timeout": "1h"})
    device.clock.state, device.takes_s = "unsynced", 900
    async with device.up():
        await asyncio.sleep(3700)
        device.clock.step(-200)
        device.clock.state = "synced"
        device.scheduler.time_changed()
        await asyncio.sleep(3000)
    assert device.runs["rarely"] == [3600.0]


async def test_an_edit_that_changes_no_slot_leaves_them_decided_as_they_are() -> None:
    """What runs only once does not run again because its priority is another."""
    device = Device(later={"after": "90s"}, rarely={**HOURLY, "misfire": "run_once"})
    async with device.up():
        await asyncio.sleep(3610)
        for name in device.jobs:
            device.jobs[name] = device.jobs[name].model_copy(update={"priority": "bulk"})
        device.configure(device.jobs)
        await asyncio.sleep(300)
    assert (device.runs["later"], device.runs["rarely"]) == ([90.0], [3600.0])


async def test_a_suspend_costs_one_run_that_is_caught_up_with() -> None:
    """Per job, however many slots it has slept through; a job that skips goes on."""
    device = Device(
        often={**MINUTELY, "misfire": "run_once"}, rarely={**HOURLY, "misfire": "run_once"}, skips={"cron": "5 * * * *"}
    )
    async with device.up():
        await asyncio.sleep(30)
        device.clock.sleep(10 * 3600 + 1800)
        device.scheduler.time_changed()
        await asyncio.sleep(CATCH_UP_S + 1)
        assert device.runs == {"often": [10 * 3600 + 1800.0, 10 * 3600 + 1860.0], "rarely": [36_000.0], "skips": []}
        missed = {one["job"]: one["count"] for one in device.notebook.said}
        assert missed == {"often": 629, "rarely": 9, "skips": 11}


@pytest.mark.parametrize("error_s", [-1, 0, 1])
@pytest.mark.parametrize("slept_s", [300, 36_000])
async def test_after_a_suspend_each_job_catches_up_once_and_at_its_own_instant(slept_s: int, error_s: int) -> None:
    """Though what counted the sleep was a second off, and that is put right meanwhile; a job that skips does not."""
    names = [f"job-{number}" for number in range(20)]
    device = Device(**{name: {**HOURLY, "misfire": "run_once"} for name in names}, skips=HOURLY)
    async with device.up():
        await asyncio.sleep(3540)
        device.clock.sleep(slept_s)
        device.clock.step(error_s)
        device.scheduler.time_changed()
        woke = device.clock.raw()
        await asyncio.sleep(2)
        device.clock.step(-error_s)
        device.scheduler.time_changed(stepped=True)
        await asyncio.sleep(CATCH_UP_S + 1)
    newest = (3540 + slept_s) // 3600 * 3600.0
    assert device.runs == {"skips": [], **{name: [newest] for name in names}}
    assert [run.cause for run, _ in device.outcomes] == ["catch_up"] * len(names)
    begun = [when - MIDNIGHT - woke for when, _, _, what in device.journal if what == "begun"]
    assert len(set(begun)) == len(names), "each at an instant of its own"
    assert max(begun) - min(begun) > CATCH_UP_WITHIN / 2
    assert max(begun) < CATCH_UP_WITHIN + seconds(2)


async def test_of_a_frequent_expression_only_the_newest_slot_runs_after_a_suspend() -> None:
    """As of an interval."""
    device = Device(often={"cron": "*/10 * * * * *"})
    device.takes_s = 0
    async with device.up():
        await asyncio.sleep(5)
        device.clock.sleep(40)
        device.scheduler.time_changed()
        await asyncio.sleep(9)
        assert device.runs["often"] == [40.0, 50.0]
        assert device.statuses() == {"succeeded": 2}
        assert [one["count"] for one in device.notebook.said] == [3]


async def test_a_step_back_does_not_put_off_what_is_owed() -> None:
    """It is caught up with within half a minute all the same."""
    device = Device(rarely={**HOURLY, "misfire": "run_once"})
    async with device.up():
        device.clock.sleep(5400)
        device.scheduler.time_changed()
        device.clock.step(-1800)
        device.scheduler.time_changed(stepped=True)
        await asyncio.sleep(CATCH_UP_S + 1)
        assert device.runs["rarely"] == [3600.0]
