"""What is published: CloudEvents 1.0 in structured JSON, and the data of each type.

Consumers rely on these shapes, so they only ever grow. Every field of a type is there from the first release on; where
the part that fills it does not exist yet it is zero or ``None``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import orjson

from edge_agent.core.timebase import UtcNs, rfc3339

CONTENT_TYPE: Final = "application/cloudevents+json"
HEALTH: Final = "edge.health.v1"
HEARTBEAT: Final = "edge.heartbeat.v1"
MAX_EVENT: Final = 256 * 1024

TimeState = Literal["synced", "holdover", "estimated", "unsynced"]
ClockState = Literal["unsynced", "acquiring", "synced", "holdover", "degraded", "os"]


class Stamp(NamedTuple):
    """When something happened, and how well that is known.

    Attributes:
        time: true time as far as it is known.
        state: how it is known.
        error_ms: bound of its error in milliseconds; ``None`` when unsynced.
    """

    time: UtcNs
    state: TimeState = "unsynced"
    error_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Which message of which stream this is.

    Attributes:
        device: the device's id.
        stream: the session for what is not in the outbox.
        seq: counts from 1 within the stream.
    """

    device: str
    stream: str
    seq: int


def encode(
    event_type: str,
    *,
    origin: Origin,
    stamp: Stamp,
    data: object,
    subject: str | None = None,
    traceparent: str | None = None,
) -> bytes:
    """Return one event as JSON.

    Args:
        event_type: ``edge.….v1``.
        origin: gives ``source``, ``id`` and ``sequence``.
        stamp: gives ``time``, ``timestate`` and ``timeerrorms``.
        data: a dataclass or a mapping.
        subject: the job, channel, command or event kind.
        traceparent: W3C trace context.
    """
    event: dict[str, object] = {
        "specversion": "1.0",
        "type": event_type,
        "source": f"/devices/{origin.device}",
        "id": f"{origin.stream}.{origin.seq}",
        "sequence": f"{origin.seq:016d}",
        "time": rfc3339(stamp.time),
        "timestate": stamp.state,
        "datacontenttype": "application/json",
    }
    if stamp.error_ms is not None:
        event["timeerrorms"] = stamp.error_ms
    if subject is not None:
        event["subject"] = subject
    if traceparent is not None:
        event["traceparent"] = traceparent
    event["data"] = data
    return orjson.dumps(event)


def decode(payload: bytes) -> Mapping[str, Any] | None:
    """Return an event that arrived as a mapping whose ``type`` is a string and ``data`` a mapping.

    Anything else, and anything larger than ``MAX_EVENT``, is ``None``: whoever can publish can publish nonsense.
    """
    if len(payload) > MAX_EVENT:
        return None
    try:
        event = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    if isinstance(event, dict) and isinstance(event.get("type"), str) and isinstance(event.get("data"), dict):
        return event
    return None


@dataclass(frozen=True, slots=True)
class AgentData:
    """The process: its version, its process id and its resident memory in bytes."""

    version: str
    pid: int
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class ClockData:
    """What the device knows of time.

    Attributes:
        state: ``unsynced`` until something measures it.
        offset_ms: OS wall clock - true time, positive = the OS clock is fast; ``None`` = unknown.
        error_ms: bound of the offset's error.
        frequency_ppm: positive = the device's raw clock runs fast.
        source: the server or discipline in use.
        steps: OS wall clock steps since start.
    """

    state: ClockState = "unsynced"
    offset_ms: float | None = None
    error_ms: float | None = None
    frequency_ppm: float | None = None
    source: str | None = None
    steps: int = 0


@dataclass(frozen=True, slots=True)
class OutboxData:
    """What waits on the device: records, their bytes, the oldest one's age in seconds, and what became of the rest."""

    records: int = 0
    bytes: int = 0
    oldest_age_s: float | None = None
    dropped: int = 0
    settled: Mapping[str, int] = field(default_factory=dict)
    bytes_sent: int = 0


@dataclass(frozen=True, slots=True)
class JobsData:
    """Runs of jobs since start, by how they ended."""

    ok: int = 0
    failed: int = 0
    missed: int = 0
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class ConfigData:
    """The configuration in force: a digest of it, and the version of the one from the cloud."""

    digest: str
    version: int | None = None


@dataclass(frozen=True, slots=True)
class HeartbeatData:
    """``data`` of ``edge.heartbeat.v1``.

    Attributes:
        uptime_s: seconds since the agent started.
        boot_id: the kernel's; a new one means that the device was rebooted.
        session: the MQTT connection; ``None`` when it was made offline.
        interval_s: seconds until the next one is due.
    """

    uptime_s: int
    boot_id: str
    session: str | None
    interval_s: float
    agent: AgentData
    config: ConfigData
    clock: ClockData = ClockData()
    outbox: OutboxData = field(default_factory=OutboxData)
    jobs: JobsData = JobsData()
