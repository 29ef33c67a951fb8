"""Changes from the cloud over brokers that move, refuse, forget or speak 3.1.1, and logins that cannot be used."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from pathlib import Path
from typing import Any, Final

import pytest

from edge_agent.cli import main
from edge_agent.ports import Message
from tests.agent.test_config_kills import OPEN, device, nowhere
from tests.agent.test_configuration import DOWN, UP, desire, say, told
from tests.agent.test_jobs import inline
from tests.support.agents import HEARTBEAT, AgentProcess, agent, config_text, observer, toml
from tests.support.brokers import RealBroker, mosquitto, tls_files
from tests.support.feeding import UP as UP_ALL
from tests.support.feeding import Feeder
from tests.support.scripted_broker import Personality, ScriptedBroker

pytestmark = pytest.mark.broker
BAD: Final = b'{"version": 9, "config": {"programs": {}}}'


def wanted(version: int, **config: Any) -> bytes:  # noqa: ANN401  # as JSON has it
    """Return a configuration as the cloud says it."""
    return json.dumps({"version": version, "config": config}).encode()


def said(broker: ScriptedBroker) -> list[tuple[str, int | None]]:
    """Return what a device has said of configurations."""
    return [
        (data["state"], data["version"]) for data in (json.loads(one.payload)["data"] for one in broker.published(UP))
    ]


# ---------------------------------------------------------------- another broker
@pytest.mark.timeout_s(60)
async def test_a_move_to_a_broker_that_holds_something_bad_is_confirmed_all_the_same(tmp_path: Path) -> None:
    """What is wrong there is said; that the device can say it proves the move."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    async with (
        mosquitto(old) as first,
        mosquitto(new) as second,
        observer(first.url) as seen,
        observer(second.url) as there,
        device(tmp_path, first, seen) as one,
    ):
        await one.told("applied", None)
        await there.connection.send(Message(DOWN, BAD, retain=True))
        await one.desire(1, mqtt={"brokers": [second.url]})
        await told(there, "rejected", 9)
        await one.process.logged("config_confirmed", version=1)


@pytest.mark.timeout_s(60)
async def test_the_old_broker_confirms_nothing_while_the_device_leaves_it(tmp_path: Path) -> None:
    """It holds up the last record, and refuses heartbeats meanwhile, so that there is news to be told."""
    personality = Personality()
    async with (
        ScriptedBroker(personality) as broker,
        agent(tmp_path, config_text(broker.url, every="200ms", extra=OPEN)) as process,
    ):
        await broker.wait_for(lambda: ("applied", None) in said(broker))
        feeder = Feeder(tmp_path / "control.sock")
        personality.puback = lambda topic, _n: None if "/data/" in topic else 0
        feeding = asyncio.get_running_loop().create_task(feeder.put(1))
        await broker.wait_for(lambda: bool(broker.published(f"{UP_ALL}data/n")))
        broker.inject(DOWN, wanted(1, mqtt=nowhere()))
        await broker.wait_for(lambda: any(ack.topic == DOWN for ack in broker.connections[0].pubacks))  # it has begun
        personality.puback = lambda topic, _n: None if "/data/" in topic else 0x87 if topic == HEARTBEAT else 0
        await process.logged("config_rolled_back")
        assert not process.events("config_confirmed")
        personality.puback = lambda _topic, _n: 0
        await broker.wait_for(lambda: said(broker)[-1] == ("rolled_back", 1))
        await feeding
        assert len(broker.connections) == 2


# ---------------------------------------------------------------- brokers of all kinds
@pytest.mark.parametrize(
    ("personality", "reasons"),
    [
        (Personality(retain_available=False, close_on_retained_publish=True), ["retained_refused: messages"]),
        (Personality(puback=lambda topic, _n: 0x87 if topic == UP else 0), [f"refused: {UP} (0x87)"]),
        (Personality(close_on_topic=lambda topic: topic == UP), [f"topic_refused: {UP}"]),
        (Personality(refuse_v5="connack84"), []),
    ],
    ids=["retains-nothing", "refuses", "closes", "speaks-3.1.1"],
)
async def test_a_change_is_confirmed_whatever_the_broker_refuses(
    personality: Personality, reasons: list[str], tmp_path: Path
) -> None:
    """It is published live; health says what is refused."""
    async with (
        ScriptedBroker(personality) as broker,
        agent(tmp_path, config_text(broker.url, every="1s", extra=OPEN)) as process,
    ):
        await broker.wait_for(
            lambda: bool(process.events("health")) and process.events("health")[-1]["reasons"] == reasons
        )
        broker.inject(DOWN, wanted(1, heartbeat={"every": "200ms"}))
        await process.logged("config_confirmed", version=1)

        def is_in_force() -> bool:
            beat = json.loads(broker.published(HEARTBEAT)[-1].payload)["data"]
            return (beat["interval_s"], beat["config"]["version"]) == (0.2, 1)

        await broker.wait_for(is_in_force)
        assert process.events("health")[-1]["reasons"] == reasons
        assert len(process.events("config_applied")) == 1
        if UP not in "".join(reasons):
            await broker.wait_for(lambda: said(broker)[-2:] == [("pending_confirm", 1), ("applied", 1)])


@pytest.mark.parametrize("protocol", [4, 5])
async def test_the_same_in_both_protocols(protocol: int, tmp_path: Path) -> None:
    """What is retained comes again after a kill, and an empty payload takes it back."""
    async with (
        mosquitto(tmp_path) as broker,
        observer(broker.url) as seen,
        agent(tmp_path, config_text(broker.url, extra=OPEN, protocol=protocol)) as process,
    ):
        before = await told(seen, "applied", None)
        await desire(seen, 1, heartbeat={"every": "300ms"})
        await told(seen, "applied", 1)
        process.signal(signal.SIGKILL)
        await process.wait()
        at = time.monotonic()
        process.start()
        await told(seen, "applied", 1, after=at)
        at = await say(seen, b"")
        assert (await told(seen, "applied", None, after=at))["digest"] == before["digest"]
        assert {event["protocol"] for event in process.events("connected")} == {protocol}


# ---------------------------------------------------------------- logins
async def test_a_login_that_cannot_be_used_changes_nothing_and_is_said_as_check_says_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A password that is not there or is no file, and an authority that is none; then one that is good."""
    tls = tls_files(tmp_path)
    (tmp_path / "password").write_text("secret")
    (tmp_path / "nonsense.pem").write_text("nonsense")
    good = {"username": "u", "password_file": str(tmp_path / "password"), "tls": {"ca": str(tls.other_ca)}}
    bad = [
        good | {"password_file": str(tmp_path / "missing")},
        good | {"password_file": str(tmp_path)},
        good | {"tls": {"ca": str(tmp_path / "nonsense.pem")}},
        good | {"tls": {"ca": str(tmp_path / "missing.pem")}},
        good | {"tls": {"cert": str(tls.client_cert), "key": str(tls.server_key)}},
    ]
    async with mosquitto(tmp_path, tls=tls) as broker, observer(broker.url) as seen:
        text = config_text(broker.tls_url).replace("brokers", f"tls = {{ ca = {toml(str(tls.ca))} }}\nbrokers")
        async with agent(tmp_path, text) as process:
            beat = await seen.wait(HEARTBEAT)
            for login in bad:
                before = len(process.events("config_rejected"))
                put(process, broker, login)
                assert main(["check", "--json", "--config", str(process.config)]) == 78
                problems = json.loads(capsys.readouterr().out)["problems"]
                logged = await process.logged("config_rejected", before + len(problems))
                assert [{key: line[key] for key in problems[0]} for line in logged[before:]] == problems
            last = await seen.wait(HEARTBEAT, after=time.monotonic(), count=2)
            assert (last.data["session"], last.data["config"]) == (beat.data["session"], beat.data["config"])
            assert len(process.events("connected")) == 1
            put(process, broker, good | {"tls": {"ca": str(tls.ca)}})
            await process.logged("connected", 2)
            assert process.events("config_applied")[-1]["restarted"] == ["link", "drain"]


def put(process: AgentProcess, broker: RealBroker, login: dict[str, Any]) -> None:
    """Edit how an agent logs in."""
    lines = "".join(f"{key} = {inline(value)}\n" for key, value in login.items())
    process.config.write_text(config_text(broker.tls_url) + lines)
