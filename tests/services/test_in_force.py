"""The configuration in force, and how it becomes another one."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from edge_agent.core.config_memory import MAX_ENTRIES, Snapshot
from edge_agent.core.timebase import UtcNs, seconds
from edge_agent.errors import ConfigError, ConfigProblem
from edge_agent.services.in_force import MAX_KEYS
from tests.support.configuring import HEAD, Device, device

pytestmark = pytest.mark.virtual


def write(folder: Path, every: str, rest: str = "") -> None:
    """Edit the file."""
    (folder / "edge-agent.toml").write_text(f'{HEAD}heartbeat.every = "{every}"\n{rest}')


async def started(folder: Path, every: str = "10s", rest: str = "") -> Device:
    """Return a device that runs by its file."""
    write(folder, every, rest)
    one = device(folder)
    await one.start()
    return one


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was warned of, whatever else the level of the log lets through."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_the_start_is_remembered_once(tmp_path: Path) -> None:
    """With its files; the next one with the same configuration writes nothing."""
    one = await started(tmp_path)
    (entry,) = one.disk.load().history
    assert (entry.by, entry.digest, entry.version) == ("start", one.begun.loaded.digest, None)
    assert entry.time == "2027-01-15T08:00:00.000000Z"
    assert one.disk.snapshot(entry.digest) == Snapshot(tuple(one.files.read()), None)
    await one.kill()
    again = await started(tmp_path)
    assert (again.disk.written, again.events) == ([], [])
    await again.kill()


async def test_what_makes_no_difference_is_kept_with_the_same_configuration(tmp_path: Path) -> None:
    """A comment, or what the cloud says otherwise: it may make one later."""
    one = await started(tmp_path)
    for rest in ("# x\n", "# y\n"):
        write(tmp_path, "10s", rest)
        await one.edited()
        kept = one.disk.snapshot(one.begun.loaded.digest)
        assert kept is not None
        assert kept.sources[0].text.endswith(rest.encode())
    assert len(one.disk.load().history) == 1
    await one.kill()
    write(tmp_path, "10s", "# z\n")
    again = device(tmp_path)
    await again.start()
    kept = again.disk.snapshot(again.begun.loaded.digest)
    assert kept is not None
    assert kept.sources[0].text.endswith(b"# z\n")
    await again.kill()


async def test_a_change_is_remembered_before_and_told_after_it_is_in_force(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the keys and their values; the parts have gone over to it."""
    one = await started(tmp_path)
    write(tmp_path, "20s")
    one.clock.utc_offset = UtcNs(one.clock.utc_offset + seconds(5))
    with caplog.at_level(logging.INFO):
        await one.edited()
    assert (one.every, len(one.used)) == (20, 2)
    change = {"key": "heartbeat.every", "before": "10s", "after": "20s"}
    entry = one.disk.load().history[-1]
    assert (entry.by, entry.changes, entry.digest) == ("files", [change], one.configuring.now.loaded.digest)
    (event,) = one.events
    assert event == {
        "what": "applied",
        "by": "files",
        "digest": entry.digest,
        "version": None,
        "changes": [change],
        "errors": [],
        "pending": [],
    }
    assert one.configuring.now.since == one.clock.now().time
    (line,) = [record for record in caplog.records if record.getMessage() == "config_applied"]
    assert (line.__dict__["keys"], line.__dict__["restarted"]) == (["heartbeat.every"], ["part"])
    await one.kill()


async def test_a_part_that_cannot_go_over_to_it_keeps_all_where_they_are(tmp_path: Path) -> None:
    """Nothing is remembered, in force or told but that."""
    one = await started(tmp_path)
    one.wrong = ConfigError([ConfigProblem("x", "mqtt.password_file", "gone")])
    memory, written = one.disk.load(), list(one.disk.written)
    write(tmp_path, "20s")
    with pytest.raises(ConfigError, match="gone"):
        await one.do(one.configuring.reload())
    assert (one.every, one.disk.load(), one.disk.written) == (10, memory, written)
    assert [event["what"] for event in one.events] == ["rejected"]
    one.wrong = None
    assert await one.do(one.configuring.reload())
    assert one.every == 20
    await one.kill()


async def test_files_count_although_the_disk_fails_and_the_cloud_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody is there to see the ones; the other could not be taken back after a crash."""
    one = await started(tmp_path)
    one.disk.fails = True
    write(tmp_path, "20s")
    await one.edited()
    assert one.every == 20
    assert warnings(caplog) == ["config_not_kept"]
    assert not await one.desire(1, {"heartbeat": {"every": "5s"}})
    assert (one.every, one.said()) == (20, (1, "rejected"))
    (error,) = one.configuring.said()["errors"]
    assert error["reason"] == "it cannot be kept on disk, and nothing has changed: No space left on device"
    one.disk.fails = False
    assert await one.desire(1, {"heartbeat": {"every": "5s"}})
    assert [entry.by for entry in one.disk.load().history] == ["start", "files", "cloud"]
    await one.kill()


async def test_so_many_changes_are_remembered(tmp_path: Path) -> None:
    """The last ones, and the configurations that they led to."""
    one = await started(tmp_path)
    for number in range(MAX_ENTRIES + 5):
        write(tmp_path, f"{number + 11}s")
        await one.edited()
    history = one.disk.load().history
    assert len(history) == MAX_ENTRIES
    assert one.configuring.kept() == {entry.digest for entry in history}
    await one.kill()


async def test_no_secret_is_told_or_remembered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Arguments, environments, what is named like a secret, and what of a URL is one."""
    text = (
        'programs.p = {argv = ["/bin/x", "%s"], env = {X = "%s"}}\nendpoints.e.url = "https://h/x?k=%s"\n'
        'jobs.j = {kind = "http", every = "1h", options = {endpoint = "http://h/?key=%s"}}\n'
        'operator = {password_file = "%s", username = "u"}\n'
    )
    one = await started(tmp_path, rest=text.replace("%s", "hunter2one"))
    write(tmp_path, "10s", text.replace("%s", "hunter2two"))
    with caplog.at_level(logging.DEBUG):
        await one.edited()
    assert len(one.used) == 2
    (event,) = one.events
    assert {change["key"] for change in event["changes"]} == {
        *("programs.p.argv", "programs.p.env.X", "endpoints.e.url", "jobs.j.options.endpoint"),
        "operator.password_file",
    }
    memory = (tmp_path / "state" / "config" / "memory.json").read_text()
    for told in (json.dumps(one.events), memory, json.dumps(one.configuring.said()), caplog.text):
        assert "hunter2" not in told
    await one.kill()


async def test_what_is_too_large_for_a_record_is_told_in_short(tmp_path: Path) -> None:
    """And what does not go out even so is no reason to stop."""
    one = await started(tmp_path)
    one.largest = 150
    write(tmp_path, "20s")
    await one.edited()
    (event,) = one.events
    assert event.keys() == {"what", "by", "digest", "version"}
    one.largest = 10
    write(tmp_path, "30s")
    await one.edited()
    assert (one.every, len(one.events)) == (30, 1)
    await one.kill()


async def test_of_many_changes_some_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In the log fewer than in the event."""
    one = await started(tmp_path)
    jobs = "".join(f'jobs.j{number} = {{kind = "system", every = "1h"}}\n' for number in range(30))
    write(tmp_path, "10s", jobs)
    with caplog.at_level(logging.INFO):
        await one.edited()
    (event,) = one.events
    assert event["changes"][-1]["key"].endswith(" more")
    (line,) = [record for record in caplog.records if record.getMessage() == "config_applied"]
    assert len(line.__dict__["keys"]) == MAX_KEYS
    await one.kill()


async def test_what_only_a_restart_changes_is_told_and_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also where nothing else has changed; a restart has it."""
    one = await started(tmp_path)
    (tmp_path / "edge-agent.toml").write_text('device.id = "dev-2"\nheartbeat.every = "10s"\n')
    await one.edited()
    now = one.configuring.now.loaded
    assert (now.config.device.id, now.pending) == ("dev-1", ("device.id",))
    assert one.configuring.conditions() == ["restart_needed: device.id"]
    assert one.events[-1]["pending"] == ["device.id"]
    assert warnings(caplog) == ["config_pending"]
    await one.kill()
    again = device(tmp_path)
    await again.start()
    assert again.configuring.now.loaded.config.device.id == "dev-2"
    assert again.configuring.conditions() == []
    await again.kill()
