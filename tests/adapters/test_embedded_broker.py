"""The demo's broker."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge_agent.adapters import embedded_broker
from edge_agent.adapters.mqtt_connector import Login, MqttConnector
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.core.config_models import Tls
from edge_agent.core.config_types import BrokerUrl
from edge_agent.core.connection import Attempt
from edge_agent.core.timebase import seconds
from edge_agent.errors import ConnectFailedError, EdgeAgentError
from edge_agent.ports import Connection, Message
from tests.support.brokers import free_port


@contextlib.asynccontextmanager
async def serving(tmp_path: Path) -> AsyncIterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run the module as the demo does."""
    port = free_port()
    argv = [sys.executable, "-m", "edge_agent.adapters.embedded_broker", str(port)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(argv, cwd=tmp_path, stdout=log, stderr=log)
    try:
        yield port, process
    finally:
        process.kill()
        process.wait()


async def connect(port: int, client_id: str) -> Connection:
    """Connect as soon as the broker is there."""
    login = Login(client_id, seconds(30), seconds(0), seconds(0), Tls())
    attempt = Attempt(BrokerUrl("mqtt", "127.0.0.1", port), 5, will_retained=False, wait=seconds(0))
    while True:
        try:
            return await MqttConnector(login, clock=SystemClock()).connect(attempt, None)
        except ConnectFailedError:
            await asyncio.sleep(0.05)


def test_it_listens_on_loopback_only_and_keeps_little() -> None:
    """The configuration is TOML with one MQTT 5 listener."""
    document = tomllib.loads(embedded_broker.configuration(1234))
    assert {name: one["listen"] for name, one in document["v5"].items()} == {"1": "127.0.0.1:1234"}
    assert "v4" not in document
    router = document["router"]
    assert router["max_segment_size"] * router["max_segment_count"] <= 4 << 20


async def test_it_delivers_and_keeps_its_memory_and_its_log_bounded(tmp_path: Path) -> None:
    """After 24 MB of messages it has not kept them, and it wrote nothing."""
    async with serving(tmp_path) as (port, process):
        publisher, subscriber = await connect(port, "p"), await connect(port, "s")
        assert await subscriber.subscribe_to(["edge/+/up/heartbeat"]) == [1]
        sent = publisher.send(Message("edge/a/up/heartbeat", b"first"))
        delivery = await subscriber.receive()
        assert delivery is not None
        assert delivery.payload == b"first"
        await subscriber.disconnect()
        before = rss_kb(process.pid)
        for _ in range(6000):
            assert await publisher.room()
            sent = publisher.send(Message("edge/a/up/heartbeat", bytes(4096)))
        assert await sent == 0
        assert rss_kb(process.pid) - before < 16_000
        await publisher.disconnect()
    assert (tmp_path / "log").read_bytes() == b""


def rss_kb(pid: int) -> int:
    """Return the resident memory of a process in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(EdgeAgentError, match=r"pip install 'edge-agent\[demo\]'"):
        embedded_broker.serve(1)
