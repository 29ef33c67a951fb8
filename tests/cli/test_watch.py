"""The verb watch, as a process of its own: in a pipe, on a terminal, and where it finds the broker."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import orjson
import pytest

from edge_agent.cli.watch import Target, describe, find_target, length
from edge_agent.core.events import HEALTH, HEARTBEAT
from edge_agent.errors import ConfigError, UsageError
from tests.support.brokers import free_port
from tests.support.scripted_broker import Personality, ScriptedBroker

BEAT = orjson.dumps(
    {
        "type": HEARTBEAT,
        "data": {
            "interval_s": 2,
            "uptime_s": 63,
            "clock": {"state": "unsynced"},
            "outbox": {"records": 4},
            "agent": {"rss_bytes": 37_600_000, "version": "0.1.0"},
        },
    }
)
HOSTILE = orjson.dumps({"type": HEALTH, "data": {"reasons": ["\x1b]0;x\x07[bold]a\nb"], "connection": {}}})
WITHOUT_RICH = "import sys; sys.modules['rich'] = None; from edge_agent.cli import main; sys.exit(main(sys.argv[1:]))"


def target(*arguments: str, **environ: str) -> Target:
    """Return what the options, and the environment, lead to."""
    parser = argparse.ArgumentParser()
    describe(parser)
    return find_target(parser.parse_args(arguments), environ, verb="watch")


async def start(*arguments: str, tty: int | None = None, code: str | None = None) -> asyncio.subprocess.Process:
    """Start the verb; ``tty`` is its terminal, ``code`` runs in place of the module."""
    argv = ["-c", code] if code else ["-m", "edge_agent"]
    return await asyncio.create_subprocess_exec(
        *(sys.executable, *argv, "watch", *arguments),
        stdin=tty or asyncio.subprocess.DEVNULL,
        stdout=tty or asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm-256color"},
    )


@contextlib.asynccontextmanager
async def running(
    broker: ScriptedBroker, *arguments: str, tty: int | None = None, code: str | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the verb until it has subscribed; in the end nothing of it is left."""
    before = len(broker.connections)
    process = await start("--broker", broker.url, *arguments, tty=tty, code=code)
    try:
        await broker.wait_for(lambda: len(broker.connections) > before and bool(broker.connections[-1].subscribes))
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def line_of(process: asyncio.subprocess.Process) -> str:
    """Return the next line of its output, without the time."""
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    found = re.fullmatch(r"\d\d:\d\d:\d\d (.*)\n", line)
    assert found, line
    return found[1]


async def test_in_a_pipe_each_change_is_a_line() -> None:
    """Connection, status, heartbeat and health; what a device says cannot break a line; SIGINT ends it with 0."""
    async with ScriptedBroker() as broker, running(broker) as process:
        assert await line_of(process) == f"connected to {broker.url} (MQTT 5)"
        for kind, payload in (("status", b"online"), ("heartbeat", BEAT), ("health", HOSTILE)):
            broker.inject(f"edge/demo-1/up/{kind}", payload)
        assert await line_of(process) == "demo-1 online"
        assert await line_of(process) == "demo-1 heartbeat uptime=1m3s clock=unsynced outbox=4 rss=37.6MB"
        assert await line_of(process) == "demo-1 health degraded: ]0;x[bold]ab broker=? protocol=?"
        await broker.stop_listening()
        broker.drop_clients()
        assert (await line_of(process)).startswith("connection lost: ")
        assert (await line_of(process)).startswith(f"cannot connect: {broker.url}: nothing listens there")
        await broker.listen_again()
        assert await line_of(process) == f"connected to {broker.url} (MQTT 5)"
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
        assert (process.returncode, out, err) == (0, b"", b"")


async def test_json_is_an_object_a_line() -> None:
    """With the time in full; named devices are all that is subscribed to."""
    async with (
        ScriptedBroker(Personality(refuse_v5="connack84")) as broker,
        running(broker, "a", "--json", "--prefix", "p") as process,
    ):
        filters = broker.connections[-1].subscribes[0].filters
        assert filters == ("p/a/up/status", "p/a/up/health", "p/a/up/heartbeat")
        broker.inject("p/a/up/heartbeat", BEAT)
        assert process.stdout is not None
        lines = [json.loads(await process.stdout.readline()) for _ in range(3)]
        process.terminate()
        assert await process.wait() == 0
    failed, connected, beat = lines
    assert failed["event"] == "failed"
    assert (connected["event"], connected["text"]) == ("connected", f"{broker.url} (MQTT 3.1.1)")
    assert (beat["event"], beat["device"], beat["status"], beat["outbox"]) == ("heartbeat", "a", "online", 4)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", beat["time"])


async def test_a_reader_that_goes_away_ends_it() -> None:
    """As ``| head -1`` does; without a word."""
    async with ScriptedBroker() as broker:
        read, write = os.pipe()
        async with running(broker, tty=write) as process:
            os.close(write)
            os.close(read)
            broker.inject("edge/a/up/status", b"online")
            assert process.stderr is not None
            assert await process.stderr.read() == b""
            assert await process.wait() == 0


async def test_seconds_end_it() -> None:
    """With 0 where the broker was reached, with 69 and the reason where it never was."""
    async with ScriptedBroker() as broker, running(broker, "--seconds", "0.5") as process:
        _, err = await process.communicate()
        assert (process.returncode, err) == (0, b"")
    url = f"mqtt://127.0.0.1:{free_port()}"
    process = await start("--broker", url, "--seconds", "0.5")
    _, err = await process.communicate()
    assert process.returncode == 69
    text = f"edge-agent: not reached: {url}: nothing listens there; check the port, is the broker up?\n"
    assert err.decode() == text


class Screen:
    """A terminal of 120 columns, and what was written to it."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
        self.text = ""

    async def until(self, *words: str) -> str:
        """Read until all of the words were written; return all since the start without escapes."""
        while not all(word in self.plain for word in words):
            self.text += (await asyncio.to_thread(os.read, self.master, 65536)).decode()
        return self.plain

    @property
    def plain(self) -> str:
        """What was written, without escape sequences."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.text)


@contextlib.contextmanager
def screen() -> Iterator[Screen]:
    """Open a terminal and close it."""
    opened = Screen()
    try:
        yield opened
    finally:
        os.close(opened.master)
        os.close(opened.slave)


async def test_on_a_terminal_it_is_a_live_table() -> None:
    """Coloured, with what is wrong in plain sight; nothing of a device is markup or drives the terminal."""
    with screen() as shown:
        async with ScriptedBroker() as broker, running(broker, tty=shown.slave) as process:
            await shown.until(f"{broker.url} edge/", "connected to", "(MQTT 5)", "UTC", "device")
            for device, status in (("demo-1", b"online"), ("demo-2", b"offline")):
                broker.inject(f"edge/{device}/up/status", status)
            broker.inject("edge/demo-1/up/heartbeat", BEAT)
            broker.inject("edge/demo-2/up/health", HOSTILE)
            await shown.until("demo-1", "1m3s", "unsynced", "37.6MB", "]0;x[bold]ab", "1 s ago")
            await shown.until("silent")
            process.terminate()
            await shown.until("silent")
            assert await process.wait() == 0
    for coloured in ("\x1b[32monline", "\x1b[31moffline", "\x1b[33msilent", "\x1b[33munsynced"):
        assert coloured in shown.text
    assert "\x1b]0" not in shown.text


async def test_a_terminal_without_rich_gets_lines_and_a_hint() -> None:
    """The hint on stderr."""
    with screen() as shown:
        async with ScriptedBroker() as broker, running(broker, tty=shown.slave, code=WITHOUT_RICH) as process:
            broker.inject("edge/demo-1/up/status", b"online")
            await shown.until("demo-1 online")
            process.terminate()
            _, err = await process.communicate()
            assert process.returncode == 0
    assert err == b"edge-agent: for a live table: pip install 'edge-agent[operator]'\n"


# ---------------------------------------------------------------- where to
def test_without_a_broker_and_a_configuration_it_says_what_to_give(tmp_path: Path) -> None:
    """One line."""
    with pytest.raises(UsageError, match=r"no broker named, and .*/none\.toml cannot be read; give --broker"):
        target("--config", str(tmp_path / "none.toml"))


def test_a_broker_in_the_options_is_all_that_is_used() -> None:
    """The configuration, with its login, is not read then; the client id is no one else's."""
    found = target("--broker", "mqtts://h", "--prefix", "x/y", "--config", "/none")
    assert (found.title, found.login.username, found.login.password()) == ("mqtts://h:8883 x/y/", None, None)
    assert re.fullmatch(r"edge-agent-watch-[0-9a-f]{8}", found.login.client_id)
    assert found.login.session_expiry == 0
    assert found.login.client_id != target("--broker", "mqtt://h").login.client_id


def test_the_configuration_names_the_operators_broker(tmp_path: Path) -> None:
    """The prefix is the devices' unless it, or an option, says otherwise; the password is in a file."""
    file = tmp_path / "x.toml"
    (tmp_path / "secret").write_text("hunter2\n")
    file.write_text(
        '[device]\nid = "d"\n[mqtt]\nprefix = "p"\nusername = "device"\n'
        '[operator]\nbroker = "mqtt://op"\nusername = "op"\n'
        f'password_file = "{tmp_path}/secret"\n'
    )
    found = target(EDGE_AGENT_CONFIG=str(file))
    assert (found.title, found.login.username, found.login.password()) == ("mqtt://op:1883 p/", "op", "hunter2")
    assert target("--config", str(file), "--prefix", "q").title == "mqtt://op:1883 q/"


def test_without_an_operators_broker_it_is_the_devices_first(tmp_path: Path) -> None:
    """With the authority that the device trusts, and without the device's own login."""
    file = tmp_path / "x.toml"
    file.write_text(
        '[device]\nid = "d"\n[mqtt]\nbrokers = ["mqtts://one", "mqtts://two"]\nusername = "device"\n'
        '[mqtt.tls]\nca = "/ca.pem"\ncert = "/c.pem"\nkey = "/k.pem"\n'
    )
    found = target("--config", str(file))
    assert (found.title, found.login.username) == ("mqtts://one:8883 edge/", None)
    assert (found.login.tls.ca, found.login.tls.cert) == ("/ca.pem", None)


def test_a_wrong_configuration_is_said(tmp_path: Path) -> None:
    """As every verb does."""
    file = tmp_path / "x.toml"
    file.write_text('[operator]\nbroker = "http://x"\n')
    with pytest.raises(ConfigError, match=r"operator\.broker"):
        target("--config", str(file))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--broker", "http://x"], r"--broker: found \"http://x\"; a URL like"),
        (["--broker", "mqtt://x", "--prefix", "a#"], r"--prefix: found \"a#\"; topic levels"),
    ],
)
def test_a_wrong_option_is_named(arguments: list[str], text: str) -> None:
    """With what is allowed."""
    with pytest.raises(UsageError, match=text):
        target(*arguments)


async def test_what_is_no_device_is_64() -> None:
    """With what is allowed."""
    process = await start("--broker", "mqtt://x", "a/b")
    _, err = await process.communicate()
    assert (process.returncode, err.startswith(b"edge-agent: 'a/b' is no device id")) == (64, True)


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "x"])
def test_seconds_are_a_number(text: str) -> None:
    """Of some sense."""
    with pytest.raises(argparse.ArgumentTypeError, match="a number of seconds from 0"):
        length(text)
