"""Which configuration a verb reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.adapters import config_files
from edge_agent.cli.loading import load
from edge_agent.errors import ConfigError


def write(path: Path, device: str) -> Path:
    """Write a file that names a device."""
    path.write_text(f'[device]\nid = "{device}"\n')
    return path


def test_the_option_wins_over_the_environment(tmp_path: Path) -> None:
    """The environment is not even looked at: its file may be missing."""
    option, environ = write(tmp_path / "option.toml", "option"), write(tmp_path / "environ.toml", "environ")
    assert load(str(option), {"EDGE_AGENT_CONFIG": str(environ)}).config.device.id == "option"
    assert load(str(option), {"EDGE_AGENT_CONFIG": "/no/such"}).config.device.id == "option"
    assert load(None, {"EDGE_AGENT_CONFIG": str(environ)}).config.device.id == "environ"


def test_without_either_the_file_in_etc_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable is as good as none; a missing file says what to do."""
    path = tmp_path / "etc.toml"
    monkeypatch.setattr(config_files, "DEFAULT_PATH", path)
    with pytest.raises(ConfigError) as failed:
        load(None, {})
    (problem,) = failed.value.problems
    assert problem.file == str(path)
    assert "--config" in problem.reason
    write(path, "etc")
    assert load(None, {}).config.device.id == "etc"
    assert load(None, {"EDGE_AGENT_CONFIG": ""}).config.device.id == "etc"


def test_drop_ins_are_laid_over_in_order(tmp_path: Path) -> None:
    """Tables merge, the last value wins, everything else in the folder is left alone."""
    main = write(tmp_path / "x.toml", "main")
    folder = tmp_path / "x.d"
    folder.mkdir()
    write(folder / "20-later.toml", "later")
    (folder / "10-earlier.toml").write_text('[device]\nid = "earlier"\ngroups = ["g"]\n[heartbeat]\nevery = "5s"\n')
    for name in (".hidden.toml", "30-off.toml.disabled", "40.txt"):
        (folder / name).write_text("nonsense")
    loaded = load(str(main), {})
    assert (loaded.config.device.id, loaded.config.device.groups) == ("later", ("g",))
    assert loaded.sources == (str(main), str(folder / "10-earlier.toml"), str(folder / "20-later.toml"))


def test_drop_ins_belong_to_the_file_that_is_named(tmp_path: Path) -> None:
    """Those of another are not read."""
    main = write(tmp_path / "x.toml", "main")
    (tmp_path / "y.d").mkdir()
    write(tmp_path / "y.d" / "1.toml", "other")
    assert load(str(main), {}).config.device.id == "main"


def test_every_file_with_a_problem_is_named(tmp_path: Path) -> None:
    """In their order."""
    main = tmp_path / "x.toml"
    main.write_text("nonsense")
    folder = tmp_path / "x.d"
    folder.mkdir()
    (folder / "1.toml").write_text("[[")
    (folder / "2.toml").mkdir()
    with pytest.raises(ConfigError) as failed:
        load(str(main), {})
    assert failed.value.problems
    (folder / "2.toml").rmdir()
    with pytest.raises(ConfigError) as failed:
        load(str(main), {})
    assert [problem.file for problem in failed.value.problems] == [str(main), str(folder / "1.toml")]


def test_the_common_name_of_the_certificate_may_name_the_device(tmp_path: Path) -> None:
    """A certificate that is not there leaves the template open, which is a problem of the key."""
    main = tmp_path / "x.toml"
    main.write_text('[device]\nid = "{cert_cn}"\n[mqtt.tls]\ncert = "/no/such"\nkey = "/no/such"\n')
    with pytest.raises(ConfigError, match="cert_cn"):
        load(str(main), {})
