"""The real servers: each starts, accepts, dies and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import aiomqtt
import pytest

from tests.support.brokers import RealBroker, free_port, iotcore, mosquitto, nats, require, tls_files

pytestmark = pytest.mark.broker

V5 = aiomqtt.ProtocolVersion.V5
V311 = aiomqtt.ProtocolVersion.V311
Start = Callable[[Path], contextlib.AbstractAsyncContextManager[RealBroker]]


def _first_byte_over_tls(port: int, context: ssl.SSLContext) -> bytes:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        return secured.recv(1)  # TLS 1.3 tells a client that it lacks a certificate only now


async def _round_trip(port: int, protocol: aiomqtt.ProtocolVersion, topic: str) -> bytes:
    async with aiomqtt.Client("127.0.0.1", port, protocol=protocol, timeout=10) as client:
        await client.subscribe(topic, qos=1)
        await client.publish(topic, b"hello", qos=1)
        message = await anext(aiter(client.messages))
        assert isinstance(message.payload, bytes)
        return message.payload


@pytest.mark.parametrize(("start", "protocol"), [(mosquitto, V5), (mosquitto, V311), (nats, V311), (iotcore, V5)])
async def test_a_server_accepts_dies_and_comes_back(
    start: Start, protocol: aiomqtt.ProtocolVersion, tmp_path: Path
) -> None:
    """A message makes the round trip before a SIGKILL and after the restart on the same port; no process is left."""
    async with start(tmp_path) as broker:
        port, pid = broker.port, broker.pid
        assert await _round_trip(port, protocol, "a/b") == b"hello"
        await broker.kill()
        assert not broker.running
        assert not Path(f"/proc/{pid}").exists()
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            pass
        await broker.start()
        assert broker.port == port
        assert await _round_trip(port, protocol, "a/c") == b"hello"
        await broker.stop()
        await broker.start()
        pid = broker.pid
    assert not Path(f"/proc/{pid}").exists()


async def test_mosquitto_keeps_its_state_over_a_stop_unless_started_fresh(tmp_path: Path) -> None:
    """A retained message is there after a restart, and gone after a fresh one."""
    async with mosquitto(tmp_path) as broker:
        async with aiomqtt.Client("127.0.0.1", broker.port, protocol=V5) as client:
            await client.publish("kept", b"1", qos=1, retain=True)
        await broker.stop()
        await broker.start()
        async with aiomqtt.Client("127.0.0.1", broker.port, protocol=V5) as client:
            await client.subscribe("kept", qos=1)
            assert (await anext(aiter(client.messages))).retain
        await broker.stop()
        await broker.start(fresh=True)
        async with aiomqtt.Client("127.0.0.1", broker.port, protocol=V5) as client:
            await client.subscribe("#", qos=1)
            await client.publish("other", b"2", qos=1)
            assert str((await anext(aiter(client.messages))).topic) == "other"


async def test_mosquitto_demands_a_certificate_of_its_authority(tmp_path: Path) -> None:
    """TLS: the right files connect by name and by address, the wrong authority and a missing certificate do not."""
    files = tls_files(tmp_path)
    async with mosquitto(tmp_path, tls=files, require_client_cert=True) as broker:
        assert broker.tls_url == f"mqtts://localhost:{broker.tls_port}"
        for host in ("localhost", "127.0.0.1"):
            context = ssl.create_default_context(cafile=files.ca)
            context.load_cert_chain(files.client_cert, files.client_key)
            async with aiomqtt.Client(host, broker.tls_port, protocol=V5, tls_context=context) as client:
                await client.publish("t", b"x", qos=1)
        assert f"u'{files.client_cn}'" in broker.log
        for authority in (files.other_ca, files.ca):
            context = ssl.create_default_context(cafile=authority)
            with pytest.raises(ssl.SSLError):  # by hand: paho leaves the socket of a failed handshake open
                await asyncio.to_thread(_first_byte_over_tls, broker.tls_port, context)


async def test_mosquitto_takes_more_configuration(tmp_path: Path) -> None:
    """Lines of the test's own reach the listener; a server that refuses its configuration says why."""
    async with mosquitto(tmp_path, config_lines=["max_keepalive 17"], anonymous=False) as broker:
        with pytest.raises(aiomqtt.MqttError):
            async with aiomqtt.Client("127.0.0.1", broker.port, protocol=V5):
                pass
    with pytest.raises(RuntimeError, match="nonsense"):
        async with mosquitto(tmp_path, config_lines=["nonsense 1"]):
            pass


def test_a_free_port_is_free() -> None:
    """Nobody listens on it."""
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", free_port())):
        pass


def test_a_missing_program_skips_here_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason names the package to install."""
    monkeypatch.setattr("shutil.which", lambda *_args, **_kwargs: None)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install mosquitto"):
        require("mosquitto", "mosquitto")
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match="apt-get install mosquitto"):
        require("mosquitto", "mosquitto")
