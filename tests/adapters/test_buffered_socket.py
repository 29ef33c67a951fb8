"""The socket under paho: read ahead, written once a turn."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.adapters.buffered_socket import READ_SIZE, BufferedSocket, OversizedError
from tests.support.brokers import tls_files

WITHIN_S = 30.0
LIMIT = 1 << 24


@dataclass(slots=True)
class Pair:
    """A buffered socket and its peer, a plain one."""

    ours: BufferedSocket
    peer: socket.socket

    def read(self, count: int, *, step: int = 1 << 16) -> bytes:
        """Read so many bytes from ours, waiting for the operating system only when nothing is pending."""
        found = bytearray()
        while len(found) < count:
            if not self.ours.pending():
                assert select.select([self.ours], [], [], WITHIN_S)[0], f"{len(found)} of {count} bytes came"
            with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
                found += self.ours.recv(min(step, count - len(found)))
        return bytes(found)


@contextlib.contextmanager
def pair(*, blocking: bool = False) -> Iterator[Pair]:
    """Connect two sockets."""
    one, other = socket.socketpair()
    ours = BufferedSocket(one, max_request=LIMIT)
    other.settimeout(WITHIN_S)
    if not blocking:
        ours.setblocking(False)  # noqa: FBT003  # the socket's own signature
    try:
        yield Pair(ours, other)
    finally:
        ours.close()
        other.close()


@contextlib.contextmanager
def tcp_pair() -> Iterator[Pair]:
    """Connect two sockets over loopback TCP, where a connection can be reset."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    ours = BufferedSocket(one, max_request=LIMIT)
    ours.setblocking(False)  # noqa: FBT003  # the socket's own signature
    other.settimeout(WITHIN_S)
    try:
        yield Pair(ours, other)
    finally:
        ours.close()
        other.close()


def readable(ours: BufferedSocket) -> None:
    """Wait until the operating system has something to say."""
    assert select.select([ours], [], [], WITHIN_S)[0]


# ---------------------------------------------------------------- transparent at first
def test_it_is_transparent_while_it_blocks() -> None:
    """Each call is the socket's own: sent at once, nothing read ahead."""
    with pair(blocking=True) as both:
        both.ours.settimeout(WITHIN_S)
        assert both.ours.send(b"hello") == 5
        assert both.peer.recv(10) == b"hello"
        both.peer.sendall(b"abc")
        assert both.ours.recv(1) == b"a"
        assert both.ours.pending() == 0
        assert both.ours.recv(10) == b"bc"
        both.ours.settimeout(0.01)
        with pytest.raises(TimeoutError):
            both.ours.recv(1)
        assert both.ours.flush()
        assert both.ours.fileno() == both.ours._sock.fileno() >= 0


def test_it_buffers_from_the_moment_it_does_not_block() -> None:
    """What was left in the operating system's buffer by the handshake is not lost."""
    with pair(blocking=True) as both:
        both.peer.sendall(b"abcdef")
        assert both.ours.recv(2) == b"ab"
        both.ours.setblocking(False)  # noqa: FBT003  # the socket's own signature
        assert not both.ours._sock.getblocking()
        assert both.ours.recv(1) == b"c"
        assert both.ours.pending() == 3


# ---------------------------------------------------------------- reading
def test_one_read_brings_what_there_is_and_many_use_it_up() -> None:
    """Pending counts down; after it, the operating system is asked again."""
    with pair() as both:
        both.peer.sendall(b"abcdef")
        readable(both.ours)
        assert both.ours.pending() == 0
        assert [both.ours.recv(1), both.ours.recv(2)] == [b"a", b"bc"]
        assert both.ours.pending() == 3
        both.peer.sendall(b"ghi")
        assert both.ours.recv(100) == b"def"
        assert both.ours.pending() == 0
        assert both.ours.recv(100) == b"ghi"
        with pytest.raises(BlockingIOError):
            both.ours.recv(1)
        assert not both.ours.ended
        assert both.ours.error is None


def test_no_more_than_one_piece_is_held() -> None:
    """A peer that sends megabytes costs one piece of memory."""
    with tcp_pair() as both:
        thread = threading.Thread(target=both.peer.sendall, args=(b"x" * (4 << 20),))
        thread.start()
        for _ in range(50):
            readable(both.ours)
            with contextlib.suppress(BlockingIOError):
                both.ours.recv(1)
            assert both.ours.pending() <= READ_SIZE - 1
            both.ours._position = len(both.ours._in)
        both.ours._sock.shutdown(socket.SHUT_RD)
        while thread.is_alive():
            with contextlib.suppress(BlockingIOError):
                both.ours._sock.recv(1 << 20)
        thread.join(WITHIN_S)


def test_the_peers_end_is_noticed_after_its_last_byte() -> None:
    """What it sent before is delivered first; then no bytes, every time, and ``ended``."""
    with pair() as both:
        both.peer.sendall(b"bye")
        both.peer.close()
        readable(both.ours)
        assert both.ours.recv(2) == b"by"
        early = both.ours.ended
        assert both.ours.recv(2) == b"e"
        assert [both.ours.recv(2), both.ours.recv(2)] == [b"", b""]
        assert (early, both.ours.ended) == (False, True)
        assert both.ours.error is None


def test_a_reset_is_an_error_that_is_kept() -> None:
    """It is raised, and remembered for who explains the loss."""
    with tcp_pair() as both:
        both.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        both.peer.close()
        readable(both.ours)
        with pytest.raises(ConnectionResetError):
            both.ours.recv(1)
        assert isinstance(both.ours.error, ConnectionResetError)
        assert not both.ours.ended


# ---------------------------------------------------------------- writing
def test_nothing_is_sent_before_the_flush() -> None:
    """Many small sends are one write."""
    with pair() as both:
        assert [both.ours.send(b"ab"), both.ours.send(bytearray(b"c")), both.ours.send(b"")] == [2, 1, 0]
        assert select.select([both.peer], [], [], 0)[0] == []
        assert both.ours.flush()
        assert both.peer.recv(100) == b"abc"
        assert both.ours.flush()
        assert select.select([both.peer], [], [], 0)[0] == []


def test_a_full_pipe_is_said_and_the_rest_goes_later() -> None:
    """The flush returns False until the peer has made room; then all has arrived, once, in order."""
    with pair() as both:
        data = bytes(range(256)) * 8192  # 2 MiB
        both.ours.send(data)
        assert both.ours.flush() is False
        assert both.ours.flush() is False
        both.ours.send(b"end")
        came = bytearray()
        done = False
        while len(came) < len(data) + 3:
            came += both.peer.recv(1 << 16)
            done = both.ours.flush()
        assert done
        assert bytes(came) == data + b"end"


def test_a_write_to_who_is_gone_is_an_error_that_is_kept() -> None:
    """Broken pipe or reset: raised, and remembered."""
    with pair() as both:
        both.peer.close()
        both.ours.send(b"x")
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            both.ours.flush()
        assert isinstance(both.ours.error, ConnectionError)


def test_a_close_sends_what_still_goes() -> None:
    """A DISCONNECT that was taken is not lost."""
    with pair() as both:
        both.ours.send(b"goodbye")
        both.ours.close()
        assert both.peer.recv(100) == b"goodbye"
        assert both.peer.recv(100) == b""
        both.ours.close()


def test_a_close_with_a_full_pipe_or_without_a_peer_neither_waits_nor_raises() -> None:
    """What cannot be sent at once is given up."""
    with pair() as both:
        both.ours.send(b"x" * (4 << 20))
        begun = time.monotonic()
        both.ours.close()
        assert time.monotonic() - begun < 10
    with pair() as both:
        both.peer.close()
        both.ours.send(b"x")
        both.ours.close()


# ---------------------------------------------------------------- any split
_PIECES = st.lists(st.binary(max_size=300), max_size=30)


@given(sent=_PIECES, sizes=st.lists(st.integers(1, 400), min_size=1, max_size=30))
def test_whatever_the_split_of_the_reads_the_bytes_are_the_same(sent: list[bytes], sizes: list[int]) -> None:
    """Pieces that arrive before, between and after reads of any size make one stream."""
    with pair() as both:
        came, step = bytearray(), 0
        for piece in sent:
            both.peer.sendall(piece)
            if piece:
                came += both.ours.recv(sizes[step % len(sizes)])
                step += 1
        total = b"".join(sent)
        while len(came) < len(total):
            ahead = both.ours.pending()
            size = sizes[step % len(sizes)]
            part = both.ours.recv(size)
            assert 0 < len(part) <= size
            assert not ahead or len(part) == min(size, ahead)
            came += part
            step += 1
        assert bytes(came) == total
        assert both.ours.pending() == 0


@given(script=st.lists(st.one_of(st.binary(max_size=5000), st.integers(0, 20_000)), max_size=40))
def test_whatever_the_split_of_the_writes_the_bytes_are_the_same(script: list[bytes | int]) -> None:
    """Sends, flushes and a peer that reads some now and then, through a pipe that is small."""
    one, other = socket.socketpair()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
    ours = BufferedSocket(one, max_request=LIMIT)
    ours.setblocking(False)  # noqa: FBT003  # the socket's own signature
    other.setblocking(False)  # noqa: FBT003  # the socket's own signature
    sent, came = bytearray(), bytearray()
    with contextlib.closing(ours), other:
        for step in script:
            if isinstance(step, bytes):
                assert ours.send(step) == len(step)
                sent += step
            else:
                ours.flush()
                with contextlib.suppress(BlockingIOError):
                    came += other.recv(step)
        done = False
        while not done or len(came) < len(sent):
            done = ours.flush()
            with contextlib.suppress(BlockingIOError):
                came += other.recv(1 << 16)
        assert came == sent


# ---------------------------------------------------------------- TLS
@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a server's and a client's context."""
    files = tls_files(tmp_path_factory.mktemp("buffered"))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(files.server_cert, files.server_key)
    server.num_tickets = 0
    return server, ssl.create_default_context(cafile=str(files.ca))


@contextlib.contextmanager
def tls_pair(certificates: tuple[ssl.SSLContext, ssl.SSLContext]) -> Iterator[Pair]:
    """Connect two sockets over TLS; ours is the client's."""
    server, client = certificates
    one, other = socket.socketpair()
    for sock in (one, other):
        sock.settimeout(WITHIN_S)
    peers: list[ssl.SSLSocket] = []
    thread = threading.Thread(target=lambda: peers.append(server.wrap_socket(other, server_side=True)))
    thread.start()
    ours = BufferedSocket(client.wrap_socket(one, server_hostname="localhost"), max_request=LIMIT)
    thread.join(WITHIN_S)
    ours.setblocking(False)  # noqa: FBT003  # the socket's own signature
    try:
        yield Pair(ours, peers[0])
    finally:
        peers[0].close()
        ours.close()


def test_pending_knows_what_the_tls_layer_holds(certificates: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """Records that TLS has decrypted are not announced by the operating system again: all can be had without it."""
    with tls_pair(certificates) as both:
        data = bytes(range(256)) * 60  # one record of 15 KiB
        both.peer.sendall(data)
        readable(both.ours)
        came = both.ours.recv(1)
        while both.ours.pending():
            assert both.ours.pending() >= len(both.ours.recv(0))
            came += both.ours.recv(1000)
        assert came == data
        with pytest.raises(ssl.SSLWantReadError):
            both.ours.recv(1)
        assert both.ours.error is None
        assert not both.ours.ended


def test_pending_counts_both_layers(certificates: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """What was read ahead, and what TLS holds beyond it."""
    with tls_pair(certificates) as both:
        both.peer.sendall(b"abcdef")
        readable(both.ours)
        sock = both.ours._sock
        assert isinstance(sock, ssl.SSLSocket)
        assert sock.recv(2) == b"ab"
        assert sock.pending() == both.ours.pending() == 4
        assert both.ours.recv(1) == b"c"
        assert (sock.pending(), both.ours.pending()) == (0, 3)


def test_megabytes_go_through_tls_both_ways(certificates: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """An echo: partial writes are retried with what is then in the buffer, and nothing is lost or twice."""
    with tls_pair(certificates) as both:
        data = bytes(range(256)) * 4096  # 1 MiB

        def echo() -> None:
            left = len(data)
            while left:
                piece = both.peer.recv(10_000)
                left -= len(piece)
                both.peer.sendall(piece)

        thread = threading.Thread(target=echo)
        thread.start()
        came, sent = bytearray(), 0
        while len(came) < len(data):
            if sent < len(data):
                sent += both.ours.send(data[sent : sent + 7000])
            both.ours.flush()
            with contextlib.suppress(ssl.SSLWantReadError):
                came += both.ours.recv(50_000)
        thread.join(WITHIN_S)
        assert came == data


def test_the_end_of_tls_is_the_end(certificates: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """A peer that closes its side properly has ended; nothing is an error."""
    with tls_pair(certificates) as both:
        both.peer.sendall(b"bye")
        assert isinstance(both.peer, ssl.SSLSocket)
        both.peer.settimeout(0.01)
        with contextlib.suppress(ssl.SSLError, TimeoutError):
            both.peer.unwrap()
        assert both.read(3) == b"bye"
        assert both.ours.recv(1) == b""
        assert both.ours.ended
        assert both.ours.error is None


def test_who_asks_for_too_much_at_once_gets_nothing() -> None:
    """Paho asks for the rest of a packet: its length is known before its bytes are read, or memory is spent on it."""
    one, other = socket.socketpair()
    with one, other:
        ours = BufferedSocket(one, max_request=10)
        ours.setblocking(flag=False)
        other.send(b"x" * 100)
        assert ours.recv(10) == b"x" * 10
        with pytest.raises(OversizedError):
            ours.recv(11)
        assert isinstance(ours.error, OversizedError)
