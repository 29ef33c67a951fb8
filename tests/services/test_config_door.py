"""Configuration over MQTT: what arrives, and what is said of it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from edge_agent.adapters import jose
from edge_agent.core.authority import Authority
from edge_agent.core.config_models import Commands
from edge_agent.ports import Message
from edge_agent.services.config_door import ConfigDoor
from tests.fakes import FakeBroker, fake_link
from tests.support.configuring import HEAD, WITHIN_S, Counter, Device
from tests.support.tokens import Key

pytestmark = pytest.mark.virtual

UP, DOWN = "edge/dev-1/up/config", "edge/dev-1/down/config"
OPS, FLEET = Key("ops"), Key("fleet")


class Online(Device):
    """A device with its door, its link and a broker."""

    def __init__(self, root: Path, broker: FakeBroker, keys: dict[str, Any]) -> None:
        (root / "edge-agent.toml").write_text(HEAD)
        super().__init__(root, Counter(asyncio.get_running_loop()))
        self.begin()
        self.broker = broker
        self.link, topics = fake_link(broker, clock=self.clock)
        section = Commands.model_validate({"keys": keys})
        authority = Authority(section, "dev-1", ["plant"], jose.verify if keys else None)
        self.door = ConfigDoor(self.configuring, topics, lambda: authority, self.clock)
        self.link.doors = [self.door]
        self.configuring.changed = self.link.review

    async def go_online(self) -> None:
        """Start, and connect."""
        await self.start()
        self.linking = asyncio.get_running_loop().create_task(self.link.run())
        await self.link.session()
        await asyncio.sleep(0.1)

    async def end(self) -> None:
        """Be gone."""
        self.linking.cancel()
        await asyncio.wait((self.linking,))
        await self.kill()

    def hear(self, payload: bytes | dict[str, Any]) -> None:
        """Have the cloud say something."""
        text = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.broker.route(Message(DOWN, text, retain=True))

    def told(self) -> list[tuple[int | None, str]]:
        """Return what the cloud was told, in order."""
        events = [json.loads(message.payload) for message in self.broker.log if message.topic == UP]
        assert all(event["type"] == "edge.config.v1" for event in events)
        return [(event["data"]["version"], event["data"]["state"]) for event in events]

    @property
    def unacknowledged(self) -> int:
        """So many messages the broker would deliver once more."""
        return sum(len(session.unacknowledged) for session in self.broker.sessions.values())


def version(number: int, every: str = "5s") -> dict[str, Any]:
    """Return what the cloud says."""
    return {"version": number, "config": {"heartbeat": {"every": every}}}


async def online(root: Path, broker: FakeBroker | None = None, *, keys: dict[str, Any] | None = None) -> Online:
    """Return a device that is connected."""
    one = Online(root, broker or FakeBroker(), keys or {})
    await one.go_online()
    return one


async def test_on_each_connection_it_is_said_what_counts(tmp_path: Path) -> None:
    """Retained; and after that only what is news."""
    one = await online(tmp_path)
    assert one.told() == [(None, "applied")]
    assert json.loads(one.broker.retained[UP])["data"]["digest"] == one.configuring.now.loaded.digest
    one.link.review()
    await asyncio.sleep(1)
    assert one.told() == [(None, "applied")]
    one.broker.cut()
    await one.link.session()
    await asyncio.sleep(90)
    assert one.told() == [(None, "applied")] * 2
    await one.end()


async def test_what_arrives_is_tried_acknowledged_and_confirmed(tmp_path: Path) -> None:
    """The session lives on."""
    one = await online(tmp_path)
    one.hear(version(1))
    await asyncio.sleep(0.1)
    assert one.told() == [(None, "applied"), (1, "pending_confirm"), (1, "applied")]
    assert (one.every, one.unacknowledged) == (5, 0)
    one.hear(b" \n")
    await asyncio.sleep(5)
    assert one.told()[3:] == [(None, "pending_confirm"), (None, "applied")]
    assert (one.every, len(one.broker.attempts)) == (60, 1)
    await one.end()


@pytest.mark.parametrize(
    ("payload", "number"),
    [
        (b"[", None),
        (b"[]", None),
        (b"\xff\xfe", None),
        (b"{}", None),
        (b'{"version": 9}', 9),
        (b'{"version": true, "config": {}}', None),
        (b'{"version": 0, "config": {}}', 0),
        (b'{"version": 4, "config": {"heartbeat": {"every": "1ms"}}}', 4),
        (b'{"version": 4, "config": {"mqtt": {}}}', 4),
        (b"[" * 100_000, None),
        (b'{"version": 5, "config": ' + b'{"a":' * 900 + b"1" + b"}" * 901, 5),
        (b'{"version": 6, "config": {"x": "' + b"x" * (1 << 20) + b'"}}', None),
        (b"e" * (3 << 20), None),
        (b"eyJ.e30.AA", None),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_nonsense_is_acknowledged_and_said_to_be_rejected(
    payload: bytes, number: int | None, tmp_path: Path
) -> None:
    """It changes nothing, and the next good one counts."""
    one = await online(tmp_path)
    one.hear(payload)
    await asyncio.sleep(2)
    assert one.told()[1:] == [(number, "rejected")]
    assert (one.every, one.unacknowledged, len(one.broker.attempts)) == (60, 0, 1)
    one.hear(version(7))
    await asyncio.sleep(2)
    assert one.told()[-1] == (7, "applied")
    await one.end()


async def test_a_flood_costs_ever_fewer_changes(tmp_path: Path) -> None:
    """The newest counts, all are acknowledged, and what was overtaken is skipped."""
    one = await online(tmp_path)
    for number in range(1, 301):
        one.hear(version(number, f"{number}s"))
    await asyncio.sleep(0.5)
    assert len(one.used) <= 3
    await asyncio.sleep(2)
    assert (one.every, one.unacknowledged) == (300, 0)
    for number in range(301, 401):
        one.hear(version(number, f"{number}s"))
        await asyncio.sleep(0.05)
    assert len(one.used) <= 3 + 3
    await asyncio.sleep(10)
    assert (one.every, one.unacknowledged, one.told()[-1]) == (400, 0, (400, "applied"))
    await one.end()


async def test_other_topics_are_somebody_else_s(tmp_path: Path) -> None:
    """Another device's, a group's, a command."""
    one = await online(tmp_path)
    for topic in ("edge/dev-2/down/config", "edge/_all/down/config", "edge/dev-1/down/cmd/config", f"{DOWN}/x"):
        one.broker.route(Message(topic, json.dumps(version(1)).encode(), retain=True))
    await asyncio.sleep(2)
    assert (one.told(), one.every, one.unacknowledged) == ([(None, "applied")], 60, 0)
    await one.end()


async def test_what_the_connection_s_end_cuts_off_comes_again_and_is_obeyed_once(tmp_path: Path) -> None:
    """At whatever turn of the loop it ends."""
    for turns in range(12):
        root = tmp_path / str(turns)
        root.mkdir()
        one = await online(root)
        one.hear(version(1))
        for _ in range(turns):
            await asyncio.sleep(0)
        one.broker.cut()
        await asyncio.sleep(70)
        assert (one.every, one.unacknowledged, one.told()[-1]) == (5, 0, (1, "applied"))
        assert [entry.by for entry in one.configuring.now.memory.history] == ["start", "cloud"]
        await one.end()


async def test_a_broker_that_refuses_what_is_said_can_be_reached(tmp_path: Path) -> None:
    """Its answer confirms the change as well."""
    one = await online(tmp_path, FakeBroker(puback=lambda topic: 0x87 if topic == UP else 0))
    one.hear(version(1))
    await asyncio.sleep(WITHIN_S + 5)
    assert (one.every, one.said()) == (5, (1, "applied"))
    await one.end()


async def test_without_an_answer_the_change_is_taken_back(tmp_path: Path) -> None:
    """Also where the connection lives on."""
    broker = FakeBroker(puback=lambda topic: None if topic == UP and silent else 0)
    silent = False
    one = await online(tmp_path, broker)
    silent = True
    one.hear(version(1))
    await asyncio.sleep(WITHIN_S - 1)
    assert (one.every, one.said(), one.unacknowledged) == (5, (1, "pending_confirm"), 0)
    await asyncio.sleep(2)
    assert (one.every, one.said()) == (60, (1, "rolled_back"))
    await one.end()


async def test_what_was_taken_back_offline_is_told_once_there_is_a_broker(tmp_path: Path) -> None:
    """And what the broker still says of it is not begun again."""
    one = await online(tmp_path)
    one.hear(version(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    while len(one.used) == 1:  # noqa: ASYNC110  # a thread writes
        await asyncio.sleep(0)
    one.broker.crash()
    await asyncio.sleep(WITHIN_S + 1)
    assert one.every == 60
    one.broker.up = True
    await asyncio.sleep(200)
    assert one.told()[-1] == (1, "rolled_back")
    assert [entry.by for entry in one.configuring.now.memory.history] == ["start", "cloud", "rollback"]
    await one.end()


async def test_what_the_disk_cannot_take_is_refused_and_comes_with_the_next_subscription(tmp_path: Path) -> None:
    """It is acknowledged: the broker has it all the same."""
    one = await online(tmp_path)
    one.disk.fails = True
    one.hear(version(1))
    await asyncio.sleep(2)
    assert (one.told()[-1], one.every, one.unacknowledged) == ((1, "rejected"), 60, 0)
    one.disk.fails = False
    one.broker.cut()
    await asyncio.sleep(90)
    assert (one.told()[-1], one.every) == ((1, "applied"), 5)
    await one.end()


# ---------------------------------------------------------------- signed
KEYS: dict[str, dict[str, Any]] = {
    "ops": {"public": OPS.public, "allow": ["config"]},
    "fleet": {"public": FLEET.public, "allow": ["ping"]},
}


@pytest.mark.parametrize(
    "payload",
    [
        json.dumps(version(1)).encode(),
        b"",
        FLEET.token(version(1) | {"aud": "dev-1"}),
        OPS.token(version(1)),
        OPS.token(version(1) | {"aud": "dev-2"}),
        OPS.token(version(1) | {"aud": "dev-1", "exp": 1_900_000_000}),
        OPS.token(version(1) | {"aud": "dev-1"})[:-4] + b"AAAA",
    ],
    ids=["plain", "empty", "not allowed", "for nobody", "for another", "expires", "forged"],
)
async def test_where_there_are_keys_only_what_is_signed_counts(payload: bytes, tmp_path: Path) -> None:
    """By a key that may, for this device, and for good; nothing is dropped without a signature, either."""
    one = await online(tmp_path, keys=KEYS)
    one.hear(OPS.token(version(1, "7s") | {"aud": ["dev-2", "dev-1"]}))
    await asyncio.sleep(2)
    assert (one.every, one.said()) == (7, (1, "applied"))
    one.hear(payload)
    await asyncio.sleep(2)
    assert (one.every, one.told()[-1], one.unacknowledged) == (7, (None, "rejected"), 0)
    one.hear(OPS.token({"version": 2, "config": {}, "aud": "_all"}))
    await asyncio.sleep(2)
    assert (one.every, one.told()[-1]) == (60, (2, "applied"))
    await one.end()
