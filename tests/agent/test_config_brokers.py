"""Changes from the cloud over brokers that move, refuse, forget or speak 3.1.1, and logins that cannot be used."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Final

import pytest

from edge_agent.ports import Message
from tests.agent.test_config_kills import OPEN, device, nowhere
from tests.agent.test_configuration import DOWN, UP, told
from tests.support.agents import HEARTBEAT, agent, config_text, observer
from tests.support.brokers import mosquitto
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
