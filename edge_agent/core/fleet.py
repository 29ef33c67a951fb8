"""What an operator knows of devices, from what they publish; nothing that arrives is trusted.

Whoever can publish can publish nonsense: ids that are no names and messages that are no events are counted and left
out, a field of another type than the contract's is treated as absent, every text is cut and holds only what can be
printed without driving a terminal, and the number of devices is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, cast

from edge_agent.core.config_types import NAME_PATTERN
from edge_agent.core.events import HEALTH, HEARTBEAT, decode
from edge_agent.core.timebase import MonotonicNs, elapsed, to_seconds

Status = Literal["online", "offline", "silent", "unknown"]
Kind = Literal["status", "health", "heartbeat", "silence"]

MAX_TEXT: Final = 200
MAX_REASONS: Final = 8
MAX_NUMBER: Final = 1e15
SILENT_AFTER: Final = 2.5  # intervals: one heartbeat may be lost, and the next be late

_NEVER: Final = MonotonicNs(0)
_NAME: Final = re.compile(NAME_PATTERN)
_STATUS: Final[Mapping[bytes, Literal["online", "offline"]]] = {b"online": "online", b"offline": "offline"}
_TYPES: Final = {"health": HEALTH, "heartbeat": HEARTBEAT}


def printable(text: str) -> str:
    """Return at most ``MAX_TEXT`` characters of a text, without those that control a terminal or turn its writing."""
    return "".join(character for character in text[:MAX_TEXT] if character.isprintable())


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of one device; ``None`` where nothing is.

    Attributes:
        device: its id.
        status: what was said last; ``silent`` when it is online and its heartbeats stay away.
        age_s: seconds since its last heartbeat arrived.
        uptime_s: as of that heartbeat, in seconds; so is all that follows up to ``version``.
        clock: the state of its clock.
        offset_ms: of its OS clock, positive = fast.
        outbox: records that wait on it.
        rss_bytes: resident memory of its agent.
        version: of its agent.
        broker: the URL that it is connected to, by its own account.
        protocol: ``5`` or ``3.1.1``.
        reasons: why it calls itself degraded.
    """

    device: str
    status: Status
    age_s: float | None = None
    uptime_s: int | None = None
    clock: str | None = None
    offset_ms: float | None = None
    outbox: int | None = None
    rss_bytes: int | None = None
    version: str | None = None
    broker: str | None = None
    protocol: str | None = None
    reasons: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """Something new about a device: what kind of message brought it, and what is known now."""

    kind: Kind
    row: Row


@dataclass(slots=True)
class _Known:
    """A device.

    Attributes:
        row: all but ``age_s``.
        beat_at: when its last heartbeat arrived.
        heard_at: that, or when it came online after it: from then on silence counts.
        interval_s: between its heartbeats, in seconds; 0 = unknown.
    """

    row: Row
    beat_at: MonotonicNs | None = None
    heard_at: MonotonicNs = _NEVER
    interval_s: float = 0

    def seen(self, now: MonotonicNs) -> Row:
        age_s = None if self.beat_at is None else max(0.0, to_seconds(elapsed(self.beat_at, now)))
        return replace(self.row, age_s=age_s)


class Fleet:
    """The devices that were heard of.

    Attributes:
        nonsense: messages that could not be understood.
        left_out: messages of devices for which there was no room.
    """

    def __init__(self, max_devices: int = 20_000) -> None:
        self._max_devices = max_devices
        self._devices: dict[str, _Known] = {}
        self.nonsense = 0
        self.left_out = 0

    def apply(self, device: str, kind: str, payload: bytes, now: MonotonicNs) -> Change | None:
        """Take a message in; return what it changed, ``None`` if nothing.

        Args:
            device: the second half of ``<prefix>/<device>``.
            kind: what follows ``up/``.
            payload: as it arrived.
            now: when it did.
        """
        known = self._devices.get(device) or _Known(Row(device, "unknown"))
        before = known.row
        if not _NAME.fullmatch(device) or not _learn(known, kind, payload, now):
            self.nonsense += 1
            return None
        if device not in self._devices and len(self._devices) >= self._max_devices:
            self.left_out += 1
            return None
        self._devices[device] = known
        changed = kind == "heartbeat" or known.row != before
        return Change(cast("Kind", kind), known.seen(now)) if changed else None

    def silences(self, now: MonotonicNs) -> list[Change]:
        """Return the devices that have fallen silent, each once until it is heard again."""
        found = []
        for known in self._devices.values():
            since_s = to_seconds(elapsed(known.heard_at, now))
            if known.row.status == "online" and known.interval_s and since_s > SILENT_AFTER * known.interval_s:
                known.row = replace(known.row, status="silent")
                found.append(Change("silence", known.seen(now)))
        return found

    def doubt(self) -> None:
        """Forget who is online: the connection is lost, so that nobody would hear of it; the broker will say again."""
        for known in self._devices.values():
            known.row = replace(known.row, status="unknown", broker=None, protocol=None, reasons=None)

    def rows(self, now: MonotonicNs) -> list[Row]:
        """Return all that is known, sorted by device."""
        return [known.seen(now) for _, known in sorted(self._devices.items())]


def _learn(known: _Known, kind: str, payload: bytes, now: MonotonicNs) -> bool:
    """Take note of a message; return whether it was understood."""
    if kind == "status":
        status = _STATUS.get(payload)
        if status == "online" and known.row.status != "online":
            known.heard_at = now
        known.row = replace(known.row, status=status or known.row.status)
        return status is not None
    event = decode(payload)
    if event is None or event["type"] != _TYPES.get(kind):
        return False
    if kind == "health":
        known.row = _with_health(known.row, event["data"])
    else:  # it also says "online": some brokers refuse retained messages
        known.row = _with_beat(known.row, event["data"])
        known.beat_at = known.heard_at = now
        known.interval_s = max(_number(event["data"], "interval_s") or 0, 0)
    return True


def _with_beat(row: Row, data: Mapping[str, Any]) -> Row:
    agent, clock, outbox = _table(data, "agent"), _table(data, "clock"), _table(data, "outbox")
    return replace(
        row,
        status="offline" if row.status == "offline" else "online",
        uptime_s=_count(data, "uptime_s"),
        clock=_text(clock, "state"),
        offset_ms=_number(clock, "offset_ms"),
        outbox=_count(outbox, "records"),
        rss_bytes=_count(agent, "rss_bytes"),
        version=_text(agent, "version"),
    )


def _with_health(row: Row, data: Mapping[str, Any]) -> Row:
    connection, reasons = _table(data, "connection"), data.get("reasons")
    texts = [text for text in reasons[:MAX_REASONS] if isinstance(text, str)] if isinstance(reasons, list) else []
    broker, protocol = _text(connection, "broker"), _text(connection, "protocol")
    return replace(row, broker=broker, protocol=protocol, reasons=tuple(map(printable, texts)))


def _table(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def _text(data: Mapping[str, Any], key: str) -> str | None:
    value = data.get(key)
    return printable(value) or None if isinstance(value, str) else None


def _number(data: Mapping[str, Any], key: str) -> float | None:
    value = data.get(key)
    sound = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER  # nan is not
    return value if sound else None


def _count(data: Mapping[str, Any], key: str) -> int | None:
    value = _number(data, key)
    return int(value) if value is not None and value >= 0 else None
