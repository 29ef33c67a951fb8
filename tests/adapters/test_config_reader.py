"""Reading the configuration of this device."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

import orjson
import pytest

from edge_agent.adapters.config_reader import ConfigReader
from edge_agent.core.config_remote import Desired
from edge_agent.errors import ConfigError
from edge_agent.jobs import kinds


def reader(folder: Path, text: str = 'device.id = "dev-1"', *, checks: bool = True, **environ: str) -> ConfigReader:
    """Return the reader of a file."""
    path = folder / "a.toml"
    path.write_text(text)
    return ConfigReader(path, environ, kinds if checks else None)


def refusal(files: ConfigReader, **how: bool) -> list[str]:
    """Return the keys of what is wrong with the files."""
    with pytest.raises(ConfigError) as bad:
        files.parse(files.read(), **how)  # type: ignore[arg-type]  # starting alone
    return [problem.key for problem in bad.value.problems]


def test_the_file_and_its_drop_ins_make_up_the_configuration(tmp_path: Path) -> None:
    """The later over the earlier, and the cloud's over all of them."""
    files = reader(tmp_path, 'device.id = "dev-1"\nheartbeat.every = "1s"')
    (tmp_path / "a.d").mkdir()
    (tmp_path / "a.d" / "b.toml").write_text('heartbeat.every = "2s"')
    assert files.main == str(tmp_path / "a.toml") == files.read()[0].name
    loaded = files.parse(files.read())
    assert (loaded.config.device.id, loaded.config.heartbeat.every) == ("dev-1", 2 * 10**9)
    over = files.parse(files.read(), desired=Desired(7, {"heartbeat": {"every": "3s"}}))
    assert (over.version, over.config.heartbeat.every) == (7, 3 * 10**9)


def test_what_is_in_force_holds_what_only_a_restart_changes(tmp_path: Path) -> None:
    """The device's id, here."""
    held = reader(tmp_path).parse(reader(tmp_path).read()).config
    files = reader(tmp_path, 'device.id = "dev-2"')
    loaded = files.parse(files.read(), held=held)
    assert (loaded.config.device.id, loaded.pending) == ("dev-1", ("device.id",))


def test_what_the_jobs_and_the_device_lack_is_looked_for_unless_nobody_asks(tmp_path: Path) -> None:
    """The agent and check do; at the start, TLS files may still come."""
    text = 'mqtt = {username = "u", password_file = "/none/pw", tls = {ca = "/none/ca"}}\n'
    assert refusal(reader(tmp_path, text)) == ["mqtt.password_file", "mqtt.tls.ca"]
    assert refusal(reader(tmp_path, text), starting=True) == ["mqtt.password_file"]
    assert refusal(reader(tmp_path, text + 'jobs.j = {kind = "moon", every = "1s"}')) == ["jobs.j.kind"]
    files = reader(tmp_path, text + 'jobs.j = {kind = "moon", every = "1s"}', checks=False)
    assert files.parse(files.read()).config.mqtt.username == "u"


def test_files_whose_names_are_no_text_can_be_named_in_messages(tmp_path: Path) -> None:
    """What is said of them is sent as JSON; they are read all the same."""
    folder = tmp_path / os.fsdecode(b"f\xff")
    folder.mkdir()
    files = reader(folder, "x = 1")
    (folder / "a.d").mkdir()
    (folder / "a.d" / os.fsdecode(b"\xfe.toml")).write_text("y = 2")
    with pytest.raises(ConfigError) as bad:
        files.parse(files.read())
    names = [problem.file for problem in bad.value.problems]
    assert names == [f"{tmp_path}/f\\xff/a.toml", f"{tmp_path}/f\\xff/a.d/\\xfe.toml"]
    assert files.main == names[0]
    orjson.dumps([str(bad.value), *names])
    (folder / "a.d" / os.fsdecode(b"\xfe.toml")).unlink()
    (folder / "a.toml").unlink()
    with pytest.raises(ConfigError, match=r"f\\xff/a\.toml: no such file"):
        files.read()


def test_packages_are_looked_through_once_for_all_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And again for the next configuration: one may have been installed since."""
    looked: list[object] = []

    def look(**which: object) -> metadata.EntryPoints:
        looked.append(which)
        return metadata.EntryPoints()

    monkeypatch.setattr(metadata, "entry_points", look)
    files = reader(tmp_path)
    jobs = {f"j{number}": {"kind": f"nobody{number}", "every": "1m"} for number in range(20)}
    for count in (1, 2):
        with pytest.raises(ConfigError, match="unknown kind"):
            files.parse(files.read(), desired=Desired(1, {"jobs": jobs}))
        assert len(looked) == count
