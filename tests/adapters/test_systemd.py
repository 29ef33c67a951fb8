"""What the service manager is told: alone against a real socket, and by a whole agent."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_agent.adapters.system_clock import SystemClock
from edge_agent.adapters.systemd import Systemd, watchdog_period
from edge_agent.core.timebase import seconds
from tests.support.agents import AgentProcess, agent, config_text
from tests.support.brokers import free_port, mosquitto

CLOCK = SystemClock()


class Manager:
    """The manager's end of the notification protocol."""

    def __init__(self, name: str) -> None:
        """Listen under a name, as ``NOTIFY_SOCKET`` has it."""
        self.name = name
        self.seen: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + name[1:] if name.startswith("@") else name)
        self._socket.settimeout(0)

    def take(self) -> list[str]:
        """Return all that has come."""
        while True:
            try:
                self.seen.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return self.seen

    def count(self, text: str) -> int:
        """Return how many messages have come that begin like this."""
        return sum(message.startswith(text) for message in self.take())

    async def until(self, condition: Callable[[], bool], *, within_s: float = 30) -> None:
        """Wait until a condition on what has come holds."""
        try:
            async with asyncio.timeout(within_s):
                while not condition():  # noqa: ASYNC110  # the messages are another process's
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(f"not within {within_s} s; came: {self.take()}") from None

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


@contextmanager
def manager(tmp_path: Path, kind: str = "path") -> Iterator[Manager]:
    """Listen on a path or an abstract name."""
    listening = Manager(str(tmp_path / "notify") if kind == "path" else f"@edge-agent-test-{uuid.uuid4()}")
    try:
        yield listening
    finally:
        listening.close()


def descriptors() -> int:
    """Return how many this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


KINDS = ["path", "abstract"]


# ---------------------------------------------------------------- the adapter
@pytest.mark.parametrize("kind", KINDS)
def test_each_word_arrives_as_one_datagram(kind: str, tmp_path: Path) -> None:
    """In the form of sd_notify(3)."""
    with manager(tmp_path, kind) as listening:
        notifier = Systemd({"NOTIFY_SOCKET": listening.name}, clock=CLOCK)
        notifier.ready("device gw-1")
        before = time.monotonic_ns() // 1000
        notifier.reloading()
        after = time.monotonic_ns() // 1000
        notifier.alive()
        notifier.stopping()
        ready, reloading, alive, stopping = listening.take()
        assert ready == "READY=1\nSTATUS=device gw-1"
        first, second = reloading.split("\n")
        assert first == "RELOADING=1"
        name, _, stamp = second.partition("=")
        assert name == "MONOTONIC_USEC"
        assert before <= int(stamp) <= after
        assert (alive, stopping) == ("WATCHDOG=1", "STOPPING=1")


def test_a_status_that_is_not_ascii_arrives_in_utf_8(tmp_path: Path) -> None:
    """As systemctl prints it."""
    with manager(tmp_path) as listening:
        Systemd({"NOTIFY_SOCKET": listening.name}, clock=CLOCK).ready("Gerät 7")
        assert listening.take() == ["READY=1\nSTATUS=Gerät 7"]


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}])
def test_without_a_manager_nothing_happens(environ: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    """No socket is made, nothing is logged."""
    before = descriptors()
    notifier = Systemd(environ, clock=CLOCK)
    notifier.ready("x")
    notifier.reloading()
    notifier.alive()
    notifier.stopping()
    assert descriptors() == before
    assert caplog.records == []


@pytest.mark.parametrize("kind", ["gone", "dead", "stream", "long", "garbage", "@"])
def test_a_manager_that_cannot_be_reached_is_a_warning(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Never an exception, never a descriptor left open; each word is tried again."""
    path = str(tmp_path / "notify")
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with stream:
        match kind:
            case "dead":
                Manager(path).close()
            case "stream":
                stream.bind(path)
                stream.listen()
            case "long":
                path = "/" + "x" * 200
            case "garbage" | "@":
                path = {"garbage": "no/such/folder/at all", "@": f"@nobody-{uuid.uuid4()}"}[kind]
            case _:
                pass
        before = descriptors()
        notifier = Systemd({"NOTIFY_SOCKET": path}, clock=CLOCK)
        with caplog.at_level(logging.WARNING):
            notifier.ready("x")
            notifier.alive()
        assert [record.getMessage() for record in caplog.records] == ["notify_failed", "notify_failed"]
        assert all(record.levelno == logging.WARNING and record.__dict__["error"] for record in caplog.records)
        assert descriptors() == before


ME = str(os.getpid())


@pytest.mark.parametrize(
    ("environ", "expected_s"),
    [
        pytest.param({}, None, id="nothing"),
        pytest.param({"WATCHDOG_USEC": "30000000"}, 30, id="for-everybody"),
        pytest.param({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": ME}, 30, id="for-me"),
        pytest.param({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": ""}, 30, id="for-no-pid"),
        pytest.param({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None, id="for-another"),
        pytest.param({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": f"{ME}0"}, None, id="for-a-longer-pid"),
        pytest.param({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "x"}, None, id="for-garbage"),
        pytest.param({"WATCHDOG_PID": ME}, None, id="pid-alone"),
        pytest.param({"WATCHDOG_USEC": "1"}, 0.000_001, id="a-microsecond"),
        pytest.param({"WATCHDOG_USEC": "0"}, None, id="zero"),
        pytest.param({"WATCHDOG_USEC": "000"}, None, id="zeros"),
        pytest.param({"WATCHDOG_USEC": ""}, None, id="empty"),
        pytest.param({"WATCHDOG_USEC": "-5"}, None, id="negative"),
        pytest.param({"WATCHDOG_USEC": "+5"}, None, id="signed"),
        pytest.param({"WATCHDOG_USEC": " 5"}, None, id="space"),
        pytest.param({"WATCHDOG_USEC": "1e6"}, None, id="float"),
        pytest.param({"WATCHDOG_USEC": "30s"}, None, id="unit"),
        pytest.param({"WATCHDOG_USEC": "0x10"}, None, id="hex"),
        pytest.param({"WATCHDOG_USEC": "1_000"}, None, id="underscore"),
        pytest.param({"WATCHDOG_USEC": "\u00b2"}, None, id="superscript"),
    ],
)
def test_the_period_is_what_the_manager_says_to_this_process(environ: dict[str, str], expected_s: float | None) -> None:
    """The table of sd_watchdog_enabled(3); what makes no sense means no watchdog."""
    assert watchdog_period(environ) == (None if expected_s is None else seconds(expected_s))


# ---------------------------------------------------------------- a whole agent
READY, RELOADING, STOPPING, WATCHDOG = "READY=1", "RELOADING=1\nMONOTONIC_USEC=", "STOPPING=1", "WATCHDOG=1"


@pytest.mark.parametrize("kind", KINDS)
async def test_an_agent_says_ready_alive_reloading_and_stopping(kind: str, tmp_path: Path) -> None:
    """Against a real broker; each reload ends with READY, and STOPPING is the last word but for WATCHDOG."""
    async with mosquitto(tmp_path) as broker:
        with manager(tmp_path, kind) as listening:
            environ = {"NOTIFY_SOCKET": listening.name, "WATCHDOG_USEC": "200000"}
            async with agent(tmp_path, config_text(broker.url), **environ) as process:
                await listening.until(lambda: listening.count(READY) == 1)
                assert f"{READY}\nSTATUS=device dev-1" in listening.seen
                await process.logged("connected")
                await listening.until(lambda: listening.count(WATCHDOG) >= 3)

                process.signal(signal.SIGHUP)
                await listening.until(lambda: listening.count(READY) == 2)
                assert spoken(listening) == [READY, "RELOADING=1", READY]

                process.config.write_text("nonsense")
                process.signal(signal.SIGHUP)
                await listening.until(lambda: listening.count(READY) == 3)
                assert process.events("config_rejected")
                assert spoken(listening) == [READY, "RELOADING=1", READY, "RELOADING=1", READY]
                stamps = [int(one.rpartition("=")[2]) for one in listening.seen if one.startswith(RELOADING)]
                assert stamps[0] < stamps[1] <= time.monotonic_ns() // 1000

                process.signal(signal.SIGTERM)
                assert await process.wait() == 0
                assert listening.count(STOPPING) == 1
                assert spoken(listening)[-1] == STOPPING
                assert not process.events("notify_failed")


def spoken(listening: Manager) -> list[str]:
    """Return the first lines of what has come, without the watchdog's."""
    return [one.split("\n")[0] for one in listening.take() if one != WATCHDOG]


async def test_an_agent_without_a_broker_is_ready_and_alive(tmp_path: Path) -> None:
    """Being offline is no reason to be restarted: twice per period, steadily."""
    url = f"mqtt://127.0.0.1:{free_port()}"
    with manager(tmp_path) as listening:
        environ = {"NOTIFY_SOCKET": listening.name, "WATCHDOG_USEC": "200000"}
        async with agent(tmp_path, config_text(url), **environ) as process:
            await listening.until(lambda: listening.count(READY) == 1)
            await process.logged("connect_failed")
            begun, already = time.monotonic(), listening.count(WATCHDOG)
            await listening.until(lambda: listening.count(WATCHDOG) >= already + 15)
            assert time.monotonic() - begun == pytest.approx(1.5, abs=0.3)


async def test_the_watchdog_is_fed_while_a_connection_attempt_hangs(tmp_path: Path) -> None:
    """A port that accepts and never answers does not stop the loop."""
    with socket.create_server(("127.0.0.1", 0)) as server, manager(tmp_path) as listening:
        url = f"mqtts://127.0.0.1:{server.getsockname()[1]}"
        environ = {"NOTIFY_SOCKET": listening.name, "WATCHDOG_USEC": "100000"}
        async with agent(tmp_path, config_text(url), **environ):
            await listening.until(lambda: listening.count(WATCHDOG) >= 20)


@pytest.mark.parametrize("pid", ["1", "nobody"])
async def test_a_watchdog_for_somebody_else_is_not_fed(pid: str, tmp_path: Path) -> None:
    """An environment inherited from a watched parent: ready is said, alive is not."""
    url = f"mqtt://127.0.0.1:{free_port()}"
    with manager(tmp_path) as listening:
        environ = {"NOTIFY_SOCKET": listening.name, "WATCHDOG_USEC": "50000", "WATCHDOG_PID": pid}
        async with agent(tmp_path, config_text(url), **environ):
            await listening.until(lambda: listening.count(READY) == 1)
            await asyncio.sleep(0.4)
            assert listening.count(WATCHDOG) == 0


async def test_a_manager_that_vanishes_costs_a_warning_and_nothing_else(tmp_path: Path) -> None:
    """The agent goes on, and stops with 0."""
    async with mosquitto(tmp_path) as broker:
        with manager(tmp_path) as listening:
            environ = {"NOTIFY_SOCKET": listening.name, "WATCHDOG_USEC": "100000"}
            async with agent(tmp_path, config_text(broker.url), **environ) as process:
                await listening.until(lambda: listening.count(READY) == 1)
                listening.close()
                await process.logged("notify_failed", 2)
                await process.logged("connected")
                process.signal(signal.SIGTERM)
                assert await stopped(process) == 0


async def stopped(process: AgentProcess) -> int:
    """Return the exit code once it has one."""
    return await process.wait(5)
