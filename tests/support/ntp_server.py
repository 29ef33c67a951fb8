"""An NTP server that does whatever a test wants, over real UDP, on a thread of its own.

``with NtpServer(behaviour) as server:`` calls ``behaviour(server, request, client)`` for every datagram. What it
answers with is built by ``reply_to``, which knows the packet's layout by itself. Its time is the counter plus
``AHEAD``.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

from edge_agent.adapters.system_clock import SystemClock
from edge_agent.core.timebase import BUILD_EPOCH

AHEAD: Final = BUILD_EPOCH + 100 * 86_400 * 10**9
"""The server's time is the counter plus this, in nanoseconds."""

HEADER: Final = struct.Struct("!BBbbII4s8s8s8s8s")
FROM_1900_S: Final = 2_208_988_800
_POLL_S: Final = 0.05

Address = tuple[Any, ...]
Behaviour = Callable[["NtpServer", bytes, Address], None]


def timestamp(utc_ns: int) -> bytes:
    """Return an instant as eight bytes, in whatever era it is."""
    return ((utc_ns + FROM_1900_S * 10**9) * 2**32 // 10**9 % 2**64).to_bytes(8)


def reply_to(
    request: bytes,
    *,
    leap: int = 0,
    version: int = 4,
    mode: int = 4,
    stratum: int = 1,
    precision: int = -23,
    root_delay_s: float = 0.0,
    root_dispersion_s: float = 0.0,
    reference: bytes = b"TEST",
    cookie: bytes | None = None,
    t2: bytes | None = None,
    t3: bytes | None = None,
    ahead: int = AHEAD,
) -> bytes:
    """Return a sound reply, but for what is given."""
    now = timestamp(SystemClock().raw() + ahead)
    return HEADER.pack(
        leap << 6 | version << 3 | mode,
        stratum,
        6,
        precision,
        int(root_delay_s * 2**16),
        int(root_dispersion_s * 2**16),
        reference,
        bytes(8),
        request[40:48] if cookie is None else cookie,
        now if t2 is None else t2,
        now if t3 is None else t3,
    )


def sound(server: NtpServer, request: bytes, client: Address) -> None:
    """Answer as a server should."""
    server.send(reply_to(request), client)


def replying(fields: Mapping[str, Any]) -> Behaviour:
    """Return a behaviour: reply at once, with these fields."""
    return lambda server, request, client: server.send(reply_to(request, **fields), client)


class NtpServer:
    """A server on loopback.

    Attributes:
        behaviour: what it does with a request; may be changed at any time.
        requests: all that arrived.
        port: where it listens.
    """

    def __init__(self, behaviour: Behaviour = sound, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.behaviour = behaviour
        self.requests: list[bytes] = []
        self.clients: list[Address] = []
        self.host = host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._elsewhere = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.bind((host, port))
        self._socket.settimeout(_POLL_S)
        self._elsewhere.bind((host, 0))
        self.port: int = self._socket.getsockname()[1]
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="ntp-server")

    @property
    def name(self) -> str:
        """``HOST:PORT``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def send(self, data: bytes, client: Address) -> None:
        """Send from the server's port."""
        self._socket.sendto(data, client)

    def send_from_elsewhere(self, data: bytes, client: Address) -> None:
        """Send from another port."""
        self._elsewhere.sendto(data, client)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopping.set()
        self._thread.join()
        self._socket.close()
        self._elsewhere.close()

    def _serve(self) -> None:
        while not self.stopping.is_set():
            try:
                request, client = self._socket.recvfrom(2048)
            except (TimeoutError, ConnectionRefusedError):  # refused: a client that is gone
                continue
            self.requests.append(request)
            self.clients.append(client)
            self.behaviour(self, request, client)


def storm(packet: Callable[[bytes], bytes], *, pause_s: float = 0.0) -> Behaviour:
    """Return a behaviour: send without end, until the next request or the end of the test."""

    def blow(server: NtpServer, request: bytes, client: Address) -> None:
        data = packet(request)
        ends = time.monotonic() + 2.0
        while not server.stopping.is_set() and time.monotonic() < ends:
            try:
                server.send(data, client)
            except OSError:  # the client has closed its socket
                return
            if pause_s:
                time.sleep(pause_s)

    return blow
