"""What is published, judged by the schemas that ship with the package."""

import json
from dataclasses import asdict
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core import events
from edge_agent.core.command_entry import REPLY, Moment, ReplyTo, entry_of
from edge_agent.core.command_request import Request
from edge_agent.core.command_states import State
from edge_agent.core.events import (
    AgentData,
    ConfigData,
    HeartbeatData,
    Origin,
    Stamp,
    decode,
    encode,
)
from edge_agent.core.records import Encoder, Priority, Record, pack
from edge_agent.core.timebase import UtcNs

ORIGIN = Origin("gw-1", "0123456789abcdef", 7)
STAMP = Stamp(UtcNs(1_900_000_000_123_456_789))
HEARTBEAT = HeartbeatData(
    uptime_s=1,
    boot_id="f5095338-5bd7-4583-9587-10a4424b87f0",
    session="0123456789abcdef",
    interval_s=60.0,
    agent=AgentData("0.1.0", 4242, 39_000_000),
    config=ConfigData("a91270885834"),
)
HEALTH = {
    "session": "s1",
    "state": "degraded",
    "reasons": ("why",),
    "connection": {"broker": "mqtt://b:1883", "protocol": "5", "since": "2026-01-01T00:00:00.000000Z"},
}
COMMANDS = {
    "commands": [
        {
            "name": "ping",
            "summary": "Say that it is there.",
            "args": {"type": "object"},
            "idempotent": True,
            "timeout_s": 30.0,
            "touches": "nothing",
        }
    ]
}
CONFIG = {
    "version": 8,
    "state": "rejected",
    "digest": "a91270885834",
    "errors": [{"key": "heartbeat.every", "reason": 'found "1ms"; 100ms to 1d is allowed'}],
    "ignored": [],
}
SAMPLES: dict[str, dict[str, Any]] = {
    events.HEARTBEAT: asdict(HEARTBEAT),
    events.HEALTH: HEALTH,
    "edge.commands.v1": COMMANDS,
    "edge.config.v1": CONFIG,
}


def schema_of(event_type: str) -> dict[str, Any]:
    """Return the schema that ships with the package."""
    return dict(json.loads((files("edge_agent") / "schemas" / f"{event_type}.json").read_text()))


@pytest.mark.parametrize("event_type", SAMPLES)
def test_what_is_published_fits_the_schema_that_ships(event_type: str) -> None:
    """An independent validator agrees; the schema itself is sound."""
    schema = schema_of(event_type)
    jsonschema.Draft202012Validator.check_schema(schema)
    payload = encode(event_type, origin=ORIGIN, stamp=STAMP, data=SAMPLES[event_type])
    jsonschema.validate(json.loads(payload), schema, format_checker=jsonschema.FormatChecker())


@pytest.mark.parametrize("event_type", SAMPLES)
def test_the_schema_requires_every_field_of_the_data(event_type: str) -> None:
    """Every field is there from the first release on, so the schema may demand it; and it knows no others."""
    data = schema_of(event_type)["properties"]["data"]
    sample = SAMPLES[event_type]
    assert set(data["required"]) == set(sample) == set(data["properties"])
    for name, value in sample.items():
        if isinstance(value, dict) and value:
            assert set(data["properties"][name]["required"]) == set(value)


def test_every_type_has_its_schema_and_every_schema_its_type() -> None:
    """None is forgotten, none is left over; what goes through the outbox holds whatever a program says."""
    shipped = {entry.name.removesuffix(".json") for entry in (files("edge_agent") / "schemas").iterdir()}
    assert shipped == {*SAMPLES, "edge.data.v1", "edge.event.v1", REPLY}


def outbox_record(channel: str, body: bytes, **more: Any) -> dict[str, Any]:  # noqa: ANN401  # as the record takes it
    """Return the event that a record becomes."""
    record = Record(pack(Priority.BULK, 7), channel, body, 0, STAMP.time, **more)
    return dict(json.loads(Encoder("gw-1", "0123456789abcdef").encode(record)))


def test_what_comes_out_of_the_outbox_fits_its_schema() -> None:
    """Data, an event of a program, the agent's own events; with and without a known time."""
    gap = {"stream": "0123456789abcdef-bulk", "first": 1, "last": 3, "count": 3, "reason": "full"}
    for event in (
        outbox_record("data/line-1/temp", b'{"c": 21.5}'),
        outbox_record("data/temp", b"{}", time_state=1, error_ms=3, extra='"subject":"x","traceparent":"00-1"'),
        outbox_record("event/door", b'{"open": true, "state": "ajar", "count": "many"}'),
        outbox_record("event/outbox", json.dumps({"gaps": [gap]}).encode()),
        outbox_record("event/outbox", b'{"state": "degraded", "reason": "disk_full"}'),
        outbox_record("event/config", b'{"what": "applied", "by": "cloud", "digest": "a91270885834", "version": 7}'),
    ):
        jsonschema.Draft202012Validator(schema_of(event["type"])).validate(event)
        assert event["id"] == "0123456789abcdef-bulk.7"
    for channel, wrong in (
        ("event/outbox", b'{"gaps": [{"stream": "s"}]}'),
        ("event/job", b'{"what": "ran", "job": "x"}'),
        ("event/config", b'{"what": "applied", "by": "files"}'),
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft202012Validator(schema_of("edge.event.v1")).validate(outbox_record(channel, wrong))


def test_each_state_of_a_command_fits_the_schema_of_replies() -> None:
    """A result only where it succeeded, an error only where it did not."""
    entry = entry_of(Request("ping"), "d", "c-1", ReplyTo("reply/c-1"), Moment(STAMP, 0, 0))
    validator = jsonschema.Draft202012Validator(schema_of(REPLY))
    for state in set(State) - {State.RECEIVED}:
        good = state in (State.ACCEPTED, State.RUNNING, State.SUCCEEDED)
        entry.state, entry.result, entry.error = state, '{"pong":true}', None if good else ("failed", "no")
        reply = json.loads(encode(REPLY, origin=ORIGIN, stamp=STAMP, data=entry.data(), subject="ping"))
        validator.validate(reply)
        for change in ({"error": None if good else reply["data"]["error"], "result": 1}, {"state": "received"}):
            assert not validator.is_valid(reply | {"data": reply["data"] | change})


def test_an_event_names_its_device_its_stream_and_its_number() -> None:
    """The attributes are those of the contract."""
    stamp = Stamp(STAMP.time, "synced", 3)
    event = json.loads(encode("edge.data.v1", origin=ORIGIN, stamp=stamp, data={"a": 1}, subject="job"))
    assert event == {
        "specversion": "1.0",
        "type": "edge.data.v1",
        "source": "/devices/gw-1",
        "id": "0123456789abcdef.7",
        "sequence": "0000000000000007",
        "time": "2030-03-17T17:46:40.123456Z",
        "timestate": "synced",
        "timeerrorms": 3,
        "datacontenttype": "application/json",
        "subject": "job",
        "data": {"a": 1},
    }


def test_a_default_heartbeat_is_at_most_900_bytes() -> None:
    """Also with a long id, a large process id, and after a year without a restart."""
    origin = Origin("edge-" + "x" * 16, "0123456789abcdef", 10**6)
    largest = HeartbeatData(
        uptime_s=365 * 86400,
        boot_id=HEARTBEAT.boot_id,
        session=HEARTBEAT.session,
        interval_s=900.0,
        agent=AgentData("10.10.10", 4_194_304, 10**9),
        config=ConfigData("a91270885834", 100),
    )
    assert len(encode(events.HEARTBEAT, origin=origin, stamp=STAMP, data=largest)) <= 900


@given(
    st.binary() | st.text().map(str.encode) | st.sampled_from([b"[" * 100_000, b"null", b'{"type":1,"data":{}}', b"{}"])
)
def test_nonsense_decodes_to_nothing(payload: bytes) -> None:
    """Whatever the bytes are, the answer is an event or nothing."""
    event = decode(payload)
    assert event is None or (isinstance(event["type"], str) and isinstance(event["data"], dict))


def test_what_was_encoded_decodes() -> None:
    """And what is too large does not."""
    payload = encode(events.HEALTH, origin=ORIGIN, stamp=STAMP, data=HEALTH)
    event = decode(payload)
    assert event is not None
    assert event["data"]["state"] == "degraded"
    assert decode(b'{"type":"x","data":{"a":"' + b"a" * events.MAX_EVENT + b'"}}') is None
