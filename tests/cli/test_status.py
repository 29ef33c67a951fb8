"""The verb status, as a process of its own, on a running agent."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.cli.test_queue import edge_agent
from tests.support.agents import HEARTBEAT, agent, config_text, observer
from tests.support.brokers import free_port, mosquitto


async def test_it_shows_how_the_agent_is(tmp_path: Path) -> None:
    """Connection, clock, outbox, jobs, configuration; for programs the heartbeat's data and the connection."""
    async with (
        mosquitto(tmp_path) as broker,
        observer(broker.url) as seen,
        agent(tmp_path, config_text(broker.url)) as process,
    ):
        beat = (await seen.wait(HEARTBEAT)).data
        code, out, _ = await edge_agent(process, "status")
        assert code == 0
        titles = [line.split()[0] for line in out.splitlines()]
        assert titles == ["agent", "connection", "clock", "outbox", "jobs", "config"]
        assert re.search(rf"^agent +edge-agent \S+, up \d+s, process {process.pid}, \d+\.\d MiB$", out, re.MULTILINE)
        assert re.search(rf"^connection +connected to {broker.url}, MQTT 5, since 20\S+Z$", out, re.MULTILINE)
        assert re.search(r"^clock +os, by no server$", out, re.MULTILINE)
        assert re.search(r"^outbox +0 records wait, 0 B; 0 B sent, 0 dropped$", out, re.MULTILINE)
        assert re.search(r"^jobs +0 ok, 0 failed, 0 missed, 0 skipped$", out, re.MULTILINE)
        since = r"in force since 20\S+Z; last changed 20\S+Z by start"
        assert re.search(rf"^config +{beat['config']['digest']}, {since}$", out, re.MULTILINE)
        code, out, _ = await edge_agent(process, "status", "--json")
        found = json.loads(out)
        assert set(beat) < set(found)
        assert found["connection"]["broker"] == broker.url
        assert found["session"] == beat["session"]


async def test_without_a_broker_it_says_that_it_is_offline(tmp_path: Path) -> None:
    """And without an agent that it is not there."""
    async with agent(tmp_path, config_text(f"mqtt://127.0.0.1:{free_port()}")) as process:
        await process.logged("started")
        _, out, _ = await edge_agent(process, "status")
        assert re.search(r"^connection +offline$", out, re.MULTILINE)
        assert process.process is not None
        process.process.kill()
        process.process.wait()
        code, out, err = await edge_agent(process, "status")
        assert (code, out, len(err.splitlines())) == (69, "", 1)
