"""Changes of the configuration while the agent runs, one after the other; test_config_machine has random histories."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from edge_agent.adapters.config_store import ConfigStore
from edge_agent.core.config_diff import MAX_TOLD
from edge_agent.core.config_remote import Desired
from edge_agent.errors import ConfigError, ConfigProblem, EdgeAgentError
from tests.support.configuring import HEAD, WITHIN_S, Device, device

pytestmark = pytest.mark.virtual

TAKEN_BACK = "taken back: no broker has acknowledged it within 10s"


def write(folder: Path, every: str = "10s", *, opened: str = '"heartbeat", "jobs"', rest: str = "") -> None:
    """Edit the file."""
    text = f'{HEAD}config.remote = [{opened}]\nheartbeat.every = "{every}"\n{rest}'
    (folder / "edge-agent.toml").write_text(text)


def beat(every: str) -> dict[str, Any]:
    """Return what the cloud says."""
    return {"heartbeat": {"every": every}}


async def started(folder: Path) -> Device:
    """Return a device that runs by its file, which says 10 s."""
    if not (folder / "edge-agent.toml").exists():
        write(folder)
    one = device(folder)
    await one.start()
    return one


async def restarted(one: Device) -> Device:
    """Return the next life of a device that is killed."""
    await one.kill()
    again = Device(one.files.path.parent, one.clock)
    again.begin()
    await again.start()
    return again


async def lives(one: Device, s: float) -> None:
    """Let time pass."""
    await asyncio.sleep(s)
    await one.idle()


async def confirmed(one: Device, version: int, every: str) -> None:
    """Have the cloud's configuration in force for good."""
    assert await one.desire(version, beat(every))
    await one.confirm()
    await lives(one, 61)
    assert one.configuring.now.memory.cloud.trial is None


# ---------------------------------------------------------------- files
async def test_an_edit_counts_and_a_bad_one_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is said where and why, as a log line, an event and a condition, until the files are good again."""
    one = await started(tmp_path)
    write(tmp_path, "1ms")
    await one.edited()
    assert (one.every, one.configuring.conditions()) == (10, ["config_rejected"])
    (event,) = one.events
    (error,) = event["errors"]
    assert (event["what"], error["key"], error["file"]) == ("rejected", "heartbeat.every", one.files.main)
    assert [record.getMessage() for record in caplog.records] == ["config_rejected"]
    await one.edited()
    assert len(one.events) == 1, "what has not changed is not said again"
    write(tmp_path, "20s")
    await one.edited()
    assert (one.every, one.configuring.conditions()) == (20, [])
    (tmp_path / "edge-agent.toml").unlink()
    await one.edited()
    assert (one.every, one.configuring.conditions()) == (20, ["config_rejected"])
    write(tmp_path, "20s")
    await one.edited()
    assert one.configuring.conditions() == []
    await one.kill()


async def test_whoever_asks_for_a_reload_is_told_what_came_of_it(tmp_path: Path) -> None:
    """Whether something else is in force, or what is wrong; also where the files are as they were."""
    one = await started(tmp_path)
    assert await one.do(one.configuring.reload()) is False
    write(tmp_path, "20s")
    assert await one.do(one.configuring.reload()) is True
    write(tmp_path, "1ms")
    for _ in range(2):
        with pytest.raises(ConfigError, match="1ms"):
            await one.do(one.configuring.reload())
    with pytest.raises(ConfigError, match="1ms"):
        one.configuring.compare()
    write(tmp_path, "30s")
    assert one.configuring.compare()[0].config.heartbeat.every == 30 * 10**9
    assert one.every == 20
    await one.kill()


async def test_whoever_asks_may_go_away(tmp_path: Path) -> None:
    """The change is made all the same, and the next one after it."""
    one = await started(tmp_path)
    write(tmp_path, "20s")
    asked = [asyncio.ensure_future(one.configuring.reload()) for _ in range(3)]
    await asyncio.sleep(0)
    for each in asked:
        each.cancel()
    await one.idle()
    assert one.every == 20
    write(tmp_path, "1ms")
    bad = asyncio.ensure_future(one.configuring.reload())
    await asyncio.sleep(0)
    bad.cancel()
    await one.idle()
    assert not one.task.done()
    await one.kill()


async def test_what_was_wrong_at_the_start_is_said_once_the_agent_runs(tmp_path: Path) -> None:
    """It starts with what was in force before."""
    one = await started(tmp_path)
    write(tmp_path, "1ms")
    again = await restarted(one)
    assert (again.every, again.configuring.conditions()) == (10, ["config_rejected"])
    assert [event["what"] for event in again.events] == ["rejected"]
    await again.kill()


# ---------------------------------------------------------------- the cloud
async def test_a_version_is_on_the_disk_then_acknowledged_then_in_force(tmp_path: Path) -> None:
    """In that order, with the configuration that it comes to."""
    one = await started(tmp_path)
    one.disk.written.clear()
    await one.desire(1, beat("5s"))
    digest = one.configuring.now.loaded.digest
    assert one.disk.written[:4] == [f"{digest}.json", "memory.json", "acknowledged", "in force"]
    assert (one.every, one.said()) == (5, (1, "pending_confirm"))
    await one.kill()


async def test_a_version_is_confirmed_by_what_a_broker_has_of_it(tmp_path: Path) -> None:
    """Not by what was said before it; once it is, nothing is due but to forget that it was on trial."""
    one = await started(tmp_path)
    before = one.configuring.said()
    await one.desire(1, beat("5s"))
    await one.confirm(before)
    assert one.said() == (1, "pending_confirm")
    await lives(one, WITHIN_S - 1)
    reviewed = one.reviewed
    await one.confirm()
    assert (one.said(), one.reviewed) == ((1, "applied"), reviewed + 1)
    assert one.disk.load().cloud.trial is not None
    await lives(one, 58)
    assert one.disk.load().cloud.trial is not None
    await lives(one, 3)
    assert one.disk.load().cloud.trial is None
    assert (one.every, one.said()) == (5, (1, "applied"))
    await one.kill()


async def test_what_nobody_confirms_is_taken_back_in_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The keys that it had changed are named; it is not begun again, whoever sends it once more."""
    one = await started(tmp_path)
    await confirmed(one, 1, "5s")
    await one.desire(2, beat("6s"))
    await lives(one, WITHIN_S - 0.1)
    assert one.every == 6
    await lives(one, 0.2)
    assert (one.every, one.said()) == (5, (2, "rolled_back"))
    assert one.configuring.said()["errors"] == [{"key": "heartbeat.every", "reason": TAKEN_BACK}]
    assert one.events[-1]["by"] == "rollback"
    assert "config_rolled_back" in [record.getMessage() for record in caplog.records]
    for _ in range(2):
        assert not await one.desire(2, beat("6s"))
        assert (one.every, one.said()) == (5, (2, "rolled_back"))
        one = await restarted(one)
    assert await one.desire(3, beat("6s"))
    await one.kill()


async def test_it_is_taken_back_however_much_is_asked_meanwhile(tmp_path: Path) -> None:
    """What is due goes first."""
    one = await started(tmp_path)
    await one.desire(1, beat("5s"))

    await lives(one, WITHIN_S - 0.05)
    asked: list[asyncio.Future[bool]] = []
    while one.every == 5:
        asked += [asyncio.ensure_future(one.configuring.reload()) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert one.clock.monotonic() < (WITHIN_S + 1) * 10**9
    await asyncio.wait(asked)
    assert one.said() == (1, "rolled_back")
    await one.kill()


async def test_a_change_during_a_trial_leads_back_to_what_was_confirmed(tmp_path: Path) -> None:
    """With the time that is its own."""
    one = await started(tmp_path)
    await confirmed(one, 1, "5s")
    await one.desire(2, beat("6s"))
    await lives(one, WITHIN_S - 1)
    await one.desire(3, beat("7s"))
    await lives(one, WITHIN_S - 1)
    assert (one.every, one.said()) == (7, (3, "pending_confirm"))
    await lives(one, 1)
    assert (one.every, one.said()) == (5, (3, "rolled_back"))
    await one.kill()


async def test_a_trial_goes_on_while_a_later_version_is_refused(tmp_path: Path) -> None:
    """What is told of that one shows as well that a broker can be reached."""
    one = await started(tmp_path)
    await one.desire(1, beat("5s"))
    await one.desire(2, beat("1ms"))
    assert (one.every, one.said()) == (5, (2, "rejected"))
    await one.confirm()
    await lives(one, 100)
    assert (one.every, one.said()) == (5, (2, "rejected"))
    assert not await one.desire(1, beat("5s"))
    assert one.said() == (1, "applied")
    await one.kill()


async def test_a_file_that_is_edited_during_a_trial_counts_before_and_after(tmp_path: Path) -> None:
    """The trial goes on; a bad edit is as if there were none."""
    one = await started(tmp_path)
    await one.desire(1, {"jobs": {"j": {"kind": "system", "every": "1h"}}})
    write(tmp_path, "20s")
    await one.edited()
    assert (one.every, one.said(), "j" in one.used[-1].config.jobs) == (20, (1, "pending_confirm"), True)
    write(tmp_path, "1ms")
    await one.edited()
    await lives(one, WITHIN_S)
    assert (one.every, one.said(), "j" in one.used[-1].config.jobs) == (20, (1, "rolled_back"), False)
    assert {"key": "jobs.j.enabled", "reason": TAKEN_BACK} in one.configuring.said()["errors"]
    await one.kill()


async def test_the_files_may_close_what_the_cloud_has_said(tmp_path: Path) -> None:
    """Then they count alone and the cloud is told; it counts again once they open it."""
    one = await started(tmp_path)
    await confirmed(one, 1, "5s")
    write(tmp_path, opened="")
    await one.edited()
    assert (one.every, one.said(), one.configuring.conditions()) == (10, (1, "rejected"), [])
    assert one.configuring.said()["errors"][0]["key"] == "heartbeat"
    assert not await one.desire(1, beat("5s"))
    one = await restarted(one)
    assert (one.every, one.said()) == (10, (1, "rejected"))
    write(tmp_path)
    await one.edited()
    assert (one.every, one.said()) == (5, (1, "applied"))
    await one.kill()


async def test_a_trial_that_the_files_close_is_not_confirmed(tmp_path: Path) -> None:
    """It is not in force: nobody can know how it goes."""
    one = await started(tmp_path)
    await one.desire(1, beat("5s"))
    write(tmp_path, opened="")
    await one.edited()
    await one.confirm()
    assert one.said() == (1, "rejected")
    await lives(one, WITHIN_S + 1)
    assert one.said() == (1, "rolled_back")
    write(tmp_path)
    await one.edited()
    assert (one.every, one.said()) == (10, (1, "rolled_back"))
    await one.kill()


async def test_what_was_taken_back_is_not_begun_again_where_what_is_left_does_not_fit(tmp_path: Path) -> None:
    """The one has nothing to do with the other."""
    one = await started(tmp_path)
    await one.desire(1, {"jobs": {"j": {"kind": "system", "every": "1h"}}})
    await one.confirm()
    await one.desire(2, beat("5s"))
    await lives(one, WITHIN_S + 1)
    write(tmp_path, opened='"heartbeat"')
    await one.edited()
    assert one.said() == (1, "rejected")
    assert not await one.desire(2, beat("5s"))
    assert one.every == 10
    await one.kill()


async def test_what_did_not_fit_is_tried_when_it_comes_again(tmp_path: Path) -> None:
    """It may fit by now: a file that it needs has come without an edit of the configuration."""
    secret = tmp_path / "password"
    secret.write_text("x")
    write(tmp_path, rest=f'mqtt = {{username = "u", password_file = "{secret}"}}\n', opened='"heartbeat"')
    one = await started(tmp_path)
    await confirmed(one, 1, "5s")
    write(tmp_path, rest=f'mqtt = {{username = "u", password_file = "{secret}"}}\n', opened="")
    await one.edited()
    assert one.said() == (1, "rejected")
    write(tmp_path, rest=f'mqtt = {{username = "u", password_file = "{secret}"}}\n', opened='"heartbeat"')
    assert one.every == 10
    await one.edited()
    assert (one.every, one.said()) == (5, (1, "applied"))
    await one.kill()


@pytest.mark.parametrize("config", [{}, beat("10s"), {"moon": {"x": 1}}, {"jobs": {"none": None}}], ids=str)
async def test_what_is_as_it_is_needs_no_trial(config: dict[str, Any], tmp_path: Path) -> None:
    """It is applied at once, and remembered; no change is told."""
    one = await started(tmp_path)
    assert not await one.desire(7, config)
    assert (one.said(), one.disk.load().cloud.trial, one.events) == ((7, "applied"), None, [])
    assert one.configuring.now.loaded.version == 7
    one = await restarted(one)
    assert one.said() == (7, "applied")
    await one.kill()


async def test_a_drop_is_on_trial_too(tmp_path: Path) -> None:
    """Not confirmed, what was there before counts again; confirmed, no old version comes back."""
    one = await started(tmp_path)
    await confirmed(one, 1, "5s")
    assert await one.drop()
    assert (one.every, one.said()) == (10, (None, "pending_confirm"))
    await lives(one, WITHIN_S + 1)
    assert (one.every, one.said()) == (5, (1, "rolled_back"))
    assert await one.drop()
    await one.confirm()
    await lives(one, WITHIN_S + 1)
    assert (one.every, one.said()) == (10, (None, "applied"))
    assert not await one.desire(1, beat("5s"))
    assert (one.every, one.said()) == (10, (1, "rejected"))
    assert not await one.drop()
    assert one.said() == (None, "applied")
    await one.kill()


async def test_the_same_version_says_the_same_for_ever(tmp_path: Path) -> None:
    """Something else under it is refused; an older one that arrives late is nothing, not even said."""
    one = await started(tmp_path)
    await confirmed(one, 5, "5s")
    assert not await one.desire(5, beat("6s"))
    assert (one.every, one.said()) == (5, (5, "rejected"))
    assert not await one.desire(5, beat("5s"))
    assert one.said() == (5, "applied")
    reviewed = one.reviewed
    assert not await one.desire(4, beat("6s"))
    assert (one.every, one.said(), one.reviewed) == (5, (5, "applied"), reviewed)
    await one.kill()


async def test_a_part_that_cannot_go_over_to_it_is_a_reason_to_refuse(tmp_path: Path) -> None:
    """Nothing has changed then, and the version may be tried again."""
    one = await started(tmp_path)
    one.wrong = ConfigError([ConfigProblem("x", "mqtt.password_file", "gone")])
    assert not await one.desire(1, beat("5s"))
    assert (one.every, one.said(), one.disk.load().cloud.version) == (10, (1, "rejected"), 0)
    one.wrong = None
    assert await one.desire(1, beat("5s"))
    await one.kill()


async def test_what_cannot_be_gone_back_to_is_gone_back_to_at_the_next_start(tmp_path: Path) -> None:
    """The device has lost what its files name meanwhile: it goes on with what it has, and the cloud knows."""
    one = await started(tmp_path)
    await one.desire(1, beat("5s"))
    one.wrong = ConfigError([ConfigProblem("x", "mqtt.password_file", "gone")])
    await lives(one, WITHIN_S + 1)
    assert (one.every, one.said()) == (5, (1, "rolled_back"))
    one = await restarted(one)
    assert (one.every, one.said()) == (10, (1, "rolled_back"))
    await one.kill()


# ---------------------------------------------------------------- restarts
async def test_the_time_goes_on_while_the_agent_is_gone(tmp_path: Path) -> None:
    """In the same boot; after a reboot it begins anew."""
    one = await started(tmp_path)
    await one.desire(1, beat("5s"))
    await lives(one, 4)
    one = await restarted(one)
    await lives(one, 5)
    assert (one.every, one.said()) == (5, (1, "pending_confirm"))
    one.clock.reboot()
    one = await restarted(one)
    await lives(one, 9)
    assert one.said() == (1, "pending_confirm")
    await lives(one, 2)
    assert (one.every, one.said()) == (10, (1, "rolled_back"))
    await one.kill()


async def test_a_trial_that_was_over_meanwhile_is_taken_back_at_once(tmp_path: Path) -> None:
    """Without another chance."""
    one = await started(tmp_path)
    await one.desire(1, beat("5s"))
    await one.kill()
    await asyncio.sleep(WITHIN_S + 1)
    one = await restarted(one)
    assert (one.every, one.said()) == (10, (1, "rolled_back"))
    await one.kill()


@pytest.mark.parametrize("confirms", [False, True])
async def test_with_what_it_does_not_live_with_it_starts_twice(*, confirms: bool, tmp_path: Path) -> None:
    """Whether or not it was confirmed; killed or crashed is one."""
    one = await started(tmp_path)
    await one.desire(1, beat("5s"))
    if confirms:
        await one.confirm()
    for _ in range(2):
        one = await restarted(one)
        assert one.every == 5
    one = await restarted(one)
    assert (one.every, one.said()) == (10, (1, "rolled_back"))
    await one.kill()


async def test_a_crash_of_the_agent_is_no_stop_that_somebody_wanted(tmp_path: Path) -> None:
    """Its tasks are cancelled then as well, and yet it counts."""
    one = await started(tmp_path)
    await one.desire(1, beat("5s"))
    await one.confirm()
    for every in (5, 5, 10):
        one.task.cancel()
        await asyncio.wait((one.task,))
        one = await restarted(one)
        assert one.every == every
    await one.kill()


async def test_a_stop_that_somebody_wants_begins_the_count_anew(tmp_path: Path) -> None:
    """However often."""
    one = await started(tmp_path)
    await one.desire(1, beat("5s"))
    await one.confirm()
    for _ in range(5):
        one = await restarted(one)
        assert one.every == 5
        await one.stop()
    await one.kill()


# ---------------------------------------------------------------- back by hand
async def test_somebody_goes_back_until_the_files_change(tmp_path: Path) -> None:
    """By default to the configuration before; it stays over restarts and reloads."""
    one = await started(tmp_path)
    first = one.configuring.now.loaded.digest
    write(tmp_path, "20s")
    await one.edited()
    assert await one.do(one.configuring.roll_back())
    assert (one.every, one.configuring.conditions()) == (10, ["config_rolled_back"])
    assert await one.do(one.configuring.reload()) is False
    one = await restarted(one)
    assert (one.every, one.configuring.now.loaded.digest) == (10, first)
    assert one.configuring.conditions() == ["config_rolled_back"]
    write(tmp_path, "30s")
    await one.edited()
    assert (one.every, one.configuring.conditions()) == (30, [])
    write(tmp_path, "20s")
    await one.edited()
    assert (one.every, one.configuring.conditions()) == (20, [])
    assert [entry.by for entry in one.configuring.now.memory.history] == [
        "start",
        "files",
        "rollback",
        "files",
        "files",
    ]
    await one.kill()


async def test_bad_files_may_be_gone_back_from(tmp_path: Path) -> None:
    """Nobody complains any more, also when they are back after other bad ones; good ones count."""
    one = await started(tmp_path)
    write(tmp_path, "20s")
    await one.edited()
    write(tmp_path, "1ms")
    await one.edited()
    await one.do(one.configuring.roll_back())
    assert (one.every, one.configuring.conditions()) == (10, ["config_rolled_back"])
    write(tmp_path, "2ms")
    await one.edited()
    assert (one.every, one.configuring.conditions()) == (10, ["config_rejected", "config_rolled_back"])
    write(tmp_path, "1ms")
    await one.edited()
    assert (one.every, one.configuring.conditions()) == (10, ["config_rolled_back"])
    write(tmp_path, "20s")
    await one.edited()
    assert (one.every, one.configuring.conditions()) == (20, [])
    await one.kill()


async def test_where_there_is_nothing_to_go_back_to_nothing_changes(tmp_path: Path) -> None:
    """Or it was not kept, or is no digest, or is not valid any more."""
    one = await started(tmp_path)
    for digest in (None, "0123456789ab", "../x", ""):
        with pytest.raises(EdgeAgentError, match="no such configuration"):
            await one.do(one.configuring.roll_back(digest))
    secret = tmp_path / "password"
    secret.write_text("x")
    write(tmp_path, "20s", rest=f'mqtt = {{username = "u", password_file = "{secret}"}}\n')
    await one.edited()
    write(tmp_path, "30s")
    await one.edited()
    secret.unlink()
    with pytest.raises(ConfigError, match="no such file"):
        await one.do(one.configuring.roll_back())
    assert (one.every, one.configuring.conditions()) == (30, [])
    await one.kill()


async def test_going_back_takes_the_cloud_with_it(tmp_path: Path) -> None:
    """It is told that its version is not in force; that does not come again, and a larger one does."""
    one = await started(tmp_path)
    await confirmed(one, 1, "5s")
    five = one.configuring.now.loaded.digest
    await one.do(one.configuring.roll_back())
    assert (one.every, one.said(), one.configuring.conditions()) == (10, (1, "rolled_back"), [])
    assert one.configuring.said()["errors"] == [{"key": "", "reason": "taken back by hand"}]
    assert not await one.desire(1, beat("5s"))
    one = await restarted(one)
    assert (one.every, one.said()) == (10, (1, "rolled_back"))
    await one.do(one.configuring.roll_back(five))
    assert (one.every, one.said()) == (5, (1, "pending_confirm"))
    await one.confirm()
    await lives(one, 100)
    assert (one.every, one.said()) == (5, (1, "applied"))
    assert await one.desire(2, beat("6s"))
    await one.kill()


async def test_what_a_stop_cuts_off_is_not_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes its time: what is not on it by then has to come again."""
    one, writing, taken = await started(tmp_path), asyncio.Event(), list[str]()

    async def hang(*_: object) -> None:
        writing.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(one.disk, "save_soon", hang)
    wanted = one.configuring.desire(Desired(1, beat("5s")), lambda: taken.append("taken"))
    asking = asyncio.get_running_loop().create_task(wanted)
    await writing.wait()
    await one.stop()
    asking.cancel()
    assert taken == []
    assert ConfigStore(tmp_path / "state").load().cloud.layer is None


async def test_what_was_gone_back_to_in_vain_is_named_by_its_own_keys(tmp_path: Path) -> None:
    """Those that the going back has changed, not those of the version when it came."""
    one = await started(tmp_path)
    await confirmed(one, 1, "5s")
    five = one.configuring.now.loaded.digest
    await one.do(one.configuring.roll_back())
    write(tmp_path, rest='log.level = "debug"\n')
    await one.edited()
    await one.do(one.configuring.roll_back(five))
    assert one.every == 5
    await lives(one, WITHIN_S + 1)
    assert one.every == 10
    assert [error["key"] for error in one.configuring.said()["errors"]] == ["heartbeat.every", "log.level"]
    await one.kill()


async def test_going_back_ends_a_trial_of_what_is_gone_back_from(tmp_path: Path) -> None:
    """Nothing is due any more."""
    one = await started(tmp_path)
    await one.desire(1, beat("5s"))
    await one.do(one.configuring.roll_back())
    await lives(one, 100)
    assert (one.every, one.said()) == (10, (1, "rolled_back"))
    assert [entry.by for entry in one.configuring.now.memory.history] == ["start", "cloud", "rollback"]
    await one.kill()


# ---------------------------------------------------------------- what is told
async def test_of_a_hostile_configuration_no_more_is_told_than_a_broker_takes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether thousands of keys are unknown or wrong."""
    one = await started(tmp_path)
    unknown = {f"{'k' * 200}{number}": None for number in range(5000)}
    await one.desire(1, {"heartbeat": unknown | {"every": "5s"}})
    said = one.configuring.said()
    assert (said["state"], len(said["ignored"]), said["ignored"][-1]) == ("pending_confirm", MAX_TOLD + 1, "4950 more")
    await one.confirm()
    with caplog.at_level(logging.WARNING):
        await one.desire(2, {"jobs": {f"j{number}": {} for number in range(5000)}})
    said = one.configuring.said()
    assert (said["state"], len(said["errors"])) == ("rejected", MAX_TOLD + 1)
    assert len(str(said)) < 20_000
    assert max(len(str(record.__dict__)) for record in caplog.records) < 20_000
    await one.kill()


async def test_what_is_no_configuration_is_said_to_be_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Until something is again."""
    one = await started(tmp_path)
    one.configuring.refuse(None, (("", "no JSON"), ("config", "no table")))
    assert (one.said(), one.reviewed) == ((None, "rejected"), 1)
    assert one.configuring.said()["errors"][0] == {"key": "", "reason": "no JSON"}
    (refused,) = caplog.records
    assert (refused.getMessage(), vars(refused)["errors"]) == ("config_refused", ["no JSON", "config: no table"])
    await one.desire(1, beat("5s"))
    assert one.said() == (1, "pending_confirm")
    await one.kill()


# ---------------------------------------------------------------- another device
async def test_with_another_id_the_clouds_versions_begin_anew(tmp_path: Path) -> None:
    """From the start with it on, for good: a kill or the id of before brings nothing back."""
    one = await started(tmp_path)
    await confirmed(one, 7, "3s")
    text = (tmp_path / "edge-agent.toml").read_text()
    (tmp_path / "edge-agent.toml").write_text(text.replace("dev-1", "dev-2"))
    await one.edited()  # which waits for the restart, and so does this
    assert one.every == 3
    other = await restarted(one)
    assert (other.every, other.said()) == (10, (None, "applied"))
    assert await other.desire(1, beat("4s"))
    await other.confirm()
    again = await restarted(other)
    assert (again.every, again.said()) == (4, (1, "applied"))
    (tmp_path / "edge-agent.toml").write_text(text)
    back = await restarted(again)
    assert (back.every, back.said()) == (10, (None, "applied"))
