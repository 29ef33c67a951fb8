"""The control socket, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import json
import logging
import os
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.adapters import control_socket, places
from edge_agent.adapters.control_socket import MAX_CLIENTS, MAX_REQUESTS, ControlSocket, Handle
from edge_agent.errors import EdgeAgentError
from edge_agent.services.control import Control, publish_method
from tests.support.control_server import MAX_RECORD, OWN_GROUP, GroupCommit, serving

Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the socket is to be."""
    return tmp_path / "control.sock"


@contextlib.asynccontextmanager
async def connected(path: Path) -> AsyncIterator[Client]:
    """Connect a client."""
    reader, writer = await asyncio.open_unix_connection(path, limit=1 << 24)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that another task does; the test's own deadline bounds it."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def echo(line: bytes) -> bytes:
    """Answer a line with itself."""
    return line + b"\n"


async def asked(client: Client, line: bytes) -> bytes:
    """Return the answer to a line."""
    reader, writer = client
    writer.write(line + b"\n")
    return await reader.readline()


class Gate:
    """A handler whose answers wait until they are let go."""

    def __init__(self, answer: bytes = b"done\n") -> None:
        self.begun: list[bytes] = []
        self.finished: list[bytes] = []
        self.opened = asyncio.Event()
        self._answer = answer

    async def __call__(self, line: bytes) -> bytes:
        """Wait for the gate, unless the line says ``now``."""
        self.begun.append(line)
        if line != b"now":
            await self.opened.wait()
        self.finished.append(line)
        return self._answer


async def settle() -> None:
    """Let everything happen that is about to happen."""
    for _ in range(20):
        await asyncio.sleep(0.002)


# ---------------------------------------------------------------- requests
async def test_answers_come_as_they_are_ready(path: Path) -> None:
    """A later request that is done first is answered first."""
    gate = Gate()
    async with serving(path, gate), connected(path) as (reader, writer):
        writer.write(b"slow\nnow\n")
        assert await reader.readline() == b"done\n"
        assert gate.finished == [b"now"]
        gate.opened.set()
        assert await reader.readline() == b"done\n"


async def test_at_most_128_requests_of_a_client_are_in_progress(path: Path) -> None:
    """The rest is not read until some are done; all are answered in the end."""
    gate = Gate()
    async with serving(path, gate), connected(path) as (reader, writer), connected(path) as other:
        writer.write(b"".join(b"%d\n" % number for number in range(1000)))
        await until(lambda: len(gate.begun) == MAX_REQUESTS)
        await settle()
        assert len(gate.begun) == MAX_REQUESTS
        assert await asked(other, b"now") == b"done\n"
        gate.opened.set()
        for _ in range(1000):
            assert await reader.readline() == b"done\n"


async def test_large_requests_are_fewer(path: Path) -> None:
    """What is in progress for a client is bounded in bytes too, but a single one always fits."""
    gate = Gate()
    size = control_socket.MAX_REQUEST_BYTES // 4
    async with serving(path, gate, max_line=1 << 20), connected(path) as (reader, writer):
        writer.write(b"".join(b"x" * size + b"\n" for _ in range(8)) + b"y" * (1 << 20) + b"\n")
        await until(lambda: len(gate.begun) == 4)
        await settle()
        assert len(gate.begun) == 4
        gate.opened.set()
        for _ in range(9):
            assert await reader.readline() == b"done\n"


async def test_two_thousand_requests_of_one_client_share_the_commits(path: Path) -> None:
    """At 5 ms a commit, one at a time would need 2,000 of them."""
    accept = GroupCommit(period_s=0.005)
    control = Control({"publish": publish_method(accept, max_record=MAX_RECORD)})
    count = 2_000
    async with serving(path, control.answer), connected(path) as (reader, writer):
        for number in range(count):
            params = {"channel": "data/t", "data": {"n": number}}
            writer.write(json.dumps({"jsonrpc": "2.0", "id": number, "method": "publish", "params": params}).encode())
            writer.write(b"\n")
        answers = [json.loads(await reader.readline()) for _ in range(count)]
    assert {answer["id"]: answer["result"]["id"] for answer in answers} == {
        number: f"box-normal.{number + 1}" for number in range(count)
    }
    assert accept.groups < count / 5


async def test_blank_lines_are_nothing(path: Path) -> None:
    """A carriage return neither."""
    async with serving(path, echo), connected(path) as client:
        assert await asked(client, b"\n  \n\r\na") == b"a\n"


async def test_what_is_unanswered_is_not_answered(path: Path) -> None:
    """A notification costs nothing but its work."""

    async def silent(line: bytes) -> bytes | None:
        return None if line == b"n" else line + b"\n"

    async with serving(path, silent), connected(path) as client:
        assert await asked(client, b"n\nn\na") == b"a\n"


async def test_a_bug_in_a_method_ends_the_service(path: Path) -> None:
    """It is not hidden in an answer."""

    async def buggy(_line: bytes) -> bytes:
        raise ZeroDivisionError

    task = asyncio.get_running_loop().create_task(
        ControlSocket(path, group=OWN_GROUP, handle=buggy, max_line=100).run()
    )
    await until(path.is_socket)
    async with connected(path) as client:
        assert await asked(client, b"x") == b""
    with pytest.raises(ExceptionGroup) as failed:
        await task
    assert failed.value.split(ZeroDivisionError)[1] is None
    assert not path.exists()


# ---------------------------------------------------------------- the end of a connection
async def test_what_a_client_asked_for_is_done_after_it_has_gone(path: Path) -> None:
    """A record that is being accepted stays accepted."""
    gate = Gate()
    async with serving(path, gate):
        async with connected(path) as (_, writer):
            writer.write(b"a\nb\n")
            await until(lambda: len(gate.begun) == 2)
        await settle()
        gate.opened.set()
        await until(lambda: len(gate.finished) == 2)
        async with connected(path) as other:
            assert await asked(other, b"now") == b"done\n"


async def test_who_has_gone_takes_no_place_however_long_it_takes_to_do_what_it_has_asked_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it has closed its two ends one after the other, or has asked for more than may be in progress."""
    monkeypatch.setattr(control_socket, "MAX_CLIENTS", 3)
    gate = Gate()
    async with serving(path, gate):
        async with connected(path), connected(path) as (_, half), connected(path) as (_, many):
            half.write(b"a\n")
            half.write_eof()
            many.write(b"b\n" * (MAX_REQUESTS + 5))
            await until(lambda: len(gate.begun) == 1 + MAX_REQUESTS)
            async with connected(path) as (reader, _):
                assert b"try later" in await reader.readline()
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(3):
                answer = b""
                while answer != b"done\n":
                    client = await stack.enter_async_context(connected(path))
                    with contextlib.suppress(ConnectionError):
                        answer = await asked(client, b"now")
        assert not [line for line in gate.finished if line != b"now"]
        gate.opened.set()
        await until(lambda: len(gate.finished) >= 3 + 1 + MAX_REQUESTS)


async def test_a_client_that_only_stops_talking_gets_its_answers(path: Path) -> None:
    """``shutdown(SHUT_WR)``, then the answers, then the end; the last line may lack its end."""
    gate = Gate()
    async with serving(path, gate), connected(path) as (reader, writer):
        writer.write(b"a\nb")
        writer.write_eof()
        await until(lambda: gate.begun == [b"a", b"b"])
        gate.opened.set()
        assert await reader.read() == b"done\ndone\n"


@pytest.mark.parametrize("line", [b"x" * 5000, b"x" * 101 + b"\n", b"ok\n" + b"x" * 101 + b"\nok\n"])
async def test_a_line_that_is_too_long_ends_the_connection(path: Path, line: bytes) -> None:
    """With one error that names the limit; what came before is answered."""
    async with serving(path, echo, max_line=100), connected(path) as (reader, writer), connected(path) as other:
        writer.write(line)
        *before, last = (await reader.read()).splitlines()
        assert before == [b"ok"] * line.startswith(b"ok")
        assert json.loads(last)["id"] is None
        assert "longer than 100 bytes" in json.loads(last)["error"]["message"]
        assert await asked(other, b"x" * 100) == b"x" * 100 + b"\n"


async def test_half_a_line_is_not_waited_for_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even one that comes byte by byte; a client that says nothing may stay."""
    monkeypatch.setattr(control_socket, "LINE_WITHIN_S", 0.2)
    async with serving(path, echo), connected(path) as idle, connected(path) as (reader, writer):
        answer = asyncio.get_running_loop().create_task(reader.readline())
        while not answer.done():
            writer.write(b"x")
            await asyncio.sleep(0.01)
        assert "not complete within 0.2 s" in json.loads(await answer)["error"]["message"]
        assert await asked(idle, b"here") == b"here\n"


async def test_a_client_that_reads_no_answers_is_left_alone_then_closed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its requests pile up in its own socket, and cost nobody else anything."""
    monkeypatch.setattr(control_socket, "STALLED_S", 0.5)
    gate = Gate(b"x" * 9999 + b"\n")
    gate.opened.set()
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.setblocking(False)  # noqa: FBT003  # the socket's own signature
        async with serving(path, gate), connected(path) as other:
            await loop.sock_connect(deaf, str(path))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                await loop.sock_sendall(deaf, b"a\n" * 1_000_000)
                raise AssertionError("all of it was read")
            assert len(gate.begun) < 1000
            assert await asked(other, b"now") == b"x" * 9999 + b"\n"


async def test_a_client_that_reads_slowly_is_not_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes, as long as it gets on."""
    monkeypatch.setattr(control_socket, "STALLED_S", 2.0)  # less than it takes, and far more than the kernel holds
    answer, count = b"x" * 9999 + b"\n", 400
    gate = Gate(answer)
    gate.opened.set()
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.setblocking(False)  # noqa: FBT003  # the socket's own signature
        async with serving(path, gate):
            await loop.sock_connect(slow, str(path))
            await loop.sock_sendall(slow, b"a\n" * count)
            got = 0
            while got < len(answer) * count:
                chunk = await loop.sock_recv(slow, 40_000)
                assert chunk, "closed"
                got += len(chunk)
                await asyncio.sleep(0.03)


async def test_128_clients_are_served_and_the_next_is_told_so(path: Path) -> None:
    """As soon as one has gone there is room again."""
    async with contextlib.AsyncExitStack() as stack, serving(path, echo):
        clients = [await stack.enter_async_context(connected(path)) for _ in range(MAX_CLIENTS)]
        for client in clients:
            assert await asked(client, b"a") == b"a\n"
        async with connected(path) as (reader, _):
            refusal = json.loads(await reader.readline())
            assert (refusal["id"], refusal["error"]["code"]) == (None, -32001)
            assert await reader.read() == b""
        assert await asked(clients[-1], b"b") == b"b\n"
        clients[0][1].close()
        answer = b""
        while answer != b"c\n":
            async with connected(path) as client:
                with contextlib.suppress(ConnectionError):
                    answer = await asked(client, b"c")


async def test_a_stop_does_not_wait_for_clients(path: Path) -> None:
    """Neither for idle ones nor for what is in progress; the socket is gone."""
    gate = Gate()
    async with connected_to_stopping(path, gate) as (reader, task):
        task.cancel()
        await asyncio.wait((task,), timeout=5)
        assert task.cancelled()
        assert await reader.read() == b""
    assert not path.exists()


@contextlib.asynccontextmanager
async def connected_to_stopping(
    path: Path, gate: Gate
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.Task[None]]]:
    """Connect an idle client and one that waits."""
    async with serving(path, gate) as task, connected(path), connected(path) as (reader, writer):
        writer.write(b"a\n")
        await until(lambda: gate.begun)
        yield reader, task


@given(st.lists(st.binary(max_size=300) | st.sampled_from([b"\n", b"{}\n", b"[]\n", b'{"jsonrpc":"2.0"'])))
async def test_no_bytes_kill_it(pieces: list[bytes]) -> None:
    """Whatever one client sends, it gets answers or its connection ends, and the next is served."""
    control = Control({"publish": publish_method(GroupCommit(period_s=0), max_record=100)})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "s")
        async with serving(path, control.answer, max_line=200):
            async with connected(path) as (reader, writer):
                for piece in pieces:
                    writer.write(piece)
                writer.write_eof()
                for line in (await reader.read()).splitlines():
                    assert "error" in json.loads(line)
            async with connected(path) as client:
                good: dict[str, Any] = {"channel": "data/x", "data": {}}
                line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "publish", "params": good}).encode()
                assert json.loads(await asked(client, line))["result"] == {"id": "box-normal.1"}


# ---------------------------------------------------------------- the file
async def refused(path: Path, handle: Handle = echo) -> str:
    """Return why the socket cannot be made."""
    with pytest.raises(EdgeAgentError) as failed:
        await ControlSocket(path, group=OWN_GROUP, handle=handle, max_line=100).run()
    return str(failed.value)


async def test_nobody_else_may_use_it_at_any_moment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It appears under its name with its final mode, whatever the umask is, and beside it there is nothing."""
    modes = []
    rename = Path.rename

    def recording(self: Path, target: Path) -> Path:
        modes.append(stat.S_IMODE(self.stat().st_mode))
        assert not target.exists()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", recording)
    for mask in (0, 0o777):
        before = os.umask(mask)
        try:
            async with serving(path, echo):
                assert stat.S_IMODE(path.stat().st_mode) == 0o660
                assert list(path.parent.iterdir()) == [path]
        finally:
            os.umask(before)
        assert list(path.parent.iterdir()) == []
    assert modes == [0o660, 0o660]


async def test_it_belongs_to_the_group(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And chown is not called where it would change nothing: the unit file forbids it."""
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "chown", lambda _path, uid, gid: given.append((uid, gid)))
    async with serving(path, echo):
        pass
    assert given == []
    monkeypatch.setattr(grp, "getgrnam", lambda _name: type("Group", (), {"gr_gid": 4242}))
    async with serving(path, echo):
        pass
    assert given == [(-1, 4242)]


@pytest.mark.parametrize("error", [KeyError, PermissionError])
async def test_without_the_group_the_agents_own_serves(
    path: Path, error: type[Exception], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With one warning that says what to do."""

    def fails(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(places, "_SAID", set())
    monkeypatch.setattr(os, "chown", fails)
    monkeypatch.setattr(grp, "getgrnam", lambda _name: fails() if error is KeyError else type("G", (), {"gr_gid": 42}))
    with caplog.at_level(logging.WARNING):
        async with serving(path, echo, group="nobodys"), connected(path) as client:
            assert await asked(client, b"a") == b"a\n"
            assert (path.stat().st_gid, stat.S_IMODE(path.stat().st_mode)) == (os.getegid(), 0o660)
    (record,) = caplog.records
    assert record.getMessage() == "group_missing"
    assert "groupadd --system nobodys" in record.__dict__["reason"] or error is PermissionError
    assert "the group nobodys" in record.__dict__["reason"]


async def test_the_socket_of_a_dead_process_is_replaced(path: Path) -> None:
    """Also what a crash between two steps left."""
    for name in (path, path.with_name(f".{os.getpid()}")):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(name))
    async with serving(path, echo), connected(path) as client:
        assert await asked(client, b"a") == b"a\n"


async def test_the_socket_of_a_living_process_is_left_alone(path: Path) -> None:
    """The error says what to do, and the other goes on."""
    async with serving(path, echo), connected(path) as client:
        assert "another process listens there; stop it" in await refused(path)
        assert await asked(client, b"a") == b"a\n"
        assert path.is_socket()


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
async def test_what_is_no_socket_is_never_removed(path: Path, kind: str) -> None:
    """Not even where it is in the way."""
    match kind:
        case "file":
            path.write_text("precious")
        case "folder":
            path.mkdir()
        case _:
            path.symlink_to("nowhere")
    assert "not a socket; move it away" in await refused(path)
    assert os.path.lexists(path)


async def test_a_path_that_is_too_long_is_named(tmp_path: Path) -> None:
    """The operating system would only say that it is."""
    assert "at most 107 bytes" in await refused(tmp_path / ("x" * (108 - len(str(tmp_path)) - 1)))
    fits = tmp_path / ("x" * (107 - len(str(tmp_path)) - 1))
    async with serving(fits, echo), connected(fits) as client:
        assert await asked(client, b"a") == b"a\n"


async def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """With the path and what is needed."""
    said = await refused(tmp_path / "missing" / "control.sock")
    assert "missing/control.sock: No such file or directory; its directory must exist" in said


async def test_the_socket_of_a_successor_is_not_removed(path: Path) -> None:
    """Whoever put another one there meanwhile keeps it."""
    async with serving(path, echo):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
    assert path.is_socket()
