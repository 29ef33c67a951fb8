"""``edge-agent run`` on bad input, as a real child process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.support.agents import AgentProcess, agent, config_text
from tests.support.brokers import free_port, mosquitto, require, tls_files

WITHIN_S = 60
PASSWORD = "s3cret-Wort"  # noqa: S105


def run(config: Path | str) -> subprocess.CompletedProcess[str]:
    """Run it on a configuration that must not let it start."""
    argv = [sys.executable, "-m", "edge_agent", "run", "--config", str(config)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=WITHIN_S, check=False)


# ---------------------------------------------------------------- it does not start
def _write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 << 20)


VALID = b'[device]\nid = "gw-1"\n'
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda _path: None, "no such file"),
    "folder": (lambda path: path.mkdir(), "folder"),
    "fifo": (os.mkfifo, "regular file"),
    "dangling-link": (lambda path: path.symlink_to("/no/such"), "no such file"),
    "link-to-itself": (lambda path: path.symlink_to(path), "symbolic links"),
    "10-mb-of-toml": (_write(b"# comment\n" * (1 << 20)), "larger than 1"),
    "10-mb-of-nothing": (_sparse, "larger than 1"),
    "binary": (_write(bytes(range(256)) * 10), "UTF-8|TOML"),
    "elf": (lambda path: shutil.copy(sys.executable, path), "larger|UTF-8|TOML"),
    "nul": (_write(b"\0" * 100), "TOML"),
    "not-utf-8": (_write(VALID + 'labels = { site = "Köln" }\n'.encode("latin-1")), "UTF-8"),
    "utf-16": (_write(VALID.decode().encode("utf-16")), "UTF-8"),
    "no-toml": (_write(VALID + b"this is no TOML\n"), "TOML"),
    "json": (_write(b'{"device": {"id": "gw-1"}}'), "TOML"),
    "unknown-key": (_write(VALID + b"grups = []\n"), "did you mean 'groups'"),
    "unknown-section": (_write(VALID + b"[mqt]\n"), "did you mean 'mqtt'"),
    "wrong-type": (_write(VALID + b"[heartbeat]\nevery = 60\n"), "heartbeat.every"),
    "topic-prefix-with-a-wildcard": (_write(VALID + b'[mqtt]\nprefix = "edge/#"\n'), "mqtt.prefix"),
    "topic-prefix-with-an-empty-level": (_write(VALID + b'[mqtt]\nprefix = "/edge"\n'), "mqtt.prefix"),
    "device-id": (_write(b'[device]\nid = "a/b"\n'), "device.id"),
    "broker-scheme": (_write(VALID + b'[mqtt]\nbrokers = ["http://x"]\n'), "mqtt"),
    "password-file-missing": (
        _write(VALID + b'[mqtt]\nusername = "u"\npassword_file = "/no/such"\n'),
        "mqtt.password_file.*no such file",
    ),
    "password-file-is-a-folder": (
        _write(VALID + b'[mqtt]\nusername = "u"\npassword_file = "/etc"\n'),
        "mqtt.password_file.*folder",
    ),
    "credential-missing": (
        _write(VALID + b'[mqtt]\nusername = "u"\npassword_file = "mqtt-password"\n'),
        "mqtt.password_file",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_configuration_is_78_and_one_clear_line(kind: str, tmp_path: Path) -> None:
    """It names the file and what is wrong; never a traceback, and it does not hang."""
    make, said = BAD[kind]
    config = tmp_path / "edge-agent.toml"
    make(config)
    done = run(config)
    assert done.returncode == 78, done.stderr[-500:]
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("edge-agent: ")
    assert re.search(said, line), line
    assert str(config) in line or "password" in kind or "credential" in kind
    assert len(line) < 400


def test_each_problem_has_its_line(tmp_path: Path) -> None:
    """All at once, so that nobody needs three tries."""
    config = tmp_path / "edge-agent.toml"
    config.write_text('[device]\nid = "a b"\n[mqtt]\nprefix = "#"\nkeepalyve = 1\n[heartbeat]\nevery = "0s"\n')
    done = run(config)
    assert done.returncode == 78
    lines = done.stderr.splitlines()
    assert len(lines) == 4
    for key in ("device.id", "mqtt.prefix", "mqtt.keepalyve", "heartbeat.every"):
        assert any(f": {key}: " in line for line in lines), key


def test_a_bad_drop_in_is_named(tmp_path: Path) -> None:
    """Not the main file."""
    config = tmp_path / "edge-agent.toml"
    config.write_bytes(VALID)
    (tmp_path / "edge-agent.d").mkdir()
    (tmp_path / "edge-agent.d" / "1.toml").write_text("[mqtt]\nx = 1\n")
    done = run(config)
    assert done.returncode == 78
    assert "edge-agent.d/1.toml: mqtt.x: " in done.stderr


# ---------------------------------------------------------------- it starts
async def test_an_empty_configuration_runs_with_the_defaults(tmp_path: Path) -> None:
    """Zero bytes are valid: a device id is derived, the broker is on localhost."""
    async with agent(tmp_path, "") as process:
        (started,) = await process.logged("started")
        assert started["device"]
        process.signal(signal.SIGTERM)
        assert await process.wait(5) == 0


async def test_what_is_wrong_at_the_start_is_logged_with_its_reason(tmp_path: Path) -> None:
    """It starts with what was in force before; what the files say of the log does not count yet."""
    async with agent(tmp_path, 'heartbeat.every = "10s"') as process:
        await process.logged("started")
        process.signal(signal.SIGTERM)
        assert await process.wait(5) == 0
    async with agent(tmp_path, 'heartbeat.every = "10x"') as process:
        await process.logged("started", 2)
        (rejected,) = process.events("config_rejected")
        assert (rejected["file"], rejected["key"]) == (str(process.config), "heartbeat.every")
        assert process.events("config_of_before", level="warning")


# ---------------------------------------------------------------- it keeps trying
@contextlib.asynccontextmanager
async def trying(tmp_path: Path, kind: str) -> AsyncIterator[tuple[str, str]]:
    """Give a configuration with which there is no connection, and what the log must say of it."""
    async with contextlib.AsyncExitStack() as stack:
        fast = {"reconnect_max": "1s"}
        match kind:
            case "unknown-host":
                yield config_text("mqtt://does-not-exist.invalid", **fast), "DNS"
            case "closed-port":
                yield config_text(f"mqtt://127.0.0.1:{free_port()}", **fast), "nothing listens"
            case "wrong-port":
                server = await asyncio.start_server(_http, "127.0.0.1", 0)
                await stack.enter_async_context(server)
                yield config_text(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}", **fast), "CONNACK"
            case "tls-mismatch":
                files = tls_files(tmp_path)
                broker = await stack.enter_async_context(mosquitto(tmp_path, tls=files))
                tls = f'\n[mqtt.tls]\nca = "{files.other_ca}"\n'
                yield config_text(broker.tls_url, **fast) + tls, "certificate is not accepted"
            case "tls-to-plain":
                broker = await stack.enter_async_context(mosquitto(tmp_path))
                yield config_text(f"mqtts://127.0.0.1:{broker.port}", **fast), "scheme|TLS"
            case "ca-missing":
                broker = await stack.enter_async_context(mosquitto(tmp_path))
                tls = '\n[mqtt.tls]\nca = "/no/such.pem"\n'
                yield config_text(f"mqtts://127.0.0.1:{broker.port}", **fast) + tls, "/no/such.pem"
            case _:
                passwords, mine = tmp_path / "passwords", tmp_path / "mine"
                tool = require("mosquitto_passwd", "mosquitto")
                subprocess.run([tool, "-c", "-b", str(passwords), "u", "other"], check=True, capture_output=True)
                mine.write_text(PASSWORD + "\n")
                lines = [f"password_file {passwords}"]
                broker = await stack.enter_async_context(mosquitto(tmp_path, anonymous=False, config_lines=lines))
                login = {"username": "u", "password_file": str(mine)}
                yield config_text(broker.url, **fast, **login), "(?i)not authori[sz]ed"


async def _http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    writer.close()


def warnings(process: AgentProcess) -> list[str]:
    """Return the words of each failure that was logged."""
    return [str(line["error"]) for line in process.events("connect_failed")]


KINDS = ["unknown-host", "closed-port", "wrong-port", "tls-mismatch", "tls-to-plain", "ca-missing", "refused-login"]


@pytest.mark.parametrize("kind", KINDS)
async def test_without_a_connection_it_keeps_trying_and_says_so_once(kind: str, tmp_path: Path) -> None:
    """Still alive after several tries, one warning that says what is wrong, exit 0 at SIGTERM."""
    async with trying(tmp_path, kind) as (text, said), agent(tmp_path, text) as process:
        await process.logged("connect_failed")
        await asyncio.sleep(1.2)
        assert process.process is not None
        assert process.process.poll() is None
        found = warnings(process)
        assert len(set(found)) == len(found), "a warning is repeated"
        # on MQTT 5 and after the fall-back on 3.1.1 the words may differ
        assert len(found) <= 2, found
        assert re.search(said, found[0]), found
        log = process.log_path.read_text()
        assert PASSWORD not in log
        assert all(line.startswith("{") for line in log.splitlines())
        process.signal(signal.SIGTERM)
        assert await process.wait(3) == 0


async def test_it_connects_once_there_is_a_broker(tmp_path: Path) -> None:
    """Without being told."""
    port = free_port()
    async with agent(tmp_path, config_text(f"mqtt://127.0.0.1:{port}", reconnect_max="1s")) as process:
        await process.logged("connect_failed")
        async with mosquitto(tmp_path, port=port):
            await process.logged("connected")


async def test_a_signal_right_at_the_start_stops_it(tmp_path: Path) -> None:
    """As soon as it says that it has started: exit 0, both signals alike, and twice in a row."""
    for number in (signal.SIGTERM, signal.SIGINT):
        async with agent(tmp_path, config_text(f"mqtt://127.0.0.1:{free_port()}")) as process:
            process.log_path.write_text("")
            await process.logged("started")
            process.signal(number)
            process.signal(number)
            assert await process.wait(3) == 0


STUBBORN = """
import asyncio
from edge_agent.core.config_types import Section
from edge_agent.job_ports import Kind

async def run(_ctx, _options):
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

KIND = Kind("stubborn", Section, run)
"""


async def test_a_job_that_does_not_let_itself_be_ended_holds_up_no_stop(tmp_path: Path) -> None:
    """It is somebody else's code; after its grace the agent goes all the same."""
    packages = tmp_path / "packages"
    info = packages / "stubborn-1.dist-info"
    info.mkdir(parents=True)
    (packages / "stubborn.py").write_text(STUBBORN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stubborn\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[edge_agent.jobs]\nstubborn = stubborn:KIND\n")
    job = '[jobs.a]\nkind = "stubborn"\nafter = "0s"\ntimeout = "100ms"\ngrace = "0s"\n'
    text = config_text(f"mqtt://127.0.0.1:{free_port()}", extra=job)
    async with agent(tmp_path, text, PYTHONPATH=str(packages)) as process:
        await process.logged("job_abandoned")
        process.signal(signal.SIGTERM)
        assert await process.wait(10) == 0


async def test_keys_without_the_library_are_an_error_at_start_in_check_and_at_a_reload(tmp_path: Path) -> None:
    """Exit 78 with what to install; a running agent goes on with what it has. Without keys nothing is missed."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "joserfc.py").write_text("raise ModuleNotFoundError('No module named joserfc')")
    text, keys = config_text(f"mqtt://127.0.0.1:{free_port()}"), f'[commands.keys.k]\npublic = "{"A" * 43}"\n'
    (tmp_path / "keys.toml").write_text(text + keys)
    wrong = "commands.keys: signed commands need the extra signed (No module named joserfc); pip install"
    for verb in ("run", "check"):
        argv = [sys.executable, "-m", "edge_agent", verb, "--config", str(tmp_path / "keys.toml")]
        environ = os.environ | {"PYTHONPATH": str(hidden)}
        done = subprocess.run(argv, capture_output=True, text=True, timeout=WITHIN_S, check=False, env=environ)
        assert (done.returncode, done.stdout) == (78, "")
        assert done.stderr.startswith(f"edge-agent: {tmp_path / 'keys.toml'}: {wrong} 'edge-agent[signed]'")
    async with agent(tmp_path, text, PYTHONPATH=str(hidden)) as process:
        await process.logged("started")
        process.config.write_text(text + keys)
        process.signal(signal.SIGHUP)
        (rejected,) = await process.logged("config_rejected")
        assert (rejected["key"], "edge-agent[signed]" in rejected["reason"]) == ("commands.keys", True)
        process.signal(signal.SIGTERM)
        assert await process.wait() == 0
