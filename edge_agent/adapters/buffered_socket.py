"""A socket for paho that is read in large pieces and written once per turn of the event loop.

paho asks the operating system for one byte, one byte and the rest of every packet, and sends every packet by itself.
Under a window of many publishes that is most of its cost, and over TLS each small write is a record of its own.
"""

from __future__ import annotations

import contextlib
import ssl
from socket import socket
from typing import Final

READ_SIZE: Final = 64 * 1024


class OversizedError(OSError):
    """More was asked for at once than is allowed; paho asks for the rest of a packet, so the packet is too large."""


class BufferedSocket:
    """Stands in for the socket; transparent until it is set non-blocking, which paho does after the handshakes.

    Attributes:
        ended: whether the peer closed its side.
        error: what the operating system said when it gave up on the connection.
    """

    def __init__(self, sock: socket, *, max_request: int) -> None:
        """Wrap a socket; nobody may ask for more than ``max_request`` bytes at once."""
        self._sock = sock
        self._max_request = max_request
        self._buffering = False
        self._in = b""
        self._position = 0
        self._out = bytearray()
        self.ended = False
        self.error: OSError | None = None

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001  # the socket's own signature
        """Start to buffer once the socket does not block."""
        self._buffering = not flag
        self._sock.setblocking(flag)

    def settimeout(self, value: float | None) -> None:
        """As the socket's."""
        self._sock.settimeout(value)

    def fileno(self) -> int:
        """As the socket's."""
        return self._sock.fileno()

    def recv(self, size: int) -> bytes:
        """Return at most ``size`` bytes, from what was read ahead if there is any."""
        if not self._buffering:
            return self._sock.recv(size)
        if size > self._max_request:
            self.error = OversizedError(f"a packet of more than {self._max_request} bytes")
            raise self.error
        if self._position == len(self._in):
            self._in, self._position = self._read(), 0
        data = self._in[self._position : self._position + size]
        self._position += len(data)
        return data

    def pending(self) -> int:
        """Return how many bytes can be had without asking the operating system, which will not announce them again."""
        ahead = len(self._in) - self._position
        return ahead + self._sock.pending() if isinstance(self._sock, ssl.SSLSocket) else ahead

    def send(self, data: bytes | bytearray) -> int:
        """Take all the data; ``flush`` sends it."""
        if not self._buffering:
            return self._sock.send(data)
        self._out += data
        return len(data)

    def flush(self) -> bool:
        """Send what was taken; return whether all of it is out.

        Raises:
            OSError: the connection is gone.
        """
        while self._out:
            try:
                sent = self._sock.send(self._out)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return False
            except OSError as error:
                self.error = error
                raise
            del self._out[:sent]
        return True

    def close(self) -> None:
        """Send what still can be sent at once, and close."""
        with contextlib.suppress(OSError):
            self.flush()
        self._sock.close()

    def _read(self) -> bytes:
        try:
            data = self._sock.recv(READ_SIZE)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError as error:
            self.error = error
            raise
        self.ended = not data
        return data
