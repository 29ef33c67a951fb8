"""Configuration on a real agent with a real broker: from files, from the cloud, and back."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edge_agent.ports import Message
from tests.core.test_events import schema_of
from tests.support.agents import DEVICE, HEARTBEAT, Observer, Seen, agent, config_text, observer
from tests.support.brokers import free_port, mosquitto

UP, DOWN = f"edge/{DEVICE}/up/config", f"edge/{DEVICE}/down/config"
EVENT = f"edge/{DEVICE}/up/event/config"


async def desire(seen: Observer, version: int, **config: Any) -> float:  # noqa: ANN401  # as JSON has it
    """Publish a configuration as the cloud does; return when."""
    return await say(seen, json.dumps({"version": version, "config": config}).encode())


async def say(seen: Observer, payload: bytes, *, retain: bool = True) -> float:
    """Publish something on the topic of the configuration; return when."""
    at = time.monotonic()
    await seen.connection.send(Message(DOWN, payload, retain=retain))
    return at


async def told(seen: Observer, state: str, version: int | None, *, after: float = 0) -> dict[str, Any]:
    """Wait until the device says what has become of a version."""

    def found() -> list[Seen]:
        return [one for one in seen.on(UP, after=after) if (one.data["state"], one.data["version"]) == (state, version)]

    return fitting(await seen.until(found))


def fitting(one: Seen) -> dict[str, Any]:
    """Return the data of an event, which fits the schema that ships."""
    event = json.loads(one.payload)
    jsonschema.validate(event, schema_of(event["type"]), format_checker=jsonschema.FormatChecker())
    return dict(event["data"])


async def test_the_cloud_changes_what_it_may_and_it_is_confirmed(tmp_path: Path) -> None:
    """On trial, then applied; the session lives on; the event names the keys; the layer goes with an empty payload."""
    async with (
        mosquitto(tmp_path) as broker,
        observer(broker.url) as seen,
        agent(tmp_path, config_text(broker.url, every="10s")) as process,
    ):
        before = await told(seen, "applied", None)
        beat = await seen.wait(HEARTBEAT)
        await desire(seen, 1, heartbeat={"every": "200ms", "colour": "red"}, log={"level": "info"}, moon={"x": 1})
        pending = await told(seen, "pending_confirm", 1)
        applied = await told(seen, "applied", 1)
        assert pending["ignored"] == applied["ignored"] == ["moon", "heartbeat.colour"]
        assert applied["digest"] != before["digest"]
        await process.logged("config_confirmed", version=1)
        faster = await seen.wait(HEARTBEAT, count=4)
        assert faster.data["session"] == beat.data["session"]
        assert faster.data["config"] == {"digest": applied["digest"], "version": 1}
        event = fitting(await seen.wait(EVENT, count=1))
        (change,) = event["changes"]
        assert (event["what"], event["by"]) == ("applied", "cloud")
        assert change == {"key": "heartbeat.every", "before": "10s", "after": "200ms"}

        at = await say(seen, b"")
        assert (await told(seen, "applied", None, after=at))["digest"] == before["digest"]
        at = await desire(seen, 1, heartbeat={"every": "200ms", "colour": "red"}, log={"level": "info"}, moon={"x": 1})
        assert (await told(seen, "rejected", 1, after=at))["errors"][0]["key"] == "version"


async def test_it_is_said_by_key_why_a_version_is_rejected(tmp_path: Path) -> None:
    """What is not open, what is invalid, what was said before; the agent goes on as it was."""
    async with (
        mosquitto(tmp_path) as broker,
        observer(broker.url) as seen,
        agent(tmp_path, config_text(broker.url)) as process,
    ):
        before = await told(seen, "applied", None)
        await desire(seen, 1, mqtt={"brokers": ["mqtt://other"]}, programs={"x": {"argv": ["/bin/sh"]}})
        wrong = await told(seen, "rejected", 1)
        assert [error["key"] for error in wrong["errors"]] == ["mqtt", "programs"]
        assert wrong["digest"] == before["digest"]
        await desire(seen, 2, heartbeat={"every": "1ms"}, jobs={"j": {"kind": "exec", "every": "x"}})
        wrong = await told(seen, "rejected", 2)
        assert [error["key"] for error in wrong["errors"]] == ["heartbeat.every", "jobs.j.every"]
        await desire(seen, 3, heartbeat={"every": "500ms"})
        await told(seen, "applied", 3)
        at = await desire(seen, 3, heartbeat={"every": "600ms"})
        assert "larger" in (await told(seen, "rejected", 3, after=at))["errors"][0]["reason"]
        at = await desire(seen, 3, heartbeat={"every": "500ms"})
        await told(seen, "applied", 3, after=at)
        await desire(seen, 2, heartbeat={"every": "700ms"})
        await process.logged("config_outdated", version=2)
        for nonsense in (b"[", b"[]", b'{"version": 0, "config": {}}', b'{"version": 9}', b"eyJ.e30.AA", b"[" * 5000):
            at = await say(seen, nonsense, retain=False)
            await seen.wait(UP, after=at)
        assert len(process.events("connected")) == 1


@pytest.mark.timeout_s(60)
async def test_a_change_that_cuts_the_device_off_is_taken_back(tmp_path: Path) -> None:
    """The broker's address is wrong: within the timeout it is back where it was, and says why by key."""
    extra = '[config]\nremote = ["mqtt"]\nconfirm_timeout = "10s"\n'
    async with (
        mosquitto(tmp_path) as broker,
        observer(broker.url) as seen,
        agent(tmp_path, config_text(broker.url, extra=extra)) as process,
    ):
        before = await told(seen, "applied", None)
        at = await desire(seen, 1, mqtt={"brokers": [f"mqtt://127.0.0.1:{free_port()}"]})
        back = await told(seen, "rolled_back", 1)
        assert time.monotonic() - at < 10 + 10
        assert back["digest"] == before["digest"]
        (error,) = back["errors"]
        assert error["key"] == "mqtt.brokers"
        assert "within 10s" in error["reason"]
        process.signal(signal.SIGKILL)
        await process.wait()
        at = time.monotonic()
        process.start()
        await told(seen, "rolled_back", 1, after=at)
        await asyncio.sleep(2)  # the retained message comes again: it must not be begun anew
        assert [one.data["state"] for one in seen.on(UP, after=at)] == ["rolled_back"]


@pytest.mark.timeout_s(90)
async def test_a_version_with_which_the_device_is_not_heard_is_taken_back(tmp_path: Path) -> None:
    """The broker lets it in and refuses what it says there: that confirms nothing; nor does going back to it."""
    extra = '[config]\nremote = ["mqtt"]\nconfirm_timeout = "10s"\n'
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite edge/#\n")
    async with (
        mosquitto(tmp_path, config_lines=[f"acl_file {acl}"]) as broker,
        observer(broker.url) as seen,
        agent(tmp_path, config_text(broker.url, extra=extra)) as process,
    ):
        before = await told(seen, "applied", None)
        await desire(seen, 1, mqtt={"prefix": "elsewhere"})
        await process.logged("config_applied", by="cloud")
        back = await told(seen, "rolled_back", 1)
        assert back["digest"] == before["digest"]
        assert not process.events("config_confirmed")
        bad = process.events("config_applied", by="cloud")[0]["config"]
        tool = [sys.executable, "-m", "edge_agent", "config", "rollback", "--config", str(process.config)]
        refused = await asyncio.to_thread(subprocess.run, tool, capture_output=True, check=False)
        assert refused.returncode == 1  # what was before is what was taken back
        gone = await asyncio.to_thread(subprocess.run, [*tool, bad], capture_output=True, check=False)
        assert gone.returncode == 0
        at = time.monotonic()
        assert (await told(seen, "rolled_back", 1, after=at))["digest"] == before["digest"]


async def test_a_change_made_while_it_was_stopped_is_told(tmp_path: Path) -> None:
    """By an event, and in the history, with its keys."""
    async with (
        mosquitto(tmp_path) as broker,
        observer(broker.url) as seen,
        agent(tmp_path, config_text(broker.url, every="1s")) as process,
    ):
        await seen.wait(HEARTBEAT)
        process.signal(signal.SIGTERM)
        await process.wait()
        process.config.write_text(config_text(broker.url, every="2s"))
        process.start()
        event = (await seen.wait(EVENT)).data
        assert (event["what"], event["by"]) == ("applied", "files")
        assert event["changes"] == [{"key": "heartbeat.every", "before": "1s", "after": "2s"}]
