"""The verb demo, as a process of its own in an empty folder."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge_agent.cli.demo import choose_port
from edge_agent.errors import EdgeAgentError
from tests.support.brokers import free_port


@contextlib.asynccontextmanager
async def demo(tmp_path: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the verb on a free port, with ``tmp_path / "tmp"`` for its temporary files; in the end it is gone.

    Its socket is there, and the address of one has at most 107 bytes (unix(7)): a link makes it short.
    """
    (tmp_path / "cwd").mkdir()
    (tmp_path / "tmp").mkdir()
    short = Path(tempfile.mkdtemp())
    (short / "t").symlink_to(tmp_path / "tmp")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edge_agent", "demo", "--port", str(free_port()), *arguments),
        cwd=tmp_path / "cwd",
        env={**os.environ, "TMPDIR": str(short / "t")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        (short / "t").unlink()
        short.rmdir()


def children_of(process: asyncio.subprocess.Process) -> dict[str, int]:
    """Return its children: what they are -> process id."""
    found = {}
    for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        found["broker" if "edge_agent.adapters.embedded_broker" in command else "agent"] = int(pid)
    return found


async def gone(pids: list[int]) -> None:
    """Wait until none of the processes is there, or is more than a zombie of another's."""
    while any(state_of(pid) not in "XZ" for pid in pids):  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.02)


def state_of(pid: int) -> str:
    """Return the letter of a process's state, ``X`` when it is not there (proc(5))."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


async def read_until(process: asyncio.subprocess.Process, word: str) -> str:
    """Return its output up to the line that holds a word."""
    assert process.stdout is not None
    text = ""
    while word not in text:
        line = (await process.stdout.readline()).decode()
        assert line, text
        text += line
    return text


async def output_of(tried: str, verb: str) -> str:
    """Return the output of the command of the demo's hints that begins so."""
    command = re.search(rf"edge-agent ({verb} --socket \S+)", tried)
    assert command is not None
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edge_agent", *command[1].split()), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    assert child.returncode == 0
    return out.decode()


@pytest.mark.timeout_s(120)
async def test_it_shows_heartbeats_an_outage_and_the_recovery(tmp_path: Path) -> None:
    """In this order; its jobs run; a killed agent comes back, and in the end nothing is left."""
    async with demo(tmp_path, "--seconds", "100") as process:
        text = await read_until(process, "demo-1 heartbeat")
        assert "demo-1 online" in text
        text += await read_until(process, "recovered after")
        places = [
            text.index(word) for word in ("heartbeat uptime", "== outage", "connection lost", "== broker is back")
        ]
        assert places == sorted(places)
        assert text.rindex(" connected to") > text.index("connection lost")
        tried = await read_until(process, "config history")
        children = children_of(process)
        assert f"kill -9 {children['agent']} " in tried
        assert re.search(r"^system .* succeeded ", await output_of(tried, "jobs list"), re.MULTILINE)
        assert "manual" in await output_of(tried, "jobs run disk --wait")
        os.kill(children["agent"], signal.SIGKILL)
        text = await read_until(process, "demo-1 heartbeat uptime=0s")
        assert re.search(r"demo-1 offline\n(.*\n)*.*demo-1 online\n", text)
        children = children_of(process)
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
        assert (process.returncode, err) == (0, b"")
        assert out.decode().endswith("demo-1 offline\n")
        await gone(list(children.values()))
    assert list((tmp_path / "tmp").iterdir()) == []
    assert list((tmp_path / "cwd").iterdir()) == []


@pytest.mark.timeout_s(60)
async def test_its_children_die_with_it(tmp_path: Path) -> None:
    """Even when nothing can be done about it any more."""
    async with demo(tmp_path) as process:
        await read_until(process, "demo-1 heartbeat")
        children = children_of(process)
        assert sorted(children) == ["agent", "broker"]
        process.kill()
        await process.wait()
        await gone(list(children.values()))


@pytest.mark.parametrize("name", ["broker", "agent"])
@pytest.mark.timeout_s(60)
async def test_a_child_that_dies_is_a_failure(tmp_path: Path, name: str) -> None:
    """Before the story is told: which one, how, and the end of its log."""
    async with demo(tmp_path) as process:
        await read_until(process, "demo-1 heartbeat")
        os.kill(children_of(process)[name], signal.SIGKILL)
        _, err = await process.communicate()
        assert process.returncode == 1
        *log, last = err.decode().splitlines()
        where = "above is the end of its log" if name == "agent" else "its log is empty"
        assert last == f"edge-agent: the {name} was killed (SIGKILL); {where}"
        assert bool(log) == (name == "agent")
        assert all(line.startswith("agent: {") for line in log)
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_without_a_heartbeat_it_fails(tmp_path: Path) -> None:
    """Here because it is given no time."""
    async with demo(tmp_path, "--seconds", "0") as process:
        _, err = await process.communicate()
        assert process.returncode == 1
        assert "edge-agent: no heartbeat came in 0 s;" in err.decode()


async def test_a_taken_port_is_one_line_and_1(tmp_path: Path) -> None:
    """Nothing is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with demo(tmp_path, "--port", str(port)) as process:
            out, err = await process.communicate()
            assert (process.returncode, out) == (1, b"")
            assert err.decode().startswith(f"edge-agent: port {port} cannot be used: ")
            assert "Address already in use; name another with --port, or leave it out\n" in err.decode()


def test_without_a_port_it_takes_a_free_one() -> None:
    """The usual one, if nobody has it."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # somebody has it already
            stack.enter_context(socket.create_server(("127.0.0.1", 1883)))
        assert choose_port(None) not in (0, 1883)


@pytest.mark.parametrize("port", [-1, 70_000])
def test_a_port_that_is_none_is_said(port: int) -> None:
    """Not a traceback."""
    with pytest.raises(EdgeAgentError, match=f"port {port} cannot be used"):
        choose_port(port)
