"""The verb check."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest

from edge_agent.cli import main
from edge_agent.cli.check import describe, run, schema


def check(*arguments: str) -> int:
    """Run the verb as the dispatcher does."""
    parser = argparse.ArgumentParser()
    describe(parser)
    return run(parser.parse_args(arguments))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return the path of a valid file."""
    path = tmp_path / "x.toml"
    path.write_text('[device]\nid = "gw-1"\n[metrics]\nlisten = "127.0.0.1:9464"\n')
    return path


def test_a_valid_file_is_ok(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files, device and digest on one line, then what is not used yet."""
    assert check("--config", str(config)) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"ok: {config}, device gw-1, digest ")
    assert out.splitlines()[1:] == ["not used yet: metrics.listen"]
    assert err == ""


def test_a_bad_file_is_78_and_one_line_per_problem(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, with file and key."""
    config.write_text('[heartbeat]\nevery = "5x"\nevry = 1\n')
    assert main(["check", "--config", str(config)]) == 78
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert first.startswith(f'edge-agent: {config}: heartbeat.every: found "5x"; a duration like')
    assert second == f"edge-agent: {config}: heartbeat.evry: unknown key 'evry'; did you mean 'every'?"


def test_the_environment_names_the_file(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no option does."""
    monkeypatch.setenv("EDGE_AGENT_CONFIG", str(config))
    assert check() == 0
    assert str(config) in capsys.readouterr().out


def test_json_says_the_same(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Valid or not, one object on stdout."""
    assert check("--config", str(config), "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert re.fullmatch("[0-9a-f]{12}", said.pop("digest"))
    assert said == {
        "ok": True,
        "problems": [],
        "unused": ["metrics.listen"],
        "files": [str(config)],
        "device": "gw-1",
    }
    config.write_text("a = 1\nb =\n")
    assert check("--config", str(config), "--json") == 78
    out, err = capsys.readouterr()
    (problem,) = json.loads(out)["problems"]
    assert (problem["file"], problem["key"], problem["line"]) == (str(config), "", 2)
    assert err == ""


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """It needs no file."""
    assert check("--schema") == 0
    assert json.loads(capsys.readouterr().out) == schema()


def test_the_schema_speaks_of_what_a_file_holds() -> None:
    """Durations, sizes and brokers are strings there, with their defaults."""
    definitions = schema()["$defs"]
    assert definitions["Heartbeat"]["properties"]["every"]["default"] == "1m"
    assert definitions["Outbox"]["properties"]["max_bytes"]["default"] == "64MiB"
    assert definitions["Mqtt"]["properties"]["brokers"]["default"] == ["mqtt://localhost:1883"]
