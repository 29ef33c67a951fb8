"""Asks NTP servers over UDP.

Each request has a socket of its own, connected and on a port that the kernel draws: nobody else's packets arrive on it,
and a server that is not there says so at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from edge_agent.adapters.ntp_codec import COOKIE_BYTES, decode_reply, encode_request
from edge_agent.adapters.threads import in_daemon_thread
from edge_agent.core.ntp import Rejection, judge
from edge_agent.core.polling import host_and_port
from edge_agent.core.sample import Sample
from edge_agent.core.timebase import DurationNs, RawNs, UtcNs, WallNs, seconds, to_seconds

MAX_HOSTS: Final = 64  # whose addresses are remembered: those that the network names change
MAX_ADDRESSES: Final = 16
MAX_LOSSES: Final = 8
"""After so many the name is looked up again: servers move."""

_PACKET_BYTES: Final = 512
_SO_TIMESTAMPNS_NEW: Final = 64  # asm-generic/socket.h, Linux 5.1; Python does not name it
_TIMESPEC: Final = struct.Struct("=qq")
_OLDEST_STAMP: Final = seconds(1.0)
_STEP_FLOOR: Final = seconds(50e-6)  # two paired readings differ by less
_STEP_SHARE: Final = 1000
"""Wall and counter differ by less than this part of the time between, unless one is stepped or slewed."""

_NOBODY_THERE: Final = (Rejection.REFUSED, Rejection.UNREACHABLE)


@dataclass(slots=True)
class _Host:
    """What is known of a server's addresses; the first is in use."""

    addresses: deque[tuple[int, tuple[Any, ...]]] = field(default_factory=deque)
    losses: int = 0
    is_resolving: bool = False


class NtpClient:
    """Asks servers, one exchange at a time for each; any number of servers at once."""

    def __init__(self, *, pair: Callable[[], tuple[RawNs, WallNs]], near: UtcNs) -> None:
        """Prepare.

        Args:
            pair: reads the counter and the wall clock at one moment.
            near: an instant within 68 years of the true time.
        """
        self._pair = pair
        self._near = near
        self._hosts: dict[str, _Host] = {}

    def address(self, server: str) -> str | None:
        """Return the address in use for a server; ``None`` = it was not resolved yet."""
        host = self._hosts.get(server)
        return str(host.addresses[0][1][0]) if host and host.addresses else None

    async def ask(self, server: str, *, within: DurationNs) -> Sample | Rejection:
        """Return the server's time, or why there is none; within the deadline, name look-up included.

        Args:
            server: ``HOST``, ``HOST:PORT``, an IPv6 address with or without brackets.
            within: the deadline; 3 s suffice, a slower answer is too inexact to be used.
        """
        host = self._hosts.setdefault(server, _Host())
        if len(self._hosts) > MAX_HOSTS:
            del self._hosts[next(iter(self._hosts))]
        try:
            async with asyncio.timeout(to_seconds(within)):
                answer = await self._ask(server, host)
        except TimeoutError:
            answer = Rejection.NO_ANSWER if host.addresses else Rejection.UNRESOLVED
        if isinstance(answer, Sample):
            host.losses = 0
            return answer
        host.losses += 1
        if answer not in _NOBODY_THERE:  # there, all addresses were tried
            host.addresses.rotate(-1)
        return answer

    async def _ask(self, server: str, host: _Host) -> Sample | Rejection:
        if not host.addresses or (host.losses and host.losses % MAX_LOSSES == 0):
            await _resolve(server, host)
        answer: Sample | Rejection = Rejection.UNRESOLVED
        for _ in range(len(host.addresses)):
            answer = await self._exchange(server, *host.addresses[0])
            if answer not in _NOBODY_THERE:
                break
            host.addresses.rotate(-1)
        return answer

    async def _exchange(self, server: str, family: int, address: tuple[Any, ...]) -> Sample | Rejection:
        """Send one request and wait for its reply, for ever if need be."""
        loop = asyncio.get_running_loop()
        cookie = os.urandom(COOKIE_BYTES)
        answered: asyncio.Future[Sample | Rejection] = loop.create_future()

        def readable() -> None:
            """Take one datagram: a flood thus leaves the loop to the others, and waits in the kernel's buffer."""
            if answered.done():
                return
            try:
                data, ancillary, _, _ = sock.recvmsg(_PACKET_BYTES, socket.CMSG_SPACE(_TIMESPEC.size))
            except BlockingIOError:
                return
            except OSError as error:  # what ICMP has to say of the request
                answered.set_exception(error)
                return
            received = self._received(sent, _stamp(ancillary))
            if reply := decode_reply(data, near=self._near):
                verdict = judge(reply, cookie=cookie, source=server, t1=sent[0], t4=received)
                if verdict is not Rejection.STRAY:
                    answered.set_result(verdict)

        try:
            with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                with contextlib.suppress(OSError):  # an older kernel
                    sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS_NEW, 1)
                sock.connect(address)
                sent = self._pair()
                sock.send(encode_request(cookie))
                loop.add_reader(sock, readable)
                try:
                    return await answered
                finally:
                    loop.remove_reader(sock)
        except OSError as error:
            return Rejection.REFUSED if isinstance(error, ConnectionRefusedError) else Rejection.UNREACHABLE

    def _received(self, sent: tuple[RawNs, WallNs], stamp: int | None) -> RawNs:
        """Return when a datagram was received: by the kernel's stamp, unless the wall clock is not to be trusted."""
        raw, wall = self._pair()
        if stamp is None:
            return raw
        went_by = raw - sent[0]
        moved = abs(wall - sent[1] - went_by)
        age = wall - stamp
        is_sound = 0 <= age <= _OLDEST_STAMP and moved <= _STEP_FLOOR + went_by // _STEP_SHARE
        return RawNs(raw - age) if is_sound else raw


def _stamp(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    """Return the kernel's receive time by the wall clock, if it gave one."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS_NEW and len(data) == _TIMESPEC.size:
            whole, nanoseconds = _TIMESPEC.unpack(data)
            return int(seconds(1.0) * whole + nanoseconds)
    return None


async def _resolve(server: str, host: _Host) -> None:
    """Look up the addresses; when there is none now, those known before stay.

    A resolver that hangs is given up at the caller's deadline, but left alone: what it finds serves the next request,
    and no second one is started beside it.
    """
    if host.is_resolving:
        return
    name, port = host_and_port(server)

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(name, port, type=socket.SOCK_DGRAM)
            host.addresses = deque([(entry[0], entry[4]) for entry in found[:MAX_ADDRESSES]])
        finally:
            host.is_resolving = False

    host.is_resolving = True
    with contextlib.suppress(OSError, UnicodeError):  # UnicodeError: a label of more than 63 characters
        await in_daemon_thread(look_up, name="ntp-resolver", late=lambda: None)
