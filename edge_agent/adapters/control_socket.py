"""The control socket: a Unix socket on which other programs of the device ask for things, a line each.

A client costs the others nothing: what it may have in progress, in memory and half said is bounded, and one that does
not read its answers is left alone, then closed.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import select
import socket
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from edge_agent.adapters.places import hand_to_group
from edge_agent.core.jsonrpc import BUSY, INVALID_REQUEST, Answer, Failure, encode_answer
from edge_agent.errors import EdgeAgentError

MAX_PATH: Final = 107  # sun_path without its final zero, unix(7)
MAX_CLIENTS: Final = 128
MAX_REQUESTS: Final = 128
MAX_REQUEST_BYTES: Final = 128 * 1024  # one alone may be larger
MAX_UNREAD: Final = 64 * 1024
LINE_WITHIN_S: Final = 30.0
STALLED_S: Final = 30.0

log = logging.getLogger(__name__)

Handle = Callable[[bytes], Awaitable[bytes | None]]
"""Returns the answer to a line, as a line; ``None`` where none is to be given."""


@dataclass(slots=True)
class ControlSocket:
    """Listens, and serves every client until it is stopped.

    Attributes:
        path: of the socket; its directory exists.
        group: whose members may connect, besides the agent's own user and root.
        handle: answers a line.
        max_line: bytes of the longest line.
    """

    path: Path
    group: str
    handle: Handle
    max_line: int
    _clients: set[_Client] = field(default_factory=set)  # without those of which is known that they have gone
    _serving: bool = False

    async def run(self, opened: Callable[[], object] = lambda: None) -> None:
        """Serve until cancelled; then the socket is gone. Call ``opened()`` once it is there.

        Raises:
            EdgeAgentError: the socket cannot be made; the message says what to do.
        """
        with socket.socket(socket.AF_UNIX) as listener:
            made = self._bind(listener)
            try:
                async with asyncio.TaskGroup() as group:
                    self._serving = True
                    connected, longest = partial(self._connected, group), self.max_line - 1
                    server = await asyncio.start_unix_server(connected, sock=listener, limit=longest)
                    opened()
                    try:
                        await asyncio.Event().wait()
                    finally:
                        self._serving = False
                        server.close()
            finally:
                if _identity(self.path) == made:  # and not a successor's
                    self.path.unlink()

    # -- the socket file

    def _bind(self, listener: socket.socket) -> tuple[int, int] | None:
        """Listen on a file, which nobody else can open at any moment before it is ready; return its identity."""
        path, temporary = self.path, self.path.with_name(f".{os.getpid()}")
        if len(os.fsencode(path)) > MAX_PATH or len(os.fsencode(temporary)) > MAX_PATH:
            raise EdgeAgentError(
                f"control.socket {path}: a Unix socket's path has at most {MAX_PATH} bytes; shorten it"
            )
        try:
            _check_free(path)
            _check_free(temporary)
            temporary.unlink(missing_ok=True)
            listener.bind(str(temporary))
            temporary.chmod(0o660)
            hand_to_group(temporary, self.group)
            listener.listen()
            temporary.rename(path)
        except OSError as error:
            raise EdgeAgentError(
                f"control.socket {path}: {error.strerror}; its directory must exist and be writable by the agent"
            ) from error
        return _identity(path)

    # -- clients

    def _connected(self, group: asyncio.TaskGroup, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._serving:
            writer.transport.abort()
            return
        if len(self._clients) >= MAX_CLIENTS:
            self._clients = {client for client in self._clients if not client.has_gone()}
        if len(self._clients) >= MAX_CLIENTS:
            writer.write(_failure(BUSY, f"{MAX_CLIENTS} programs are connected, which is all there can be; try later"))
            writer.close()
            return
        self._clients.add(client := _Client(reader, writer, self.handle, self.max_line))
        serving = group.create_task(client.serve(), name="control-client")
        serving.add_done_callback(lambda _: self._clients.discard(client))


class _RefusedError(Exception):
    """The client breaks a rule that the connection cannot survive."""


@dataclass(slots=True, eq=False)
class _Client:
    """One connection: takes requests as they come, answers them as they are done.

    What a client has asked for is finished though it has gone; but it has gone then, however long that takes.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    handle: Handle
    max_line: int
    _requests: int = 0
    _bytes: int = 0
    _written: int = 0
    _freed: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self) -> None:
        """Serve until the client has nothing more to say and has its answers; its requests are always finished."""
        farewell = b""
        self.writer.transport.set_write_buffer_limits(MAX_UNREAD)
        try:
            async with asyncio.TaskGroup() as group:
                try:
                    while (line := await self._line()) is not None:
                        if line.strip():
                            await self._room()
                            self._requests += 1
                            self._bytes += len(line)
                            group.create_task(self._answer(line), name="control-request")
                except _RefusedError as error:
                    farewell = _failure(INVALID_REQUEST, str(error))
            self.writer.transport.set_write_buffer_limits(0)
            await self._write(farewell)
        finally:
            self.writer.transport.abort()

    def has_gone(self) -> bool:
        """Return whether the client has closed its end, though what it has asked for may still be in progress.

        One that only says no more still reads; and of one that has gone, what it has sent is still to be read.
        """
        if self.writer.transport.is_closing():
            return True
        poll = select.poll()
        poll.register(self.writer.get_extra_info("socket"), 0)
        return bool(poll.poll(0))  # both directions are closed, or there was an error

    async def _line(self) -> bytes | None:
        """Return the next line; ``None`` when the client says no more."""
        line = b""
        try:
            line = await self.reader.readexactly(1)  # for which there is all the time in the world
            if line != b"\n":
                async with asyncio.timeout(LINE_WITHIN_S):
                    line += await self.reader.readuntil()
        except asyncio.IncompleteReadError as end:
            return line + end.partial or None
        except asyncio.LimitOverrunError:
            raise _RefusedError(
                f"a line is longer than {self.max_line} bytes; outbox.max_record bounds a record"
            ) from None
        except TimeoutError:
            raise _RefusedError(f"a line was not complete within {LINE_WITHIN_S:g} s") from None
        except OSError:
            return None
        return line.removesuffix(b"\n")

    async def _room(self) -> None:
        """Wait until one more request may be in progress."""
        while self._requests >= MAX_REQUESTS or self._bytes >= MAX_REQUEST_BYTES:
            self._freed.clear()
            await self._freed.wait()

    async def _answer(self, line: bytes) -> None:
        """Do what is asked for; a request is in progress until the client has room for its answer."""
        await self._write(await self.handle(line) or b"")
        self._requests -= 1
        self._bytes -= len(line)
        self._freed.set()

    async def _write(self, answer: bytes) -> None:
        """Write, wait while too much is unread, and close a client that reads nothing at all."""
        transport = self.writer.transport
        if not transport.is_closing():
            self.writer.write(answer)
            self._written += len(answer)
        while not transport.is_closing():
            taken = self._taken()
            try:
                async with asyncio.timeout(STALLED_S):
                    return await self.writer.drain()
            except TimeoutError:
                if self._taken() == taken:
                    transport.abort()
            except OSError:
                break
        return None

    def _taken(self) -> int:
        """Return how many bytes of answers the operating system has taken, which it does as the client reads."""
        return self._written - self.writer.transport.get_write_buffer_size()


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from every other; ``None`` without one."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _check_free(path: Path) -> None:
    """Return if there is nothing, or a socket on which nobody listens any more.

    Raises:
        EdgeAgentError: there is something else.
    """
    if _identity(path) is None:
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise EdgeAgentError(f"control.socket {path}: this is not a socket; move it away, or choose another path")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # noqa: FBT003  # the socket's own signature
        error = probe.connect_ex(str(path))
    if error != errno.ECONNREFUSED:
        raise EdgeAgentError(f"control.socket {path}: another process listens there; stop it, or choose another path")


def _failure(code: int, message: str) -> bytes:
    return encode_answer(Answer(None, Failure(code, message)))
