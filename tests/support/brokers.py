"""Real MQTT servers as child processes, and certificates for them.

``async with mosquitto(tmp_path) as broker:`` gives a broker that answers on ``broker.port``; it can be killed, stopped
and started again on the same port, and is gone when the block ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import errno
import getpass
import ipaddress
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOOPBACK: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 15.0
# CONNECT with client id "probe" and a clean session, then DISCONNECT; by protocol level.
_PROBE: Final = {
    4: b"\x10\x11\x00\x04MQTT\x04\x02\x00\x3c\x00\x05probe\xe0\x00",
    5: b"\x10\x12\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x05probe\xe0\x00",
}
_CONNACK: Final = 0x20


_OURS: Final = range(10_000, 32_000)  # below what Linux gives to whoever asks for any port (ip(7))
_FIRST: Final = os.getpid() * 4_001 % len(_OURS)  # far apart for neighbouring processes, such as a test run's workers
_PORTS: Final[Iterator[int]] = itertools.cycle([*_OURS[_FIRST:], *_OURS[:_FIRST]])


def free_port(host: str = LOOPBACK, kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """Return a port that nobody listens on, nor soon will: it stays free while a broker that had it is away."""
    for port in _PORTS:
        with socket.socket(type=kind) as probe:
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            return port
    raise AssertionError("the ports are endless")


def missing(reason: str) -> NoReturn:
    """Skip the running test, or fail it where everything must be there (env CI)."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def require(binary: str, package: str) -> str:
    """Return the path of a program, or skip the running test."""
    path = shutil.which(binary) or shutil.which(binary, path="/usr/sbin:/sbin")
    if path is None:
        missing(f"{binary} is not installed: apt-get install {package}")
    return path


class RealBroker:
    """One MQTT server in a child process.

    Attributes:
        port: the plain MQTT port.
        tls_port: the TLS port; 0 without TLS.
        state_dir: what the server keeps on disk.
        log_path: what it wrote to stdout and stderr.
    """

    def __init__(
        self, argv: Sequence[str], *, port: int, directory: Path, level: int, host: str = LOOPBACK, tls_port: int = 0
    ) -> None:
        self.argv = list(argv)
        self.host = host
        self.port = port
        self.tls_port = tls_port
        self.state_dir = directory / "state"
        self.log_path = directory / "log"
        self._level = level
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """``mqtt://HOST:PORT``."""
        return f"mqtt://{self.host}:{self.port}"

    @property
    def tls_url(self) -> str:
        """``mqtts://localhost:PORT``."""
        return f"mqtts://localhost:{self.tls_port}"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None, "the broker is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What the server has written so far."""
        return self.log_path.read_text(errors="replace")

    async def start(self, *, fresh: bool = False) -> None:
        """Start the server and wait until it answers MQTT; ``fresh`` empties its state first."""
        assert not self.running, "the broker is running"
        if fresh:
            shutil.rmtree(self.state_dir)
        self.state_dir.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.argv, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, cwd=self.state_dir
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not await asyncio.to_thread(self._answers):
            if self._process.poll() is not None or time.monotonic() > deadline:
                await self.kill()
                raise RuntimeError(f"{self.argv[0]} did not answer on port {self.port}:\n{self.log[-2000:]}")

    async def kill(self) -> None:
        """End it with SIGKILL, as a power cut does."""
        if self._process is not None:
            self._process.kill()
            await self._reap()

    async def stop(self) -> None:
        """End it with SIGTERM, then SIGKILL."""
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, STOP_TIMEOUT_S)
        await self.kill()

    async def _reap(self) -> None:
        assert self._process is not None
        process, self._process = self._process, None
        if process.stdin is not None:
            process.stdin.close()
        await asyncio.to_thread(process.wait)

    def _answers(self) -> bool:
        """Return whether a CONNECT is answered by a CONNACK, whatever it says; wait a little if not."""
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), timeout=5.0) as probe:
            probe.sendall(_PROBE[self._level])
            if probe.recv(1) == bytes([_CONNACK]):
                return True
        time.sleep(0.02)
        return False


@contextlib.asynccontextmanager
async def _running(broker: RealBroker) -> AsyncIterator[RealBroker]:
    try:
        await broker.start()
        yield broker
    finally:
        await broker.stop()


def _directory(tmp_path: Path, name: str, port: int) -> Path:
    directory = tmp_path / f"{name}-{port}"
    directory.mkdir()
    return directory


@contextlib.asynccontextmanager
async def mosquitto(
    tmp_path: Path,
    *,
    port: int | None = None,
    host: str = LOOPBACK,
    config_lines: Sequence[str] = (),
    anonymous: bool = True,
    persistence: bool = True,
    tls: TlsFiles | None = None,
    require_client_cert: bool = False,
    command_prefix: Sequence[str] = (),
) -> AsyncIterator[RealBroker]:
    """Run mosquitto.

    Args:
        tmp_path: where its files go.
        port: the plain port; a free one by default.
        host: the address of its listeners.
        config_lines: more lines of its configuration; those of a listener belong to the plain one.
        anonymous: whether clients without a user name are let in.
        persistence: whether it keeps its state; it writes it when it stops, not when it is killed.
        tls: certificates; adds a second listener, ``tls_port``.
        require_client_cert: whether the TLS listener asks for a client certificate; its CN is then the user name.
        command_prefix: what stands before the command (``Namespace.prefix``).
    """
    binary = require("mosquitto", "mosquitto")
    port = port or free_port()
    directory = _directory(tmp_path, "mosquitto", port)
    tls_port = free_port() if tls else 0
    lines = [
        f"user {getpass.getuser()}",  # started as root it would become the user mosquitto, who may not write here
        "log_type all",
        f"allow_anonymous {str(anonymous).lower()}",
        f"persistence {str(persistence).lower()}",
        f"persistence_location {directory}/state/",
        f"listener {port} {host}",
        *config_lines,
    ]
    if tls:
        lines += [
            f"listener {tls_port} {host}",
            f"cafile {tls.ca}",
            f"certfile {tls.server_cert}",
            f"keyfile {tls.server_key}",
            f"require_certificate {str(require_client_cert).lower()}",
            f"use_identity_as_username {str(require_client_cert).lower()}",
        ]
    config = directory / "mosquitto.conf"
    config.write_text("\n".join(lines) + "\n")
    argv = [*command_prefix, binary, "-c", str(config)]
    broker = RealBroker(argv, port=port, directory=directory, level=5, host=host, tls_port=tls_port)
    async with _running(broker):
        yield broker


@contextlib.asynccontextmanager
async def nats(tmp_path: Path, *, port: int | None = None) -> AsyncIterator[RealBroker]:
    """Run nats-server with JetStream and its MQTT 3.1.1 listener, which retains and redelivers but knows no MQTT 5."""
    binary = require("nats-server", "nats-server")
    port = port or free_port()
    directory = _directory(tmp_path, "nats", port)
    config = directory / "nats.conf"
    config.write_text(
        f'server_name: "test"\nhost: "{LOOPBACK}"\nport: {free_port()}\n'
        f'jetstream {{ store_dir: "{directory}/state", max_memory_store: 64MB, max_file_store: 256MB }}\n'
        f'mqtt {{ host: "{LOOPBACK}", port: {port}, ack_wait: "1s" }}\n'
    )
    async with _running(RealBroker([binary, "-c", str(config)], port=port, directory=directory, level=4)) as broker:
        yield broker


@contextlib.asynccontextmanager
async def iotcore(tmp_path: Path, *, port: int | None = None) -> AsyncIterator[RealBroker]:
    """Run iotcore, the demo's broker, with an MQTT 5 listener; it keeps nothing on disk."""
    port = port or free_port()
    directory = _directory(tmp_path, "iotcore", port)
    config = directory / "iotcore.toml"
    config.write_text(
        "id = 0\n"
        "[router]\nid = 0\nmax_connections = 100\nmax_outgoing_packet_count = 200\n"
        "max_segment_size = 1048576\nmax_segment_count = 4\n"
        f'[v5.1]\nname = "v5"\nlisten = "{LOOPBACK}:{port}"\nnext_connection_delay_ms = 1\n'
        "[v5.1.connections]\nconnection_timeout_ms = 5000\nmax_payload_size = 262144\nmax_inflight_count = 100\n"
        "dynamic_filters = true\n"
    )
    options = json.dumps({"config_path": str(config), "listen": LOOPBACK, "port": port})
    argv = [sys.executable, "-m", "iotcore._serve", options]  # ends by itself when its stdin does
    async with _running(RealBroker(argv, port=port, directory=directory, level=5)) as broker:
        yield broker


# ---------------------------------------------------------------- certificates
@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files: one authority with a server's and a client's certificate, and a second, unrelated one."""

    ca: Path
    server_cert: Path
    server_key: Path
    client_cert: Path
    client_key: Path
    other_ca: Path
    client_cn: str


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(subject: str, issuer: str, key: ec.EllipticCurvePrivateKey, *, days: int = 0) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=30))
    )


def _write(path: Path, thing: x509.Certificate | ec.EllipticCurvePrivateKey) -> Path:
    pem = serialization.Encoding.PEM
    if isinstance(thing, x509.Certificate):
        path.write_bytes(thing.public_bytes(pem))
    else:
        plain = serialization.NoEncryption()
        path.write_bytes(thing.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
        path.chmod(0o600)
    return path


def _authority(path: Path, name: str) -> tuple[Path, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        _builder(name, name, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return _write(path, certificate), key


def tls_files(tmp_path: Path, *, client_cn: str = "gw-0042", server_days: int = 0) -> TlsFiles:
    """Make an authority, a certificate for localhost and 127.0.0.1, a client's, and an unrelated authority.

    The server's is valid from ``server_days`` days from now on, for a month.
    """
    folder = tmp_path / "tls"
    folder.mkdir()
    ca, ca_key = _authority(folder / "ca.pem", "test authority")
    other_ca, _ = _authority(folder / "other-ca.pem", "another authority")
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    paths: dict[str, Path] = {}
    purposes = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}
    for who, purpose in purposes.items():
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(
                "localhost" if who == "server" else client_cn,
                "test authority",
                key,
                days=server_days if who == "server" else 0,
            )
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(issuer, critical=False)
        )
        if who == "server":
            names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(LOOPBACK))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        paths[f"{who}_cert"] = _write(folder / f"{who}.pem", builder.sign(ca_key, hashes.SHA256()))
        paths[f"{who}_key"] = _write(folder / f"{who}.key", key)
    return TlsFiles(ca=ca, other_ca=other_ca, client_cn=client_cn, **paths)
