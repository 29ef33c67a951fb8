"""What another program hands in: taken as it is, or refused with what was found and what to do."""

from __future__ import annotations

import contextlib
from typing import Any, Final

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.records import Priority
from edge_agent.core.submission import Submission, parse_submission
from edge_agent.core.timebase import UtcNs, rfc3339
from edge_agent.errors import SubmissionError

MAX_RECORD: Final = 100
LEAST: Final = {"channel": "data/temp", "data": {"c": 21.5}}
DEEP: Final[list[Any]] = orjson.loads("[" * 1000 + "]" * 1000)


def parsed(**params: object) -> Submission:
    """Return what becomes of these parameters and the least."""
    return parse_submission(LEAST | params, max_record=MAX_RECORD)


def test_the_least_is_a_channel_and_an_object() -> None:
    """The rest has defaults."""
    assert parsed() == Submission("data/temp", b'{"c":21.5}', Priority.NORMAL, None, latest=False, key=None)


def test_everything_that_may_be_said_is_understood() -> None:
    """The longest key, the deepest channel."""
    channel = "/".join(["event", "door", *["A-z_0:9" * 9] * 7])
    got = parsed(channel=channel, priority="bulk", keep="latest", key="k" * 256, time="1970-01-01T00:00:01Z", data={})
    assert got == Submission(channel, b"{}", Priority.BULK, UtcNs(10**9), latest=True, key="k" * 256)


@pytest.mark.parametrize(
    ("time", "utc"),
    [
        ("2026-12-01t02:00:00.5+02:00", "2026-12-01T00:00:00.500000Z"),
        ("2026-12-01 00:00:00.123456789Z", "2026-12-01T00:00:00.123456Z"),
        ("1969-12-31T23:00:00-01:00", "1970-01-01T00:00:00.000000Z"),
        ("2261-12-31T23:59:59.999999z", "2261-12-31T23:59:59.999999Z"),
    ],
)
def test_times_with_offsets_and_fractions_are_utc(time: str, utc: str) -> None:
    """Every form that RFC 3339 allows, up to the last that can be stored."""
    got = parsed(time=time).time
    assert got is not None
    assert rfc3339(got) == utc
    assert got < 1 << 63


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"channel": None}, "channel is needed, like data/temperature; found None"),
        ({"channel": DEEP}, "channel is needed, like data/temperature; found an array"),
        ({"channel": "data"}, "channel 'data': data/NAME or event/NAME is needed"),
        ({"channel": "reply/c-1"}, "channel 'reply/c-1': data/NAME or event/NAME is needed"),
        ({"channel": "data" + "/x" * 9}, "data/NAME or event/NAME is needed"),
        ({"channel": "data//x"}, "'' is no name: 1 to 64 of A-Z a-z 0-9 _ : -"),
        ({"channel": "data/+"}, "'+' is no name"),
        ({"channel": "data/x\n"}, r"'x\n' is no name"),
        ({"channel": "data/" + "x" * 65}, "is no name: 1 to 64"),
        ({"channel": "event/outbox/x"}, "events of kind outbox are the agent's own; name another"),
        ({"data": 21.5}, 'data must be a JSON object; put a bare value into one, like {"value": 21.5}'),
        ({"data": None}, "data must be a JSON object"),
        ({"data": {"a": DEEP}}, "data cannot be said in JSON"),
        ({"data": {"a": "x" * 100}}, "data has 108 bytes; outbox.max_record allows 100"),
        (
            {"time": 1_764_547_200},
            'time: found "1764547200"; a time with its zone like "2026-12-01T00:00:00Z"',
        ),
        ({"time": "2026-12-01T00:00:00"}, "a time with its zone"),
        ({"time": "2026-12-01"}, "a time with its zone"),
        ({"time": "2026-02-30T00:00:00Z"}, "a time with its zone"),
        ({"time": "1969-12-31T23:59:59Z"}, "from 1970 to 2262"),
        ({"time": "2262-05-01T00:00:00Z"}, "from 1970 to 2262"),
        ({"time": "0001-01-01T00:00:00+23:59"}, "from 1970 to 2262"),
        ({"time": "9999-12-31T23:59:59-23:59"}, "from 1970 to 2262"),
        ({"priority": "urgent"}, "priority 'urgent': one of normal, critical, bulk is needed"),
        ({"priority": DEEP}, "priority an array: one of"),
        ({"keep": {}}, "keep an object: one of all, latest is needed"),
        ({"key": ""}, "key '': a string of 1 to 256 characters is needed"),
        ({"key": "k" * 257}, "a string of 1 to 256 characters is needed"),
        ({"tiem": 1}, "unknown parameter 'tiem'; known: channel, data, keep, key, priority, time"),
    ],
)
def test_what_is_wrong_is_said_with_what_is_right(params: dict[str, object], said: str) -> None:
    """In one line that is short, whatever was handed in."""
    with pytest.raises(SubmissionError) as raised:
        parsed(**params)
    line = str(raised.value)
    assert said in line
    assert len(line.splitlines()) == 1
    assert len(line) < 300
    assert raised.value.word == "invalid"


@pytest.mark.parametrize("missing", ["channel", "data"])
def test_what_is_missing_is_named(missing: str) -> None:
    """With what it looks like."""
    params = {name: value for name, value in LEAST.items() if name != missing}
    with pytest.raises(SubmissionError, match=f"^{missing} is needed"):
        parse_submission(params, max_record=MAX_RECORD)


JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["data/x", "bulk", "latest"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


SOME: Final = st.fixed_dictionaries({}, optional=dict.fromkeys(("channel", "data", "time", "priority", "keep"), JSON))


@given(JSON | SOME.map(lambda some: LEAST | some))
def test_nothing_that_json_can_say_raises_anything_else(params: object) -> None:
    """It is accepted, and then fits, or refused."""
    with contextlib.suppress(SubmissionError):
        got = parse_submission(params, max_record=MAX_RECORD)
        assert len(got.data) <= MAX_RECORD
        assert isinstance(orjson.loads(got.data), dict)
        assert got.channel in ("data/temp", "data/x")


def test_members_of_an_event_are_its_subject_and_its_trace() -> None:
    """The subject is what follows the channel's first part, unless it is given."""
    assert Submission("data/a/b", b"{}").members() is None
    assert Submission("data/a/b", b"{}", traceparent="t").members() == '"subject":"a/b","traceparent":"t"'
    assert Submission("reply/c", b"{}", correlation="00ff").members() == '"subject":"c"\n00ff'
    traced = Submission("data/a", b"{}", subject='"', traceparent="00-1")
    assert orjson.loads(f"{{{traced.members()}}}") == {"subject": '"', "traceparent": "00-1"}
