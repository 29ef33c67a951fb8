"""What is known of devices, whatever arrives."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.events import HEALTH, HEARTBEAT
from edge_agent.core.fleet import MAX_REASONS, MAX_TEXT, Change, Fleet, Row, printable
from edge_agent.core.timebase import MonotonicNs, seconds

START = MonotonicNs(seconds(100))


def at(seconds_: float) -> MonotonicNs:
    """Return an instant so long after the start."""
    return MonotonicNs(START + seconds(seconds_))


def heartbeat(**data: Any) -> bytes:  # noqa: ANN401
    """Return a heartbeat with this data."""
    return orjson.dumps({"type": HEARTBEAT, "data": {"interval_s": 2} | data})


def health(**data: Any) -> bytes:  # noqa: ANN401
    """Return a health with this data."""
    return orjson.dumps({"type": HEALTH, "data": data})


def row(fleet: Fleet, seconds_: float = 0) -> Row:
    """Return the only row."""
    (found,) = fleet.rows(at(seconds_))
    return found


def test_the_three_messages_make_a_row() -> None:
    """Status, health and heartbeat each fill their part."""
    fleet = Fleet()
    assert fleet.apply("a", "status", b"online", START) == Change("status", Row("a", "online"))
    connection = {"broker": "mqtt://b:1", "protocol": "5"}
    told = fleet.apply("a", "health", health(state="degraded", reasons=["x", 1, "y"], connection=connection), START)
    assert told == Change("health", Row("a", "online", broker="mqtt://b:1", protocol="5", reasons=("x", "y")))
    beat = heartbeat(
        uptime_s=7,
        agent={"version": "1", "rss_bytes": 5},
        clock={"state": "synced", "offset_ms": -0.5},
        outbox={"records": 3},
    )
    assert fleet.apply("a", "heartbeat", beat, START) is not None
    assert row(fleet, 1) == Row("a", "online", 1.0, 7, "synced", -0.5, 3, 5, "1", "mqtt://b:1", "5", ("x", "y"))
    assert fleet.nonsense == 0


def test_what_is_said_twice_changes_nothing() -> None:
    """Only heartbeats are news each time."""
    fleet = Fleet()
    for kind, payload in (("status", b"offline"), ("health", health(reasons=[]))):
        assert fleet.apply("a", kind, payload, START) is not None
        assert fleet.apply("a", kind, payload, START) is None
    assert fleet.apply("a", "heartbeat", heartbeat(), START) is not None
    assert fleet.apply("a", "heartbeat", heartbeat(), START) is not None


def test_a_heartbeat_tells_that_an_unknown_device_is_online() -> None:
    """But not one that said that it went offline."""
    fleet = Fleet()
    fleet.apply("a", "heartbeat", heartbeat(), START)
    assert row(fleet).status == "online"
    fleet.apply("a", "status", b"offline", START)
    fleet.apply("a", "heartbeat", heartbeat(), START)
    assert row(fleet).status == "offline"


def test_a_device_falls_silent_after_two_and_a_half_intervals() -> None:
    """It is told once, until it is heard again; who is offline is not silent."""
    fleet = Fleet()
    fleet.apply("a", "heartbeat", heartbeat(), START)
    assert fleet.silences(at(5)) == []
    assert row(fleet, 5).status == "online"
    (change,) = fleet.silences(at(5.1))
    assert row(fleet, 5.1).status == "silent"
    assert (change.kind, change.row.status) == ("silence", "silent")
    assert fleet.silences(at(6)) == []
    fleet.apply("a", "heartbeat", heartbeat(), at(7))
    assert [change.row.device for change in fleet.silences(at(13))] == ["a"]
    fleet.apply("a", "status", b"offline", at(14))
    assert row(fleet, 99).status == "offline"


def test_silence_counts_from_the_return() -> None:
    """A device that is online again has not been silent while it was away."""
    fleet = Fleet()
    fleet.apply("a", "heartbeat", heartbeat(), START)
    fleet.apply("a", "status", b"offline", at(1))
    change = fleet.apply("a", "status", b"online", at(60))
    assert change is not None
    assert change.row.status == "online"
    assert fleet.silences(at(65)) == []
    assert [silent.row.status for silent in fleet.silences(at(66))] == ["silent"]


@pytest.mark.parametrize("interval", [None, "2", 0, -1, True, 1e300])
def test_without_a_sound_interval_nobody_is_silent(interval: object) -> None:
    """Nothing can be said then."""
    fleet = Fleet()
    fleet.apply("a", "heartbeat", heartbeat(interval_s=interval), START)
    assert fleet.silences(at(1e6)) == []


def test_doubt_forgets_who_is_online() -> None:
    """After a loss the same status is news again."""
    fleet = Fleet()
    fleet.apply("a", "status", b"online", START)
    fleet.apply("a", "heartbeat", heartbeat(), START)
    fleet.doubt()
    assert row(fleet, 60).status == "unknown"
    assert fleet.silences(at(60)) == []
    assert fleet.apply("a", "status", b"online", at(60)) is not None


def test_fields_of_another_type_are_absent() -> None:
    """The rest of the message counts."""
    fleet = Fleet()
    data = {
        "uptime_s": "7",
        "agent": {"version": 1, "rss_bytes": True},
        "clock": ["synced"],
        "outbox": {"records": -1},
    }
    fleet.apply("a", "heartbeat", heartbeat(**data), START)
    fleet.apply("a", "health", health(reasons="no", connection=7), START)
    assert row(fleet) == Row("a", "online", 0.0, reasons=())
    assert fleet.nonsense == 0


@pytest.mark.parametrize(
    ("device", "kind", "payload"),
    [
        ("a/b", "status", b"online"),
        ("a\x1b", "status", b"online"),
        ("x" * 65, "status", b"online"),
        ("a", "status", b"ONLINE"),
        ("a", "heartbeat", b"online"),
        ("a", "heartbeat", health()),
        ("a", "data/x", heartbeat()),
    ],
)
def test_nonsense_is_counted(device: str, kind: str, payload: bytes) -> None:
    """It leaves no trace else."""
    fleet = Fleet()
    assert fleet.apply(device, kind, payload, START) is None
    assert fleet.rows(START) == []
    assert fleet.nonsense == 1


def test_there_is_room_for_so_many_devices() -> None:
    """Those that are known are still heard; the rest is counted."""
    fleet = Fleet(max_devices=2)
    for name in ("c", "a", "b"):
        fleet.apply(name, "status", b"online", START)
    fleet.apply("a", "status", b"offline", START)
    assert [(found.device, found.status) for found in fleet.rows(START)] == [("a", "offline"), ("c", "online")]
    assert fleet.left_out == 1


def test_texts_cannot_drive_a_terminal() -> None:
    """Control characters and direction marks are gone, and the length is bounded."""
    assert printable("a\x1b[31mb\r\n\x9b\u202ec\u200b é") == "a[31mbc é"
    assert len(printable("x" * 1000)) == MAX_TEXT
    fleet = Fleet()
    fleet.apply("a", "health", health(reasons=["\x1b]0;x\x07" * 99] * 99), START)
    reasons = row(fleet).reasons
    assert reasons is not None
    assert len(reasons) == MAX_REASONS
    assert all(text.isprintable() and len(text) <= MAX_TEXT for text in reasons)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(["uptime_s", "interval_s", "agent", "clock", "outbox", "reasons", "connection"])
inner_names = st.sampled_from(["version", "rss_bytes", "state", "offset_ms", "records", "broker", "protocol"])
events = st.builds(
    lambda kind, data: orjson.dumps({"type": kind, "data": data}),
    st.sampled_from([HEALTH, HEARTBEAT]),
    st.dictionaries(names, values | st.dictionaries(inner_names, values)),
)


@given(
    st.lists(
        st.tuples(
            st.text(max_size=3),
            st.sampled_from(["status", "health", "heartbeat", "x"]),
            st.binary() | events | st.just(b"online"),
        )
    )
)
def test_nothing_that_arrives_raises_or_grows(messages: list[tuple[str, str, bytes]]) -> None:
    """Arbitrary bytes and events of arbitrary content leave at most so many rows of printable, short texts."""
    fleet = Fleet(max_devices=3)
    for device, kind, payload in messages:
        fleet.apply(device, kind, payload, START)
    fleet.silences(at(1e6))
    rows = fleet.rows(at(1))
    assert len(rows) <= 3
    for found in rows:
        for text in (found.clock, found.version, found.broker, found.protocol, *(found.reasons or ())):
            assert text is None or (text.isprintable() and len(text) <= MAX_TEXT)
        for number in (found.uptime_s, found.offset_ms, found.outbox, found.rss_bytes):
            assert number is None or abs(number) <= 1e15
