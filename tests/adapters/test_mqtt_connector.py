"""Making connections: the words for every failure, what a CONNECT says, what a CONNACK limits."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import hashlib
import logging
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from typing_extensions import override

from edge_agent.adapters import mqtt_transport
from edge_agent.adapters.mqtt_connector import Login, MqttConnector
from edge_agent.adapters.mqtt_link import MAX_QUEUED_INBOUND
from edge_agent.adapters.mqtt_transport import MAX_INBOUND
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.core.config_models import Tls
from edge_agent.core.config_types import parse_broker_url
from edge_agent.core.connection import Attempt, ClosedBy, ProtocolVersion
from edge_agent.core.events import Stamp
from edge_agent.core.timebase import UtcNs, seconds
from edge_agent.errors import ConfigError, ConfigProblem, ConnectFailedError, ConnectFailure, TooLargeError
from edge_agent.ports import Connection, Message
from tests.support.brokers import RealBroker, TlsFiles, free_port, mosquitto, require, tls_files
from tests.support.scripted_broker import Personality, ScriptedBroker

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # one test counts descriptors

HOST = "127.0.0.1"
PASSWORD = "s3cret-Wort"  # noqa: S105
LOGIN = Login("gw-1", seconds(60), seconds(0), seconds(0), Tls())
PROTOCOLS: list[ProtocolVersion] = [5, 4]
ADVICE = re.compile(r"check|see \[|is it|is the|needed|\?", re.IGNORECASE)


async def connect(
    url: str, login: Login = LOGIN, *, protocol: ProtocolVersion = 5, will: Message | None = None, retained: bool = True
) -> Connection:
    """Connect once."""
    attempt = Attempt(parse_broker_url(url), protocol, will_retained=retained, wait=seconds(0))
    return await MqttConnector(login, clock=SystemClock()).connect(attempt, will)


async def refused(url: str, login: Login = LOGIN, *, protocol: ProtocolVersion = 5) -> ConnectFailedError:
    """Fail to connect; whatever failed, the message is one line, names the broker, tells no secret, and advises."""
    with pytest.raises(ConnectFailedError) as failed:
        await connect(url, login, protocol=protocol)
    text = str(failed.value)
    assert text.startswith(f"{parse_broker_url(url)}: "), text
    assert "\n" not in text
    assert PASSWORD not in text + repr(failed.value) + repr(login)
    assert ADVICE.search(text), f"it does not say what to do: {text}"
    return failed.value


@dataclass(slots=True)
class Server:
    """A TCP server that is no broker."""

    port: int
    accepted: int = 0
    ended: int = 0


@contextlib.asynccontextmanager
async def server_that_says(reply: bytes | None, *, close: bool = True) -> AsyncIterator[Server]:
    """Answer whatever comes first with these bytes, ``None`` = nothing; then close, or wait for the client to do so."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.accepted += 1
        writers.append(writer)
        with contextlib.suppress(OSError):
            await reader.read(1)
            writer.write(reply or b"")
            if not close:
                while await reader.read(1000):
                    pass
        seen.ended += 1
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    seen = Server(server.sockets[0].getsockname()[1])
    async with server:
        try:
            yield seen
        finally:
            for writer in writers:
                writer.close()
            await asyncio.sleep(0.01)


async def until(server: Server, *, ended: int) -> None:
    """Wait until so many clients have gone."""
    async with asyncio.timeout(30):
        while server.ended < ended:  # noqa: ASYNC110  # the sockets are another thread's
            await asyncio.sleep(0.005)


class KnowingClock(SystemClock):
    """A clock that knows true time: the operating system's is two days behind it."""

    @override
    def now(self) -> Stamp:
        """Return true time."""
        return Stamp(UtcNs(self.wall() + 2 * 86_400 * 10**9), "synced", 5)


@pytest.mark.broker
@pytest.mark.parametrize("days", [2, -60])
async def test_a_certificate_that_is_not_valid_now_is_seen_in_the_light_of_true_time(tmp_path: Path, days: int) -> None:
    """Not yet, or no longer: by how much the clock is off by which it was judged; it is refused all the same."""
    files = tls_files(tmp_path, server_days=days)
    login = replace(LOGIN, tls=Tls(ca=str(files.ca)))
    async with mosquitto(tmp_path, tls=files) as broker:
        attempt = Attempt(
            parse_broker_url(f"mqtts://localhost:{broker.tls_port}"), 5, will_retained=True, wait=seconds(0)
        )
        with pytest.raises(ConnectFailedError) as failed:
            await MqttConnector(login, clock=KnowingClock()).connect(attempt, None)
        assert "the system clock is off by -172800.0 s; true time is 20" in str(failed.value)
        with pytest.raises(ConnectFailedError) as failed:
            await MqttConnector(login, clock=SystemClock()).connect(attempt, None)
        assert "judged by the system clock, 20" in str(failed.value)


# ---------------------------------------------------------------- nobody there
async def test_an_unknown_name_is_unresolved() -> None:
    """The name is in the line."""
    error = await refused("mqtt://does-not-exist.invalid:1883")
    assert error.failure is ConnectFailure.UNRESOLVED
    assert "does-not-exist.invalid" in str(error)
    assert "DNS" in str(error)


@pytest.mark.parametrize("scheme", ["mqtt", "mqtts", "ws", "wss"])
async def test_a_closed_port_is_unreachable(scheme: str) -> None:
    """The same words for every scheme."""
    error = await refused(f"{scheme}://{HOST}:{free_port()}")
    assert error.failure is ConnectFailure.UNREACHABLE
    assert "nothing listens there" in str(error)


async def test_nobody_there_is_not_reachable_and_somebody_is() -> None:
    """The probe makes a TCP connection and closes it."""
    connector = MqttConnector(LOGIN, clock=SystemClock())
    async with server_that_says(b"") as server:
        assert await connector.reachable(parse_broker_url(f"mqtt://{HOST}:{server.port}"))
        await until(server, ended=1)
    assert not await connector.reachable(parse_broker_url(f"mqtt://{HOST}:{free_port()}"))
    assert not await connector.reachable(parse_broker_url("mqtt://does-not-exist.invalid:1883"))


# ---------------------------------------------------------------- somebody else there
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_port_that_says_nothing_is_silent(protocol: ProtocolVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given up after a bound; the socket is closed."""
    monkeypatch.setattr(mqtt_transport, "CONNACK_WITHIN_S", 0.6)
    async with server_that_says(None, close=False) as server:
        error = await refused(f"mqtt://{HOST}:{server.port}", protocol=protocol)
        assert error.failure is ConnectFailure.SILENT
        await until(server, ended=1)


@pytest.mark.parametrize("scheme", ["mqtts", "ws"])
async def test_a_handshake_that_gets_no_answer_is_unreachable(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given up after a bound, as a firewall that swallows everything would have it."""
    monkeypatch.setattr(mqtt_transport, "CONNECT_WITHIN_S", 0.3)
    async with server_that_says(None, close=False) as server:
        error = await refused(f"{scheme}://{HOST}:{server.port}")
        assert error.failure is ConnectFailure.UNREACHABLE
        assert "no answer in time" in str(error)


GARBAGE = {
    "http": b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
    "nothing": b"",
    "half-a-connack": b"\x20\x03\x00",
    "zeros": bytes(64),
    "ones": b"\xff" * 64,
}
ELSE = {ConnectFailure.CLOSED, ConnectFailure.OLD_PROTOCOL, ConnectFailure.REFUSED, ConnectFailure.UNREACHABLE}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", GARBAGE)
async def test_a_port_that_speaks_something_else_is_named(kind: str, protocol: ProtocolVersion) -> None:
    """Whatever it answers, the failure is one of those that the policy knows, and the line says what to check."""
    async with server_that_says(GARBAGE[kind]) as server:
        error = await refused(f"mqtt://{HOST}:{server.port}", protocol=protocol)
        assert error.failure in ELSE
        if kind in {"http", "nothing", "half-a-connack"}:
            assert error.failure is ConnectFailure.CLOSED


@pytest.mark.parametrize("kind", GARBAGE)
async def test_a_port_that_speaks_no_tls_is_a_tls_failure(kind: str) -> None:
    """The line asks whether it is the right port."""
    async with server_that_says(GARBAGE[kind]) as server:
        error = await refused(f"mqtts://{HOST}:{server.port}")
        assert error.failure is ConnectFailure.TLS or (
            error.failure is ConnectFailure.UNREACHABLE and "scheme" in str(error)
        )


@pytest.mark.parametrize("kind", GARBAGE)
async def test_a_port_that_speaks_no_websocket_is_unreachable(kind: str) -> None:
    """The line points at port and path."""
    async with server_that_says(GARBAGE[kind]) as server:
        error = await refused(f"ws://{HOST}:{server.port}")
        assert error.failure is ConnectFailure.UNREACHABLE
        assert re.search("port", str(error))


# ---------------------------------------------------------------- TLS
@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    """Return one set of certificates for all tests here."""
    return tls_files(tmp_path_factory.mktemp("connector"))


def with_tls(files: TlsFiles, **changed: str | Path | None) -> Login:
    """Return a login that trusts the authority, and more or less."""
    values = {name: None if value is None else str(value) for name, value in {"ca": files.ca, **changed}.items()}
    return replace(LOGIN, tls=Tls.model_validate(values))


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_tls_with_and_without_a_client_certificate_works(
    protocol: ProtocolVersion, files: TlsFiles, tmp_path: Path
) -> None:
    """Against a listener that asks for one, and one that does not; by name and by address."""
    async with mosquitto(tmp_path, tls=files) as broker:
        for url in (broker.tls_url, f"mqtts://{HOST}:{broker.tls_port}"):
            await published(await connect(url, with_tls(files), protocol=protocol))
    mine = with_tls(files, cert=files.client_cert, key=files.client_key)
    async with mosquitto(tmp_path, tls=files, require_client_cert=True, anonymous=False) as broker:
        await published(await connect(broker.tls_url, mine, protocol=protocol))


async def published(connection: Connection) -> None:
    """Publish something, have it acknowledged, and leave."""
    assert await connection.send(Message("t", b"x" * 1000)) in {0x00, 0x10}
    await connection.disconnect()
    assert (await connection.closed()).by is ClosedBy.US


async def test_the_wrong_scheme_for_the_port_is_said(files: TlsFiles, tmp_path: Path) -> None:
    """TLS to a plain port, plain to a TLS port, WebSocket to neither."""
    async with mosquitto(tmp_path, tls=files) as broker:
        for url, allowed, hint in (
            (f"mqtts://localhost:{broker.port}", {ConnectFailure.TLS, ConnectFailure.UNREACHABLE}, "scheme|TLS port"),
            (f"ws://localhost:{broker.port}", {ConnectFailure.UNREACHABLE}, "port and the path"),
            (f"wss://localhost:{broker.tls_port}", {ConnectFailure.UNREACHABLE}, "port and the path"),
        ):
            error = await refused(url, with_tls(files))
            assert error.failure in allowed
            assert re.search(hint, str(error)), str(error)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_plain_mqtt_to_a_tls_port_is_said(protocol: ProtocolVersion, files: TlsFiles, tmp_path: Path) -> None:
    """The most common slip: the line must point at the scheme or the port."""
    async with mosquitto(tmp_path, tls=files) as broker:
        error = await refused(f"mqtt://localhost:{broker.tls_port}", with_tls(files), protocol=protocol)
        assert error.failure is ConnectFailure.CLOSED
        assert re.search("TLS|scheme|port", str(error)), str(error)


async def test_a_certificate_of_another_authority_is_not_accepted(files: TlsFiles, tmp_path: Path) -> None:
    """Nor, without ``ca``, one that the system does not know; the line points at ``ca``."""
    async with mosquitto(tmp_path, tls=files) as broker:
        for login in (with_tls(files, ca=files.other_ca), with_tls(files, ca=None)):
            error = await refused(broker.tls_url, login)
            assert error.failure is ConnectFailure.TLS
            assert "certificate is not accepted" in str(error)
            assert "[mqtt.tls] ca" in str(error)


async def test_a_certificate_for_another_name_is_not_accepted(files: TlsFiles, tmp_path: Path) -> None:
    """The line says that the name is wrong."""
    async with mosquitto(tmp_path, host="127.0.0.2", tls=files) as broker:
        error = await refused(f"mqtts://127.0.0.2:{broker.tls_port}", with_tls(files))
        assert error.failure is ConnectFailure.TLS
        assert "mismatch" in str(error)
        assert "127.0.0.2" in str(error)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_missing_client_certificate_is_said(protocol: ProtocolVersion, files: TlsFiles, tmp_path: Path) -> None:
    """With TLS 1.3 the client learns of it only after its own handshake; the line points at ``cert`` all the same."""
    async with mosquitto(tmp_path, tls=files, require_client_cert=True) as broker:
        error = await refused(broker.tls_url, with_tls(files), protocol=protocol)
        # Python 3.13 sees only the end of the stream, 3.11 that it came without a closing alert
        assert error.failure in {ConnectFailure.TLS, ConnectFailure.CLOSED}
        assert "client certificate" in str(error)


async def test_files_that_cannot_be_used_are_named(files: TlsFiles, tmp_path: Path) -> None:
    """Missing, unreadable as PEM, a folder, empty, a key of another certificate: no connection is made."""
    empty, folder, missing = tmp_path / "empty", tmp_path / "folder", tmp_path / "missing"
    empty.touch()
    folder.mkdir()
    cert, key = files.client_cert, files.client_key
    async with server_that_says(b"") as server:
        for wrong, named in (
            ({"ca": missing}, missing),
            ({"ca": folder}, folder),
            ({"ca": empty}, empty),
            ({"ca": key}, key),
            ({"cert": missing, "key": key}, missing),
            ({"cert": cert, "key": missing}, missing),
            ({"cert": cert, "key": empty}, empty),
            ({"cert": cert, "key": files.server_key}, files.server_key),
            ({"cert": key, "key": cert}, cert),
        ):
            error = await refused(f"mqtts://{HOST}:{server.port}", with_tls(files, **wrong))
            assert error.failure is ConnectFailure.TLS
            assert str(named) in str(error)
            assert "[mqtt.tls]" in str(error)
            assert "PRIVATE KEY" not in str(error)
        assert server.accepted == 0


async def test_a_file_that_is_put_right_is_read_again(files: TlsFiles, tmp_path: Path) -> None:
    """One connector, first without its file, then with it."""
    ca = tmp_path / "ca.pem"
    connector = MqttConnector(with_tls(files, ca=ca), clock=SystemClock())
    async with mosquitto(tmp_path, tls=files) as broker:
        attempt = Attempt(parse_broker_url(broker.tls_url), 5, will_retained=True, wait=seconds(0))
        with pytest.raises(ConnectFailedError):
            await connector.connect(attempt, None)
        ca.write_bytes(files.ca.read_bytes())
        await published(await connector.connect(attempt, None))


def descriptors() -> int:
    """Return how many this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_failures_leave_no_descriptor_open(files: TlsFiles, tmp_path: Path) -> None:
    """Of many failed handshakes and refused connections."""
    async with mosquitto(tmp_path, tls=files) as broker:
        urls = [broker.tls_url, f"mqtts://localhost:{broker.port}", f"ws://localhost:{broker.port}"]
        for url in urls:
            await refused(url, with_tls(files, ca=files.other_ca))
        before = descriptors()
        for _ in range(10):
            for url in urls:
                await refused(url, with_tls(files, ca=files.other_ca))
        assert descriptors() <= before + 3


async def test_an_attempt_that_is_cancelled_leaves_no_connection() -> None:
    """In the CONNECT as well as in the handshake, once the peer lets go of it."""
    for scheme in ("mqtt", "mqtts", "ws"):
        async with server_that_says(None, close=False) as server:
            trying = asyncio.get_running_loop().create_task(connect(f"{scheme}://{HOST}:{server.port}"))
            async with asyncio.timeout(30):
                while not server.accepted:  # noqa: ASYNC110  # another thread's doing
                    await asyncio.sleep(0.005)
            trying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await trying
            if scheme == "mqtt":
                await until(server, ended=1)


# ---------------------------------------------------------------- login
@contextlib.asynccontextmanager
async def guarded(tmp_path: Path) -> AsyncIterator[RealBroker]:
    """Run a mosquitto that lets in ``somebody`` with the password."""
    passwords = tmp_path / "passwords"
    command = [require("mosquitto_passwd", "mosquitto"), "-c", "-b", str(passwords), "somebody", PASSWORD]
    subprocess.run(command, check=True, capture_output=True)
    async with mosquitto(tmp_path, anonymous=False, config_lines=[f"password_file {passwords}"]) as broker:
        yield broker


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_login_works(protocol: ProtocolVersion, tmp_path: Path) -> None:
    """With name and password."""
    async with guarded(tmp_path) as broker:
        mine = replace(LOGIN, username="somebody", password=lambda: PASSWORD)
        await published(await connect(broker.url, mine, protocol=protocol))


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_refused_login_is_said(
    protocol: ProtocolVersion, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the broker's reason code, and what to check; the password is nowhere, not in the log of the libraries."""
    caplog.set_level(logging.DEBUG)
    async with guarded(tmp_path) as broker:
        for mine in (
            replace(LOGIN, username="nobody", password=lambda: PASSWORD),
            replace(LOGIN, username="somebody", password=lambda: PASSWORD + "x"),
            replace(LOGIN, username="somebody"),
            LOGIN,
        ):
            error = await refused(broker.url, mine, protocol=protocol)
            assert error.failure is ConnectFailure.REFUSED
            # mosquitto 2.0.11 says "not authorized"; paho turns the 5 of MQTT 3.1.1 into it
            assert error.reason in {0x86, 0x87}
            assert re.search(r"authori[sz]ed|user ?name", str(error), re.IGNORECASE)
            assert re.search(r"username|password_file", str(error)), str(error)
    assert PASSWORD not in caplog.text


def test_the_password_is_not_printed() -> None:
    """By whoever prints the login."""
    assert PASSWORD not in repr(replace(LOGIN, username="somebody", password=lambda: PASSWORD))


async def test_a_password_alone_is_sent_with_an_empty_name() -> None:
    """MQTT 5 allows it."""
    async with ScriptedBroker() as broker:
        connection = await connect(broker.url, replace(LOGIN, password=lambda: PASSWORD))
        assert broker.connections[0].connect.password == PASSWORD.encode()
        await connection.disconnect()


# ---------------------------------------------------------------- WebSocket, IPv6
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_websocket_works(protocol: ProtocolVersion, tmp_path: Path) -> None:
    """Against mosquitto, with and without a path, there and back."""
    port = free_port()
    async with mosquitto(tmp_path, config_lines=[f"listener {port} {HOST}", "protocol websockets"]):
        for url in (f"ws://{HOST}:{port}", f"ws://{HOST}:{port}/mqtt"):
            connection = await connect(url, protocol=protocol)
            assert await connection.subscribe_to(["t/#"]) == [1]
            sent = [connection.send(Message(f"t/{number}", b"x" * 200)) for number in range(20)]
            assert set(await asyncio.gather(*sent)) == {0}
            for number in range(20):
                async with asyncio.timeout(30):
                    delivery = await connection.receive()
                assert delivery is not None
                assert delivery.topic == f"t/{number}"
                connection.acknowledge(delivery)
            await connection.disconnect()


def _frame(payload: bytes) -> bytes:
    """Return a WebSocket frame of a server: binary, unmasked, RFC 6455 section 5.2."""
    assert len(payload) < 126
    return bytes([0x82, len(payload)]) + payload


@pytest.mark.parametrize("cut", [pytest.param(0, id="one-piece"), pytest.param(9, id="two-pieces")])
async def test_packets_that_share_a_websocket_frame_all_arrive(cut: int) -> None:
    """MQTT 5 section 6: packets need not align with frames; none may wait for the next frame."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        found = re.search(r"Sec-WebSocket-Key: (\S+)", request)
        assert found is not None
        digest = hashlib.sha1((found[1] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()  # noqa: S324
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
        )
        await reader.read(1000)
        publish = b"\x30\x05\x00\x01t\x00%d"
        frame = _frame(b"\x20\x03\x00\x00\x00" + b"".join(publish % number for number in range(5)))
        if cut:
            writer.write(frame[:cut])
            await asyncio.sleep(0.05)
        writer.write(frame[cut:])
        await reader.read(1000)
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    async with server:
        connection = await connect(f"ws://{HOST}:{server.sockets[0].getsockname()[1]}")
        came: list[bytes] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                while len(came) < 5:
                    delivery = await connection.receive()
                    assert delivery is not None
                    came.append(delivery.payload)
        await connection.disconnect()
        assert came == [b"0", b"1", b"2", b"3", b"4"]


async def test_ipv6_works(tmp_path: Path) -> None:
    """By address, in brackets; a host without IPv6 says so like any other failure."""
    if Path("/proc/net/if_inet6").exists():
        async with mosquitto(tmp_path, host="::1") as broker:
            await published(await connect(f"mqtt://[::1]:{broker.port}"))
    error = await refused(f"mqtt://[::1]:{free_port()}")
    assert error.failure is ConnectFailure.UNREACHABLE


# ---------------------------------------------------------------- what the CONNECT says
WILL = Message("edge/gw-1/up/status", b"offline", retain=True)


@pytest.mark.parametrize("retained", [True, False])
async def test_a_connect_of_mqtt_5_says_what_the_login_says(retained: bool) -> None:  # noqa: FBT001
    """Every option."""
    mine = Login("gw-1", seconds(45), seconds(3600), seconds(10), Tls(), "somebody", lambda: PASSWORD)
    async with ScriptedBroker() as broker:
        connection = await connect(broker.url, mine, will=WILL, retained=retained)
        said = broker.connections[0].connect
        assert (said.protocol, said.client_id, said.keepalive) == (5, "gw-1", 45)
        assert (said.clean_start, said.session_expiry) == (False, 3600)
        assert (said.receive_maximum, said.maximum_packet_size) == (MAX_QUEUED_INBOUND, MAX_INBOUND)
        assert (said.username, said.password) == ("somebody", PASSWORD.encode())
        assert (said.will_topic, said.will_payload, said.will_qos) == (WILL.topic, WILL.payload, 1)
        assert (said.will_retain, said.will_delay) == (retained, 10)
        await connection.disconnect()


@pytest.mark.parametrize("retained", [True, False])
async def test_a_connect_of_3_1_1_says_what_the_login_says(retained: bool) -> None:  # noqa: FBT001
    """Without what that protocol does not know."""
    mine = Login("gw-1", seconds(45), seconds(3600), seconds(10), Tls(), "somebody", lambda: PASSWORD)
    async with ScriptedBroker() as broker:
        connection = await connect(broker.url, mine, protocol=4, will=WILL, retained=retained)
        said = broker.connections[0].connect
        assert (said.protocol, said.client_id, said.keepalive, said.clean_start) == (4, "gw-1", 45, False)
        assert (said.username, said.password) == ("somebody", PASSWORD.encode())
        assert (said.will_topic, said.will_payload, said.will_qos) == (WILL.topic, WILL.payload, 1)
        assert said.will_retain == retained
        await connection.disconnect()


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_without_a_session_will_and_login_none_is_said(protocol: ProtocolVersion) -> None:
    """It starts clean, and ends with the connection."""
    async with ScriptedBroker() as broker:
        connection = await connect(broker.url, protocol=protocol)
        said = broker.connections[0].connect
        assert (said.clean_start, said.session_expiry) == (True, 0)
        assert (said.username, said.password, said.will_topic) == (None, None, None)
        await connection.disconnect()


async def test_a_session_that_ends_never_is_the_largest_number() -> None:
    """3650 days fit; the broker is asked for exactly that."""
    async with ScriptedBroker() as broker:
        connection = await connect(broker.url, replace(LOGIN, session_expiry=seconds(3650 * 86400)))
        assert broker.connections[0].connect.session_expiry == 3650 * 86400
        await connection.disconnect()


# ---------------------------------------------------------------- what a CONNACK says
@pytest.mark.parametrize(
    ("how", "failure"),
    [
        ("connack84", ConnectFailure.OLD_PROTOCOL),
        ("v4_connack", ConnectFailure.OLD_PROTOCOL),
        ("close", ConnectFailure.CLOSED),
    ],
)
async def test_a_broker_that_knows_no_mqtt_5_is_recognised(how: str, failure: ConnectFailure) -> None:
    """However it says so."""
    async with ScriptedBroker(Personality(refuse_v5=how)) as broker:  # type: ignore[arg-type]
        with pytest.raises(ConnectFailedError) as failed:
            await connect(broker.url)
        assert failed.value.failure is failure
        await (await connect(broker.url, protocol=4)).disconnect()


async def test_every_refusal_keeps_its_reason_code() -> None:
    """Of MQTT 5; what 3.1.1 says is translated."""
    for code in (0x80, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x90, 0x95, 0x97, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F):
        async with ScriptedBroker(Personality(connack_v5=code)) as broker:
            with pytest.raises(ConnectFailedError) as failed:
                await connect(broker.url)
            assert (failed.value.failure, failed.value.reason) == (ConnectFailure.REFUSED, code)
            assert f"0x{code:02X}" in str(failed.value)
    for code in (2, 3, 4, 5):
        async with ScriptedBroker(Personality(connack_v4=code)) as broker:
            with pytest.raises(ConnectFailedError) as failed:
                await connect(broker.url, protocol=4)
            assert failed.value.failure is ConnectFailure.REFUSED
            assert failed.value.reason is not None
            assert failed.value.reason >= 0x80


async def test_a_broker_without_qos_1_is_refused_by_its_own_word() -> None:
    """Also where there is no Will for it to refuse (MQTT 5 §3.2.2.3.4): what is sent without one is not promised."""
    async with ScriptedBroker(Personality(maximum_qos=0)) as broker:
        assert (await refused(broker.url)).reason == 0x9B


async def test_without_limits_the_protocols_own_hold() -> None:
    """And with them, they are told."""
    async with ScriptedBroker() as broker:
        connection = await connect(broker.url)
        limits = connection.limits
        assert (limits.receive_maximum, limits.maximum_packet_size) == (65535, 268_435_455)
        assert limits.retain_available
        await connection.disconnect()
    knobs = Personality(
        receive_maximum=7,
        maximum_packet_size=1000,
        retain_available=False,
        server_keep_alive=33,
        session_expiry=120,
    )
    async with ScriptedBroker(knobs) as broker:
        connection = await connect(broker.url)
        limits = connection.limits
        assert (limits.receive_maximum, limits.maximum_packet_size) == (7, 1000)
        assert not limits.retain_available
        await connection.disconnect()


async def test_the_keepalive_of_the_broker_is_obeyed() -> None:
    """It asks for 1 s in place of 60 s, and closes on who is silent for 1.5 s; the connection lives on pings."""
    async with ScriptedBroker(Personality(server_keep_alive=1)) as broker:
        connection = await connect(broker.url)
        await broker.wait_for(lambda: len(broker.connections[0].pings) >= 3, timeout=4)
        assert broker.connections[0].open
        await connection.disconnect()


@pytest.mark.parametrize("limit", [1, 5])
async def test_the_receive_maximum_is_reached_and_never_exceeded(limit: int) -> None:
    """Sixty messages through a window of so many; all are acknowledged."""
    knobs = Personality(receive_maximum=limit, enforce_receive_maximum=True, puback_delay_s=0.005, reorder_pubacks=3)
    async with ScriptedBroker(knobs) as broker:
        connection = await connect(broker.url)
        answers = []
        for number in range(60):
            assert await connection.room()
            answers.append(connection.send(Message("t", b"%d" % number)))
        assert set(await asyncio.gather(*answers)) == {0}
        assert broker.max_unacknowledged == limit
        assert [publish.payload for publish in broker.publishes] == [b"%d" % number for number in range(60)]
        await connection.disconnect()


@pytest.mark.parametrize("topic", ["t", "t" * 200], ids=["short", "long"])
async def test_what_is_larger_than_the_broker_accepts_is_not_sent(topic: str) -> None:
    """At every size around the limit either ``TooLargeError`` comes, or the packet fits; the connection lives on."""
    async with ScriptedBroker(Personality(maximum_packet_size=1000)) as broker:
        connection = await connect(broker.url)
        outcome = []
        for size in range(1000 - len(topic) - 90, 1010 - len(topic)):
            message = Message(topic, bytes(size), expiry_s=120, content_type="application/cloudevents+json")
            before = len(broker.publishes)
            try:
                answer = await connection.send(message)
            except TooLargeError:
                answer = None
                assert len(broker.publishes) == before
            assert answer in {0, None}
            assert broker.connections[0].open, f"{size} bytes ended the connection"
            outcome.append(answer == 0)
        assert outcome == sorted(outcome, reverse=True)
        assert (outcome[0], outcome[-1]) == (True, False)
        with pytest.raises(TooLargeError, match=f"{topic}: .*the broker accepts 1000"):
            await connection.send(Message(topic, bytes(1000)))
        assert broker.too_large == 0
        assert await connection.send(Message("t", b"x")) == 0
        await connection.disconnect()


async def test_a_broker_that_retains_nothing_is_not_asked_to() -> None:
    """The flag is not sent: it would be answered with the end of the connection."""
    async with ScriptedBroker(Personality(retain_available=False, close_on_retained_publish=True)) as broker:
        connection = await connect(broker.url)
        assert await connection.send(Message("t", b"x", retain=True)) == 0
        assert not broker.publishes[0].retain
        await connection.disconnect()


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever is done here, neither the libraries nor asyncio have anything to say of their own."""
    yield
    noise = [record for record in caplog.records if record.levelno >= logging.ERROR]
    gc.collect()  # sockets that are left to the garbage collector do not fail a later test: one test here counts them
    assert noise == []


async def test_a_renewed_password_is_used_at_the_next_connection() -> None:
    """Without a restart: secrets rotate while the agent runs; one that cannot be read is an attempt that failed."""
    passwords = iter(["old", "new"])

    def password() -> str:
        try:
            return next(passwords)
        except StopIteration:
            raise ConfigError([ConfigProblem("/secret", "mqtt.password_file", "gone")]) from None

    async with ScriptedBroker() as broker:
        login = Login("c", seconds(60), seconds(0), seconds(0), Tls(), username="u", password=password)
        connector = MqttConnector(login, clock=SystemClock())
        attempt = Attempt(parse_broker_url(broker.url), 5, will_retained=True, wait=seconds(0))
        for _ in range(2):
            connection = await connector.connect(attempt, None)
            await connection.disconnect()
        assert [one.connect.password for one in broker.connections] == [b"old", b"new"]
        with pytest.raises(ConnectFailedError, match="gone"):
            await connector.connect(attempt, None)
