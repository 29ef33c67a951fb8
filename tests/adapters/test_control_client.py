"""The other end of the control socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typing_extensions import override

from edge_agent.adapters.control_client import ControlClient, UnansweredError
from edge_agent.core.jsonrpc import Answer, Failure, Request
from edge_agent.errors import UnreachableError
from edge_agent.services.control import Control, publish_method
from tests.support.control_server import GroupCommit, serving


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the socket is."""
    return tmp_path / "s"


@contextlib.contextmanager
def scripted(path: Path, answer: bytes | None) -> Iterator[None]:
    """Answer the first connection with these bytes and close it; ``None``: keep it, and say nothing."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        over = threading.Event()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                if answer is None:
                    over.wait(10)
                else:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


async def test_what_is_asked_is_answered(path: Path) -> None:
    """By a real server; several at once, each by its id."""

    def ask() -> list[Answer]:
        with ControlClient(path) as client:
            for number in (1, 2):
                client.send(Request("publish", {"channel": "data/t", "data": {}}, number))
            client.send(Request("nonsense", None, 3))
            return [client.receive() for _ in range(3)]

    control = Control({"publish": publish_method(GroupCommit(), max_record=100)})
    async with serving(path, control.answer):
        first, *others = await asyncio.to_thread(ask)
    assert first.id == 3
    assert isinstance(first.result, Failure)
    assert others == [Answer(1, {"id": "box-normal.1"}), Answer(2, {"id": "box-normal.2"})]


def test_without_a_daemon_it_says_where_it_looked(path: Path) -> None:
    """Neither a missing socket nor a dead one is a riddle."""
    with pytest.raises(UnreachableError, match=rf"at {path}: No such file or directory; is it running\?"):
        ControlClient(path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(UnreachableError, match="Connection refused; is it running"):
        ControlClient(path)
    with pytest.raises(UnreachableError, match="too long"):
        ControlClient(Path("/" + "x" * 200))


def test_who_is_not_in_the_group_is_told_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root is never refused, so the operating system's answer is played."""

    class Closed(socket.socket):
        @override
        def connect(self, _address: object) -> None:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "socket", Closed)
    with pytest.raises(UnreachableError, match="Permission denied; be a member of the daemon's group"):
        ControlClient(path)


def asked(client: ControlClient, params: object = None) -> Answer:
    """Return the answer to a request."""
    client.send(Request("publish", params, 1))
    return client.receive()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "the connection ended|Connection reset"),
        (b"SSH-2.0\r\n", "this is no JSON-RPC answer"),
        (b'{"jsonrpc":"2.0","error":{"code":-32600,"message":"a line is too long"},"id":null}\n', "a line is too long"),
    ],
)
def test_an_answer_that_does_not_come_leaves_it_open(path: Path, answer: bytes, said: str) -> None:
    """Nobody knows what became of the request."""
    with scripted(path, answer), ControlClient(path) as client, pytest.raises(UnansweredError, match=said):
        asked(client)


def test_a_daemon_that_is_full_has_read_nothing(path: Path) -> None:
    """What it says is not lost, though it has closed the connection by then."""
    refusal = b'{"jsonrpc":"2.0","error":{"code":-32001,"message":"64 programs"},"id":null}\n'
    with scripted(path, refusal):
        client = ControlClient(path)
    with client, pytest.raises(UnreachableError, match="64 programs") as failed:
        asked(client)
    assert not isinstance(failed.value, UnansweredError)


def test_a_daemon_that_hangs_is_not_waited_for_for_ever(path: Path) -> None:
    """Neither for its answer nor for its reading."""
    for size, said in ((1, "does not answer"), (10_000_000, "does not take")):
        path.unlink(missing_ok=True)
        with (
            scripted(path, None),
            ControlClient(path, answer_within_s=0.1) as client,
            pytest.raises(UnansweredError, match=f"{said}.*: timed out"),
        ):
            asked(client, "x" * size)
