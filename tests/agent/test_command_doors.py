"""Commands over the control socket of a real agent: who gets in, what they cost each other, and what survives."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from edge_agent.adapters.control_socket import MAX_CLIENTS
from tests.agent.test_jobs import killed, text, until
from tests.support.agents import AgentProcess, agent
from tests.support.brokers import missing

NOBODY: Final = 65534
PROBE: Final = """
import os, socket, sys
os.stat(sys.argv[1])  # it is not the way there that is closed
client = socket.socket(socket.AF_UNIX)
try:
    client.connect(sys.argv[1])
except OSError as error:
    sys.exit(f"{type(error).__name__}")
client.sendall(b'{"jsonrpc":"2.0","id":1,"method":"ping"}\\n')
print(client.makefile().readline())
"""


class Client:
    """One connection to the socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def say(self, method: str, params: object, number: int = 1) -> None:
        """Ask for something."""
        request = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        self.writer.write(json.dumps(request).encode() + b"\n")

    async def answer(self) -> dict[str, Any]:
        """Return the next answer."""
        return dict(json.loads(await self.reader.readline()))

    async def ask(self, method: str, params: object = None) -> Any:  # noqa: ANN401  # as JSON has it
        """Return the result of a request."""
        self.say(method, params if params is not None else {})
        return (await self.answer())["result"]


@contextlib.asynccontextmanager
async def connected(path: Path) -> AsyncIterator[Client]:
    """Connect, as soon as there is a socket."""
    await until(path.exists)
    reader, writer = await asyncio.open_unix_connection(path, limit=1 << 24)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Return a folder that everybody on the machine can look into."""
    folder = Path(tempfile.mkdtemp(prefix="edge-agent-door-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def resident(pid: int) -> int:
    """Return the resident memory of a process, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def config(tmp_path: Path, programs: Mapping[str, str] | None = None) -> str:
    """Return a configuration with programs that write into a folder."""
    scripts = {name: f"cd {tmp_path}; {script}" for name, script in (programs or {}).items()}
    return text(jobs={}, programs=scripts)


def _asked_as(user: int, group: int, path: Path) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [
        "/usr/bin/python3",
        "-c",
        PROBE,
        path,
    ]  # not the interpreter of the tests: it may be in somebody's home
    return subprocess.run(
        command, user=user, group=group, extra_groups=(), capture_output=True, text=True, timeout=20, check=False
    )


@pytest.mark.root
async def test_another_user_gets_nothing_and_one_of_the_group_all(open_folder: Path) -> None:
    """The file's mode says so: the group alone."""
    if os.geteuid() != 0:
        missing("only root can be another user")
    path = open_folder / "control.sock"
    async with agent(open_folder, config(open_folder)):
        async with connected(path) as client:
            assert (await client.ask("ping"))["pong"] is True
        stranger = await asyncio.to_thread(_asked_as, NOBODY, NOBODY, path)
        assert (stranger.stdout, stranger.stderr.strip()) == ("", "PermissionError")
        member = await asyncio.to_thread(_asked_as, NOBODY, os.getegid(), path)
        assert '"pong":true' in member.stdout


async def test_garbage_gets_an_error_and_harms_nobody(tmp_path: Path) -> None:
    """Bytes, JSON of another kind, commands that are none; a giant line ends its connection alone."""
    path = tmp_path / "control.sock"
    rng = random.Random(3)  # noqa: S311  # reproducible
    wrong: list[object] = [
        None, 7, "x", [], [1], {}, {"command": 7}, {"command": "x" * 10_000}, {"command": "ping", "id": "a b"},
        {"command": "ping", "id": 7}, {"command": "ping", "args": []}, {"command": "ping", "more": 1},
        {"command": "ping", "expires": "yesterday"}, {"command": "ping", "delay": "-1s"},
        {"command": "ping", "args": {"x": 1}}, {"command": "exec", "args": {"program": "none"}, "ttl": 5},
    ]  # fmt: skip
    async with agent(tmp_path, config(tmp_path)), connected(path) as other:
        async with connected(path) as client:
            for params in wrong:
                client.say("command", params)
                answer = await client.answer()
                assert answer["error"]["code"] in (-32602, -32000), (params, answer)
                assert answer["error"]["message"]
            for _ in range(50):
                client.writer.write(rng.randbytes(rng.randrange(1, 200)).replace(b"\n", b"") + b"\n")
                assert (await client.answer())["error"]["code"] in (-32700, -32600)
            assert (await client.ask("ping"))["pong"] is True
        async with connected(path) as client:
            with contextlib.suppress(ConnectionError):
                for _ in range(64):
                    client.writer.write(b"x" * (1 << 16))
                    await client.writer.drain()
            with contextlib.suppress(ConnectionError):  # whoever goes on writing may not get to read why it has ended
                assert b"longer than" in await client.reader.read()
            assert client.reader.at_eof() or client.reader.exception() is not None
        assert (await other.ask("ping"))["pong"] is True


async def _round_trips(client: Client, count: int) -> float:
    """Return how long a ping takes at the median, in seconds."""
    took = []
    for _ in range(count):
        begun = time.perf_counter()
        await client.ask("ping")
        took.append(time.perf_counter() - begun)
    return sorted(took)[count // 2]


@pytest.mark.timeout_s(120)
async def test_clients_that_are_slow_or_silent_cost_nothing(tmp_path: Path) -> None:
    """Neither memory nor others' time: some say nothing, some half a line, some read no answer."""
    path = tmp_path / "control.sock"
    async with agent(tmp_path, config(tmp_path)) as process, contextlib.AsyncExitStack() as stack:
        good = await stack.enter_async_context(connected(path))
        alone = await _round_trips(good, 200)
        before = resident(process.pid)
        for number in range(MAX_CLIENTS - 28):
            bad = await stack.enter_async_context(connected(path))
            if number % 3 == 1:
                bad.writer.write(b'{"jsonrpc":"2.0",')
            elif number % 3 == 2:
                for request in range(2000):
                    bad.say("agent-status", {}, request)
        with_them = await _round_trips(good, 200)
        await asyncio.sleep(1)
        later = await _round_trips(good, 200)
        grown = resident(process.pid) - before
        print(f"a ping: {alone * 1e3:.2f} ms alone, {with_them * 1e3:.2f} ms while they ask, {later * 1e3:.2f} ms then")
        print(f"{grown / 1e6:.1f} MB more")
        assert grown < 24 << 20


@pytest.mark.timeout_s(120)
async def test_a_hundred_clients_at_once_each_get_their_answer(tmp_path: Path) -> None:
    """Each its own, of a command that runs in a process, and that four of may run at a time."""
    path = tmp_path / "control.sock"

    async def one(number: int) -> None:
        async with connected(path) as client:
            said = {"command": "exec", "id": f"c-{number}", "args": {"program": "add"}}
            answer = await client.ask("command", said)
            assert (answer["id"], answer["state"]) == (f"c-{number}", "succeeded")

    async with agent(tmp_path, config(tmp_path, {"add": "echo x >> done"})):
        await asyncio.gather(*map(one, range(100)))
    assert (tmp_path / "done").read_text() == "x\n" * 100


async def test_a_command_goes_on_when_its_client_has_gone(tmp_path: Path) -> None:
    """Its journal is right, and whoever asks again gets the answer."""
    path = tmp_path / "control.sock"
    said = {"command": "exec", "id": "c-1", "args": {"program": "slow"}}
    async with agent(tmp_path, config(tmp_path, {"slow": "echo x >> begun; sleep 1; echo x >> done; echo hi"})):
        async with connected(path) as client:
            client.say("command", said)
            await until((tmp_path / "begun").exists)
        assert not (tmp_path / "done").exists()
        async with connected(path) as client:
            answer = await client.ask("command", said)
            assert (answer["state"], answer["result"]["stdout"]) == ("succeeded", "hi\n")
            assert await client.ask("command", said) == answer
            client.say("command", {**said, "args": {"program": "other"}})
            assert (await client.answer())["error"]["data"] == {"code": "invalid_args"}
    assert (tmp_path / "done").read_text() == "x\n"


async def _asked(path: Path, said: object, process: AgentProcess) -> dict[str, Any]:
    """Return the answer of an agent that has just been started again."""
    while True:
        try:
            async with connected(path) as client:
                return dict(await client.ask("command", said))
        except (ConnectionError, json.JSONDecodeError):  # what the killed one has left
            assert process.process is not None
            assert process.process.poll() is None
            await asyncio.sleep(0.02)


@pytest.mark.timeout_s(90)
async def test_a_command_of_the_socket_survives_kill_9(tmp_path: Path) -> None:
    """What has ended is answered from the journal, what was cut off ends interrupted, and what waits goes on."""
    path = tmp_path / "control.sock"
    ended, cut, waiting = (
        {"command": "exec", "id": name, "args": {"program": program}} | more
        for name, program, more in (("c-1", "quick", {}), ("c-2", "slow", {}), ("c-3", "late", {"delay": "2s"}))
    )
    programs = {"quick": "echo x >> quick; echo hi", "slow": "echo x >> slow; sleep 30", "late": "echo x >> late"}
    async with agent(tmp_path, config(tmp_path, programs)) as process:
        async with connected(path) as client:
            answer = await client.ask("command", ended)
            client.say("command", waiting)
            client.say("command", cut)
            await until((tmp_path / "slow").exists)
        await killed(process)
        assert await _asked(path, ended, process) == answer
        interrupted = await _asked(path, cut, process)
        assert (interrupted["state"], interrupted["error"]["code"]) == ("interrupted", "interrupted")
        assert (await _asked(path, waiting, process))["state"] == "succeeded"
        await killed(process)
        assert await _asked(path, cut, process) == interrupted
    assert [(tmp_path / name).read_text() for name in programs] == ["x\n"] * 3
