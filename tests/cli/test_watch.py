"""The verb watch, as a process of its own: in a pipe, on a terminal, and where it finds the broker."""

from __future__ import annotations

import asyncio
import codecs
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

import orjson

from edge_agent.core.events import HEALTH, HEARTBEAT
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


async def start(*arguments: str, tty: int | None = None) -> asyncio.subprocess.Process:
    """Start the verb; ``tty`` is its terminal, and no variable says otherwise."""
    misleading = {"NO_COLOR", "COLUMNS", "LINES"}  # the last two are readline's, which pytest loads
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edge_agent", "watch", *arguments),
        stdin=tty or asyncio.subprocess.DEVNULL,
        stdout=tty or asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name not in misleading} | {"TERM": "xterm-256color"},
    )


@contextlib.asynccontextmanager
async def running(
    broker: ScriptedBroker, *arguments: str, tty: int | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the verb until it has subscribed; in the end nothing of it is left."""
    before = len(broker.connections)
    process = await start("--broker", broker.url, *arguments, tty=tty)
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
        assert await line_of(process) == "demo-1 health degraded: ]0;x[bold]ab"
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
        self.waits_for: list[str] = []
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # a read may end within a character

    async def until(self, *words: str) -> str:
        """Read until all of the words were written; return all since the start without escapes."""
        while missing := [word for word in words if word not in self.plain]:
            self.waits_for = missing
            self.text += self._decoder.decode(await asyncio.to_thread(os.read, self.master, 65536))
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
            await shown.until("demo-1", "1m3s", "unsynced", "37.6MB", "]0;x[bold]ab", " s ago")
            await shown.until("silent")
            process.terminate()
            await shown.until("silent")
            assert await process.wait() == 0
    for coloured in ("\x1b[32monline", "\x1b[31moffline", "\x1b[33msilent", "\x1b[33munsynced", "\x1b[33mdegraded"):
        assert coloured in shown.text
    assert "\x1b]0" not in shown.text


async def test_what_is_no_device_is_64() -> None:
    """With what is allowed."""
    process = await start("--broker", "mqtt://x", "a/b")
    _, err = await process.communicate()
    assert (process.returncode, err.startswith(b"edge-agent: 'a/b' is no device id")) == (64, True)
