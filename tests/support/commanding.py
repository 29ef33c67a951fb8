"""Commands as their senders see them: a client on a library's own thread, that gives them and keeps every answer."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import jsonschema
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_agent.adapters.host import boot_id
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.command_ports import Command
from edge_agent.core.connection import ProtocolVersion
from edge_agent.core.saved_clock import SavedClock
from edge_agent.core.timebase import UtcNs
from tests.support import brought
from tests.support.agents import DEVICE, config_text, time_servers, toml
from tests.support.brokers import RealBroker

T = TypeVar("T")
POLL_S: Final = 0.01
FINAL: Final = ("succeeded", "failed", "timed_out", "interrupted", "cancelled", "rejected", "expired")
ERROR_OF: Final = {
    "timed_out": "timeout",
    "interrupted": "interrupted",
    "cancelled": "interrupted",
    "expired": "expired",
}
"""The only code that these states have."""

_INSTANT: Final = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$"
_TIME: Final = {"type": ["string", "null"], "pattern": _INSTANT}
_CODES: Final = [
    "unknown_command",
    "invalid_args",
    "not_allowed",
    "bad_signature",
    "retained",
    "expired",
    "time_unknown",
    "busy",
    "timeout",
    "interrupted",
    "failed",
]
_ERROR: Final = {
    "type": "object",
    "required": ["code", "message"],
    "additionalProperties": False,
    "properties": {"code": {"enum": _CODES}, "message": {"type": "string", "minLength": 1, "maxLength": 4096}},
}


def _data(states: Sequence[str], *, needs: Sequence[str] = (), **times: object) -> dict[str, Any]:
    """Return the schema of ``data`` in some states."""
    always = {
        "command": {"type": "string", "maxLength": 64},
        "id": {"pattern": "^[A-Za-z0-9_:-]{1,64}$"},
        "state": {"enum": list(states)},
        "started": _TIME,
        "finished": _TIME,
    }
    known = always | {name: _ERROR if name == "error" else {} for name in needs} | times
    return {"type": "object", "additionalProperties": False, "required": list(known), "properties": known}


_NOT_YET: Final = {"type": "null"}
_THEN: Final = {"type": "string", "pattern": _INSTANT}
REPLY: Final[dict[str, Any]] = {
    "type": "object",
    "additionalProperties": False,
    "required": [
        "specversion",
        "type",
        "source",
        "id",
        "sequence",
        "subject",
        "time",
        "timestate",
        "datacontenttype",
        "data",
    ],
    "properties": {
        "specversion": {"const": "1.0"},
        "type": {"const": "edge.reply.v1"},
        "source": {"pattern": "^/devices/[A-Za-z0-9_:-]+$"},
        "id": {"pattern": r"^[^.]+\.[1-9]\d*$"},
        "sequence": {"pattern": r"^\d{16}$"},
        "subject": {"type": "string"},
        "time": {"pattern": _INSTANT},
        "timestate": {"enum": ["synced", "holdover", "estimated", "unsynced"]},
        "timeerrorms": {"type": "integer", "minimum": 0},
        "datacontenttype": {"const": "application/json"},
        "traceparent": {"pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"},
        "correlation": {"pattern": "^([0-9a-f]{2})+$"},  # nobody promised it; tests say so
        "data": {
            "oneOf": [
                _data(["accepted"], started=_NOT_YET, finished=_NOT_YET),
                _data(["running"], started=_THEN, finished=_NOT_YET),
                _data(["succeeded"], needs=["result"], started=_THEN, finished=_THEN),
                _data(["failed", "timed_out", "interrupted", "cancelled"], needs=["error"], finished=_THEN),
                _data(["rejected", "expired"], needs=["error"], started=_NOT_YET, finished=_THEN),
            ]
        },
    },
}
"""What section 4 of the contract says of a reply."""

_JUDGE: Final = jsonschema.Draft202012Validator(REPLY)


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply as it came: when (monotonic seconds), where, and what."""

    at: float
    topic: str
    event: Mapping[str, Any]
    correlation: bytes | None
    content_type: str | None

    @property
    def data(self) -> dict[str, Any]:
        """Its ``data``."""
        return dict(self.event["data"])

    @property
    def state(self) -> str:
        """The state it tells."""
        return str(self.event["data"]["state"])

    @property
    def code(self) -> str | None:
        """The code of the error, if it tells of one."""
        error = self.event["data"].get("error")
        return None if error is None else str(error["code"])


class Operator:
    """Gives commands, and keeps what is said.

    Attributes:
        replies: all of them, but for those that are said twice under one event id.
        other: everything else that devices say: when, where, what.
    """

    def __init__(self, url: str, *, protocol: ProtocolVersion = 5, name: str = "operator") -> None:
        self.replies: list[Reply] = []
        self.other: list[tuple[float, str, bytes]] = []
        self._by_id: dict[str, list[Reply]] = {}
        self._seen: set[tuple[str, str]] = set()
        self._given = self._taken = 0
        self._protocol = protocol
        self._numbers = itertools.count(1)
        self._ready = threading.Event()
        host, _, port = url.removeprefix("mqtt://").partition(":")
        version = MQTTProtocolVersion.MQTTv5 if protocol == 5 else MQTTProtocolVersion.MQTTv311
        clean = None if protocol == 5 else False
        self._client = Client(CallbackAPIVersion.VERSION2, f"{name}-{os.getpid()}", clean, protocol=version)
        self._client.max_inflight_messages_set(200)
        self._client.max_queued_messages_set(0)
        self._client.reconnect_delay_set(0.05, 0.2)  # type: ignore[arg-type]  # any number does
        self._client.on_connect = lambda *_: self._subscribe()
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_publish = lambda *_: self._count()
        self._client.on_message = lambda _client, _data, message: self._hear(message)
        options: dict[str, Any] = {}
        if protocol == 5:
            kept = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            kept.SessionExpiryInterval = 3600
            options = {"clean_start": False, "properties": kept}
        self._client.connect(host, int(port), **options)

    def _subscribe(self) -> None:
        self._client.subscribe([("edge/+/up/#", 1), ("answers/#", 1)])

    def _count(self) -> None:
        self._taken += 1

    def _hear(self, message: MQTTMessage) -> None:
        now = time.monotonic()
        said = json.loads(message.payload) if message.payload[:1] in (b"{", b"[") else {}
        for event in said if isinstance(said, list) else [said]:
            if event.get("type") == "edge.reply.v1":
                self._keep(now, message.topic, event, message.properties)
            else:
                self.other.append((now, message.topic, bytes(message.payload)))

    def _keep(self, now: float, topic: str, event: Mapping[str, Any], properties: Properties | None) -> None:
        if (key := (event["source"], event["id"])) in self._seen:
            return
        self._seen.add(key)
        correlation, content_type = (getattr(properties, name, None) for name in ("CorrelationData", "ContentType"))
        reply = Reply(now, topic, event, correlation, content_type)
        self._by_id.setdefault(event["data"]["id"], []).append(reply)
        self.replies.append(reply)

    # ---------------------------------------------------------------- giving
    def send(
        self,
        command: str,
        payload: bytes | str | None = None,
        *,
        to: str = DEVICE,
        qos: int = 1,
        retain: bool = False,
        mqtt: Mapping[str, Any] | None = None,
        **members: object,
    ) -> str:
        """Give a command, and return its id.

        Args:
            command: its name.
            payload: what is sent; by default the members as JSON.
            to: the device, ``_group/GROUP`` or ``_all``.
            qos: of MQTT.
            retain: whether the broker is to keep it.
            mqtt: properties of MQTT 5, by paho's names; ``traceparent`` is a user property.
            members: of the JSON; an id is made up unless it is given as ``None``.
        """
        said = {name: value for name, value in ({"id": self.new_id()} | members).items() if value is not None}
        properties = Properties(PacketTypes.PUBLISH) if mqtt else None  # type: ignore[no-untyped-call]
        for name, value in (mqtt or {}).items():
            setattr(
                properties,
                "UserProperty" if name == "traceparent" else name,
                value if name != "traceparent" else (name, value),
            )
        text = json.dumps(said) if payload is None else payload
        self._given += 1
        self._client.publish(f"edge/{to}/down/cmd/{command}", text, qos, retain, properties)
        return str(said.get("id", ""))

    def new_id(self) -> str:
        """Return an id that no other command has."""
        return f"c-{next(self._numbers)}"

    def clear(self, command: str, *, to: str = DEVICE) -> None:
        """Take back what is retained."""
        self._given += 1
        self._client.publish(f"edge/{to}/down/cmd/{command}", b"", 1, retain=True)

    async def delivered(self, *, within_s: float = 20) -> None:
        """Wait until the broker has all that was sent."""
        async with asyncio.timeout(within_s):
            while self._taken < self._given:  # noqa: ASYNC110  # another thread's
                await asyncio.sleep(POLL_S)

    async def give(self, command: str, payload: bytes | str | None = None, **how: Any) -> Reply:  # noqa: ANN401  # see send
        """Give a command, and return its final reply."""
        return await self.final(self.send(command, payload, **how))

    # ---------------------------------------------------------------- hearing
    def of(self, command_id: str) -> list[Reply]:
        """Return what was said of a command."""
        return self._by_id.get(command_id, [])

    def states(self, command_id: str) -> list[str]:
        """Return the states that were said of a command."""
        return [reply.state for reply in self.of(command_id)]

    def finals(self, command_id: str) -> list[Reply]:
        """Return the final replies to a command."""
        return [reply for reply in self.of(command_id) if reply.state in FINAL]

    async def final(self, command_id: str, *, within_s: float = 15) -> Reply:
        """Return the final reply to a command."""
        found = await self.until(lambda: self.finals(command_id), f"the end of {command_id}", within_s=within_s)
        return found[0]

    async def said(self, command_id: str, state: str, *, count: int = 1, within_s: float = 15) -> list[Reply]:
        """Wait until a state was said of a command so many times."""

        def found() -> list[Reply]:
            hits = [reply for reply in self.of(command_id) if reply.state == state]
            return hits if len(hits) >= count else []

        return await self.until(found, f"{count} times {state} of {command_id}", within_s=within_s)

    async def said_with(self, code: str | None, command_id: str) -> None:
        """Wait until a command has ended with a code, or without any."""
        found = lambda: code in {reply.code for reply in self.finals(command_id)}  # noqa: E731
        _ = await self.until(found, f"{code} of {command_id}")

    async def reply_after(self, count: int) -> Reply:
        """Return the first reply that comes after so many."""
        return (await self.until(lambda: self.replies[count:], "another reply"))[0]

    async def ended(self, ids: Sequence[str], *, within_s: float = 30) -> None:
        """Wait until all of these commands have ended."""
        left = list(ids)

        def done() -> bool:
            while left and self.finals(left[-1]):
                left.pop()
            return not left

        await self.until(done, f"the ends of {len(ids)} commands", within_s=within_s)

    async def until(self, found: Callable[[], T], what: str, *, within_s: float = 15) -> T:
        """Wait until something is found."""
        try:
            async with asyncio.timeout(within_s):
                while not (hit := found()):  # noqa: ASYNC110  # another thread's
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            last = [(reply.data["id"], reply.state, reply.code) for reply in self.replies[-8:]]
            raise AssertionError(
                f"not seen within {within_s:g} s: {what}; the last of {len(self.replies)}: {last}"
            ) from None
        return hit

    # ---------------------------------------------------------------- judging
    def check(self) -> None:
        """Ask of all replies that they have the contract's shape, and of each command that it ends at most once."""
        for reply in self.replies:
            _JUDGE.validate(reply.event)
            event, data = reply.event, reply.data
            assert int(event["sequence"]) == int(event["id"].partition(".")[2])
            assert event["subject"] == data["command"]
            assert ("timeerrorms" in event) == (event["timestate"] != "unsynced"), event
            assert reply.code == ERROR_OF.get(reply.state, reply.code), event
            if self._protocol == 5:
                assert reply.content_type == "application/cloudevents+json"
        for (source, _), said in self._threads().items():
            states = [reply.state for reply in said]
            # what is refused at once is written down nowhere, and judged anew each time
            at_once = {"rejected"} if "accepted" in states else {"rejected", "expired"}
            ends = [reply.data for reply in said if reply.state in FINAL and reply.state not in at_once]
            assert all(end == ends[0] for end in ends), (source, ends)
            if ends and "accepted" in states:
                assert states.index("accepted") < states.index(ends[0]["state"]), states

    def _threads(self) -> dict[tuple[str, str], list[Reply]]:
        found: dict[tuple[str, str], list[Reply]] = {}
        for reply in self.replies:
            found.setdefault((reply.event["source"], reply.data["id"]), []).append(reply)
        return found

    def __enter__(self) -> Self:
        self._client.loop_start()
        assert self._ready.wait(15), "the broker does not answer"
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@contextlib.asynccontextmanager
async def operator(url: str, *, protocol: ProtocolVersion = 5, name: str = "operator") -> AsyncIterator[Operator]:
    """Command while the block runs; at its good end, judge all replies."""
    with Operator(url, protocol=protocol, name=name) as one:
        yield one
        one.check()


# ---------------------------------------------------------------- the device
@dataclass
class Effects:
    """What the commands have done.

    Attributes:
        folder: of the test.
    """

    folder: Path
    file: Path = field(init=False)

    def __post_init__(self) -> None:
        self.file = self.folder / "effects"

    def __call__(self) -> list[str]:
        """Return the ids, in the order of their effects."""
        return self.file.read_text().split() if self.file.exists() else []

    @property
    def environ(self) -> dict[str, str]:
        """The environment in which an agent has the commands of ``brought``."""
        package = self.folder / "packages"
        info = package / "brought-1.0.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brought\nVersion: 1.0\n")
        names = [name for name, value in vars(brought).items() if isinstance(value, Command)]
        points = "".join(f"{name.lower()} = {brought.__name__}:{name}\n" for name in names)
        (info / "entry_points.txt").write_text(f"[edge_agent.commands]\n{points}")
        root = Path(__file__).parents[2]
        return {"PYTHONPATH": f"{package}:{root}", brought.EFFECTS: str(self.file)}


def device_text(
    url: str,
    *,
    name: str = DEVICE,
    groups: Sequence[str] = (),
    allow: Sequence[str] = ("*",),
    commands: str = "",
    extra: str = "",
    **how: Any,  # noqa: ANN401  # see config_text
) -> str:
    """Return a configuration of a device that obeys these commands; ``commands`` is more of that section."""
    section = f"[commands]\nallow = {toml(list(allow))}\n{commands}\n{extra}"
    text = config_text(url, extra=section, **how)
    return text.replace(f'id = "{DEVICE}"', f'id = "{name}"\ngroups = {toml(list(groups))}')


def known_time(folder: Path, server: str = "127.0.0.1:1") -> str:
    """Have the device know the time from the start, from what it has saved in this boot; return that section."""
    raw = SystemClock().raw()
    saved = SavedClock(boot_id(), raw, UtcNs(time.time_ns()), 1000, 0.0, 1e-7)
    (folder / "state").mkdir(exist_ok=True)
    (folder / "state" / "clock.json").write_bytes(saved.document())
    return time_servers(server)


def acknowledged(broker: RealBroker, client: str = DEVICE) -> list[str]:
    """Return the reason codes with which a client has acknowledged what the broker sent it."""
    lines = [line for line in broker.log.splitlines() if f"Received PUBACK from {client} " in line]
    return [line.rpartition("RC:")[2].rstrip(")") for line in lines]
