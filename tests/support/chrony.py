"""Debian's chronyd as a server of the host's own clock, which it leaves alone (``-x``)."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

from tests.support.brokers import LOOPBACK, free_port, require
from tests.support.ntp_server import HEADER

START_TIMEOUT_S: Final = 30.0
_REQUEST: Final = b"\x23" + bytes(39) + b"\x01" * 8


def free_udp_port(host: str = LOOPBACK) -> int:
    """Return a UDP port that nobody listens on."""
    return free_port(host, socket.SOCK_DGRAM)


@contextlib.asynccontextmanager
async def chronyd(
    tmp_path: Path, *, host: str = LOOPBACK, port: int | None = None, command_prefix: Sequence[str] = ()
) -> AsyncIterator[str]:
    """Run chronyd and yield ``HOST:PORT``, where it answers.

    Args:
        tmp_path: where its files go.
        host: the address it listens on.
        port: the port; a free one by default.
        command_prefix: what stands before the command (``Namespace.prefix``); its address must be reachable from here.
    """
    binary = require("chronyd", "chrony")
    port = port or free_udp_port(host)
    config = tmp_path / f"chrony-{port}.conf"
    log = tmp_path / f"chrony-{port}.log"
    lines = ["local stratum 1", f"port {port}", f"bindaddress {host}", "allow", "cmdport 0", "bindcmdaddress /"]
    config.write_text("\n".join([*lines, f"pidfile {tmp_path}/chrony-{port}.pid", ""]))
    argv = [*command_prefix, binary, "-d", "-x", "-U", "-u", getpass.getuser(), "-f", str(config)]
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not await asyncio.to_thread(_answers, host, port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"chronyd does not answer on port {port}:\n{log.read_text()[-2000:]}")
        yield f"{host}:{port}"
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, 5)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)


def _answers(host: str, port: int) -> bool:
    """Return whether a request is answered with a time."""
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        probe.settimeout(0.2)
        probe.connect((host, port))
        try:
            probe.send(_REQUEST)
            reply = probe.recv(2048)
        except ConnectionRefusedError:
            time.sleep(0.02)
            return False
        except TimeoutError:
            return False
    return len(reply) >= HEADER.size and reply[0] >> 6 != 3
