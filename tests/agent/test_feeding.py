"""What docs/feeding.md shows to the authors of other programs works as it stands there."""

from __future__ import annotations

import json
import re
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from edge_agent.core.submission import parse_submission
from tests.support.control_server import MAX_RECORD, published, server_process

ROOT: Final = Path(__file__).parents[2]
EXAMPLES: Final = ROOT / "docs" / "examples"
PAGE: Final = (ROOT / "docs" / "feeding.md").read_text()
WITHIN_S: Final = 60


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Path]:
    """Run a daemon, and return its socket; what it accepts is in ``records`` beside it."""
    path = tmp_path / "s"
    with server_process(path, tmp_path / "records"):
        yield path


def run(*command: str | Path, **environ: str) -> str:
    """Run an example; return what it prints, after it ended with 0."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, check=False, env=environ or None)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def records(daemon: Path) -> list[tuple[str, object]]:
    """Return the channel and the data of what the daemon accepted."""
    return [(record["channel"], record["data"]) for record in published(daemon.with_name("records"))]


def test_the_script_feeds(daemon: Path, tmp_path: Path) -> None:
    """Through the command."""
    (tmp_path / "x.toml").write_text('[device]\nid = "d"\n')
    command = tmp_path / "edge-agent"
    command.write_text(f'#!/bin/sh\ncd {ROOT} && exec {sys.executable} -m edge_agent "$@"\n')
    command.chmod(0o755)
    config = str(tmp_path / "x.toml")
    run(EXAMPLES / "feed.sh", "--socket", daemon, "--config", config, PATH=f"{tmp_path}:/usr/bin:/bin")
    ((channel, data),) = records(daemon)
    assert channel == "data/load"
    assert isinstance(data, dict)
    assert {name: type(value) for name, value in data.items()} == {"load1": float, "load5": float}


def test_the_python_program_feeds(daemon: Path) -> None:
    """Over the socket; with its key a second run adds nothing."""
    program = EXAMPLES / "feed.py"
    assert run(sys.executable, program, daemon) == run(sys.executable, program, daemon) == "box-normal.1\n"
    assert records(daemon)[0] == ("data/temperature", {"c": 21.5})


def test_the_c_program_feeds(daemon: Path, tmp_path: Path) -> None:
    """Compiled without a warning, over the socket."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: apt-get install gcc libc6-dev")
    run(compiler, "-Wall", "-Wextra", "-Werror", "-o", tmp_path / "feed", EXAMPLES / "feed.c")
    assert json.loads(run(tmp_path / "feed", daemon))["result"] == {"id": "box-normal.1"}
    assert records(daemon) == [("data/temperature", {"c": 21.5})]


@pytest.mark.parametrize("program", ["feed.py", "feed.c"])
def test_a_program_without_a_daemon_does_not_end_with_0(program: str, tmp_path: Path) -> None:
    """And it says where it looked, or what failed."""
    command: list[str | Path] = [sys.executable, EXAMPLES / program]
    if program.endswith(".c"):
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            pytest.skip("no C compiler: apt-get install gcc libc6-dev")
        command = [tmp_path / "feed"]
        run(compiler, "-o", command[0], EXAMPLES / program)
    done = subprocess.run([*command, tmp_path / "s"], capture_output=True, text=True, timeout=WITHIN_S, check=False)
    assert done.returncode != 0
    assert "No such file or directory" in done.stderr


def test_the_lines_on_the_page_are_those_on_the_wire(daemon: Path) -> None:
    """The request is understood, and its answer looks as shown."""
    (asked,), (shown,) = (re.findall(rf"^{arrow} (.+)$", PAGE, re.MULTILINE) for arrow in "→←")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(WITHIN_S)
        client.connect(str(daemon))
        client.sendall(asked.encode() + b"\n")
        answer = client.makefile().readline()
    assert re.sub(r'"id":"[^"]+"', "", answer.strip()) == re.sub(r'"id":"[^"]+"', "", shown)


def test_the_inbox_example_leaves_a_record(tmp_path: Path) -> None:
    """One file, whole, which the agent's user can read, and nothing else."""
    found = re.search(r"<!-- inbox example -->\n```sh\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    run("sh", "-euc", "umask 077\n" + found[1], INBOX=str(tmp_path), PATH="/usr/bin:/bin")
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    submission = parse_submission(json.loads(file.read_bytes()), max_record=MAX_RECORD)
    assert (submission.channel, json.loads(submission.data)) == ("data/temperature", {"c": 21.5})
