"""The verb publish, against real server processes."""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge_agent.adapters.control_socket import MAX_CLIENTS
from edge_agent.cli.publish import describe
from edge_agent.core.submission import parse_submission
from tests.support.control_server import MAX_RECORD, published, server_process

WITHIN_S = 60


@dataclass(frozen=True, slots=True)
class Place:
    """A device of its own: a configuration whose socket and state are in one folder."""

    folder: Path

    @property
    def socket(self) -> Path:
        """Where the daemon's socket is."""
        return self.folder / "s"

    @property
    def inbox(self) -> Path:
        """Where records are left."""
        return self.folder / "state" / "inbox"

    @property
    def records(self) -> Path:
        """What the server process has accepted."""
        return self.folder / "records"

    def run(self, *arguments: str, stdin: str | bytes = "") -> subprocess.CompletedProcess[str]:
        """Publish, and return what was said."""
        done = subprocess.run(
            self.command(*arguments),
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            timeout=WITHIN_S,
            check=False,
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def command(self, *arguments: str) -> list[str]:
        """Return the command line."""
        config = str(self.folder / "x.toml")
        return [sys.executable, "-m", "edge_agent", "publish", "--config", config, *arguments]

    def left(self) -> list[dict[str, Any]]:
        """Return what is in the inbox, in the order of its names."""
        return [json.loads(path.read_bytes()) for path in sorted(self.inbox.iterdir())]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return a device without a daemon and without an inbox."""
    (tmp_path / "x.toml").write_text(
        f'[device]\nid = "d"\n[control]\nsocket = "{tmp_path}/s"\n[state]\ndir = "{tmp_path}/state"\n'
    )
    return Place(tmp_path)


@pytest.fixture
def running(place: Place) -> Iterator[Place]:
    """Return a device whose daemon runs."""
    with server_process(place.socket, place.records):
        yield place


# ---------------------------------------------------------------- one record
def test_a_record_is_published_without_a_word(running: Place) -> None:
    """Exit 0 means that it is safe."""
    done = running.run("data/t", stdin='{"c": 21.5}')
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (record,) = published(running.records)
    assert (record["channel"], record["data"], record["key"]) == ("data/t", {"c": 21.5}, None)


def test_every_option_reaches_the_daemon(running: Place) -> None:
    """And with --json its answer comes back; the same key twice is one record."""
    file = running.folder / "data.json"
    file.write_text('{\n "c": 1\n}\n')
    options = ["--priority", "critical", "--keep", "latest", "--time", "2026-12-01T00:00:00Z", "--key", "k", "--json"]
    for _ in range(2):
        done = running.run("event/door", *options, "--file", str(file), "--socket", str(running.socket))
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout) == {"id": "box-critical.1"}
    record = published(running.records)[0]
    assert (record["key"], record["latest"], record["time"]) == ("k", True, 1_796_083_200_000_000_000)


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (["temperature"], "{}", "channel 'temperature': data/NAME or event/NAME is needed"),
        (["data/t"], "21.5", "data must be a JSON object"),
        (["data/t"], "{", "not JSON"),
        (["data/t"], "", "not JSON"),
        (["data/t"], b"\xff", "not JSON"),
        (["data/t"], '{"x": "' + "y" * MAX_RECORD + '"}', "outbox.max_record allows 122880"),
        (["data/t"], " " * (MAX_RECORD + 65537), "outbox.max_record allows 122880"),
        (["data/t", "--time", "noon"], "{}", 'time: found "noon"; a time with its zone'),
        (["data/t", "--key", "x" * 257], "{}", "a string of 1 to 256 characters"),
        (["data/t", "--key", "\udcff"], "{}", "not valid UTF-8"),
        (["data/t", "--priority", "high"], "{}", "invalid choice: 'high'"),
        (["data/t", "--file", "/no/such"], "{}", "/no/such: No such file or directory"),
        (["bad", "--lines"], "{}\n{}\n", "channel 'bad'"),
    ],
)
def test_what_is_not_valid_is_64_and_never_sent(place: Place, arguments: list[str], stdin: str, said: str) -> None:
    """Before anything is asked of the daemon, or left for it."""
    place.inbox.mkdir(parents=True)
    done = place.run(*arguments, stdin=stdin)
    assert (done.returncode, done.stdout) == (64, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("edge-agent: ")
    assert said in line
    assert place.left() == []


def test_what_the_daemon_refuses_is_1(running: Place) -> None:
    """With its reason."""
    done = running.run("data/full", "--json", stdin="{}")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "edge-agent: the outbox is full; make room\n")


# ---------------------------------------------------------------- without a daemon
def test_without_a_daemon_it_is_left_in_the_inbox(place: Place) -> None:
    """It is on disk; the file holds what the socket would have been given."""
    place.inbox.mkdir(parents=True)
    done = place.run("data/t", "--key", "k", "--json", stdin='{"c": 21.5}')
    assert done.returncode == 0
    (file,) = place.inbox.iterdir()
    assert json.loads(done.stdout) == {"id": None, "file": str(file)}
    assert done.stderr == f"edge-agent: the daemon cannot be reached; the record left in {place.inbox} for it\n"
    (params,) = place.left()
    happened = parse_submission(params, max_record=MAX_RECORD).time
    assert happened is not None
    assert abs(happened - file.stat().st_mtime_ns) < 60 * 10**9, "not when the agent takes it in, perhaps days later"
    assert params.pop("time").endswith("Z")
    assert params == {"channel": "data/t", "data": {"c": 21.5}, "key": "k"}
    assert file.suffix == ".json"


def test_what_is_left_in_the_inbox_keeps_the_time_that_it_was_given(place: Place) -> None:
    """By who published it."""
    place.inbox.mkdir(parents=True)
    assert place.run("data/t", "--time", "2026-12-01T00:00:00Z", stdin="{}").returncode == 0
    (params,) = place.left()
    assert params["time"] == "2026-12-01T00:00:00Z"


def test_without_a_daemon_and_an_inbox_it_is_69(place: Place) -> None:
    """One line: where it looked, and what to look at."""
    done = place.run("data/t", stdin="{}")
    assert (done.returncode, done.stdout) == (69, "")
    (line,) = done.stderr.splitlines()
    assert f"{place.socket}: No such file or directory; is it running?" in line
    assert "systemctl status edge-agent" in line


def test_a_bad_default_configuration_keeps_nothing_from_being_published(running: Place) -> None:
    """The agent runs on what it has; but a file that is named must be valid."""
    (running.folder / "x.toml").write_text("nonsense")
    assert running.run("data/t", stdin="{}").returncode == 78
    command = [sys.executable, "-m", "edge_agent", "publish", "--socket", str(running.socket), "data/t"]
    environ = {name: value for name, value in os.environ.items() if name != "EDGE_AGENT_CONFIG"}
    assert subprocess.run(command, input=b"{}", timeout=WITHIN_S, env=environ, check=False).returncode == 0


def test_an_answer_that_does_not_come_is_69_and_said_to_be_unknown(place: Place) -> None:
    """Neither success nor failure is claimed, and nothing is left in the inbox, which might double it."""
    place.inbox.mkdir(parents=True)
    with server_process(place.socket, place.records, "die"):
        done = place.run("data/t", stdin="{}")
    assert (done.returncode, done.stdout) == (69, "")
    assert "the record may or may not be accepted: with --key it is safe" in done.stderr
    assert len(published(place.records)) == 1
    assert place.left() == []


def test_with_a_key_it_is_handed_in_again(place: Place) -> None:
    """There is no daemon any more, so it goes into the inbox, under the same key."""
    place.inbox.mkdir(parents=True)
    with server_process(place.socket, place.records, "die"):
        done = place.run("data/t", "--key", "k", stdin="{}")
    assert done.returncode == 0, done.stderr
    assert [record["key"] for record in [*published(place.records), *place.left()]] == ["k", "k"]


def test_a_daemon_with_no_room_for_one_more_client_has_not_read_it(running: Place) -> None:
    """So that it can go into the inbox without a key."""
    running.inbox.mkdir(parents=True)
    clients = [socket.socket(socket.AF_UNIX) for _ in range(MAX_CLIENTS)]
    try:
        for client in clients:
            client.connect(str(running.socket))
            client.sendall(b"x\n")
            assert client.recv(100)
        assert running.run("data/t", stdin="{}").returncode == 0
    finally:
        for client in clients:
            client.close()
    assert len(running.left()) == 1
    assert published(running.records) == []


# ---------------------------------------------------------------- many records
def test_each_line_is_a_record(running: Place) -> None:
    """In their order; blank lines are nothing; the last may lack its end."""
    count = 3000
    lines = "\n".join(f'{{"n": {number}}}' for number in range(count))
    began = time.monotonic()
    done = running.run("data/t", "--lines", stdin="\n" + lines)
    took = time.monotonic() - began
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [record["data"]["n"] for record in published(running.records)] == list(range(count))
    assert took < count * 0.005, "no faster than a commit for each"


def test_a_bad_line_is_named_and_the_others_go_on(running: Place) -> None:
    """Exit 1 at the end; with --json every line has its own."""
    long = '{"x": "' + "y" * 200_000 + '"}'
    done = running.run("data/t", "--lines", "--json", stdin=f'{{"n": 1}}\nnonsense\n[]\n{long}\n\n{{"n": 6}}\n')
    assert done.returncode == 1
    said = {line["line"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert sorted(said) == [1, 2, 3, 4, 6]
    assert (said[1]["id"], said[6]["id"]) == ("box-normal.1", "box-normal.2")
    complaints = done.stderr.splitlines()
    assert [line.partition(": ")[2][:7] for line in complaints] == ["line 2:", "line 3:", "line 4:"]
    assert "outbox.max_record" in complaints[2]
    assert [record["data"]["n"] for record in published(running.records)] == [1, 6]


def test_lines_that_the_daemon_refuses_are_named(running: Place) -> None:
    """Each of them."""
    done = running.run("data/full", "--lines", stdin="{}\n{}\n")
    assert done.returncode == 1
    assert done.stderr == "".join(f"edge-agent: line {n}: the outbox is full; make room\n" for n in (1, 2))


def test_with_a_key_each_line_has_its_own(running: Place) -> None:
    """A file that is published twice is there once."""
    for _ in range(2):
        assert running.run("data/t", "--lines", "--key", "f", stdin="{}\n\n{}\n").returncode == 0
    assert {record["key"]: record["id"] for record in published(running.records)} == {
        "f:1": "box-normal.1",
        "f:3": "box-normal.2",
    }


def test_lines_are_left_in_the_inbox_too(place: Place) -> None:
    """In an order that sorts."""
    place.inbox.mkdir(parents=True)
    done = place.run("data/t", "--lines", stdin="".join(f'{{"n": {n}}}\n' for n in range(20)))
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert "20 records left in" in done.stderr
    assert [params["data"]["n"] for params in place.left()] == list(range(20))


def test_lines_whose_fate_is_unknown_are_counted(place: Place) -> None:
    """Those that were accepted before have their answer."""
    with server_process(place.socket, place.records, "die"):
        done = place.run("data/t", "--lines", stdin="{}\n" * 300)
    assert done.returncode == 69
    assert "some of the lines 1 to 128 may or may not be accepted" in done.stderr


def test_a_line_that_comes_slowly_is_published_when_it_comes(running: Place) -> None:
    """``tail -f … | edge-agent publish --lines`` keeps nothing back."""
    command = running.command("data/t", "--lines", "--json")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(1, 4):
            process.stdin.write(b"{}\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline()) == {"line": number, "id": f"box-normal.{number}"}
        process.stdin.close()
        assert process.wait(WITHIN_S) == 0


def test_the_help_names_the_doors_options() -> None:
    """So that they can be found."""
    parser = argparse.ArgumentParser()
    describe(parser)
    text = parser.format_help()
    for option in ("--file", "--priority", "--keep", "--time", "--key", "--lines", "--config", "--socket", "--json"):
        assert option in text
