"""Records, their keys and ranges, and the events that they become."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime
from typing import Final

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.events import Origin, Stamp, encode
from edge_agent.core.records import (
    SEQ_MASK,
    TIME_STATES,
    Encoder,
    Priority,
    Record,
    pack,
    runs,
    stream_name,
    unpack,
)
from edge_agent.core.submission import Submission
from edge_agent.core.timebase import UtcNs, utc_from_datetime

NAMES: Final = st.from_regex(r"[A-Za-z0-9_:-]{1,8}", fullmatch=True)
CHANNELS: Final = st.builds("{}/{}".format, st.sampled_from(["data", "event", "reply"]), NAMES)
EXTRAS: Final = st.none() | st.builds(
    lambda subject, trace: Submission("data/x", b"", subject=subject, traceparent=trace).members(), st.text(), NAMES
)
RECORDS: Final = st.builds(
    Record,
    key=st.builds(pack, st.sampled_from(Priority), st.integers(1, SEQ_MASK)),
    channel=CHANNELS,
    body=st.dictionaries(st.text(), st.integers(0, 9) | st.text()).map(orjson.dumps),
    made=st.just(0),
    time=st.integers(0, (1 << 63) - 1).map(UtcNs),
    time_state=st.integers(0, len(TIME_STATES) - 1),
    error_ms=st.none() | st.integers(0, 10**6),
    extra=EXTRAS,
)


def expected(record: Record) -> dict[str, object]:
    """Return the event that a record is, made by the encoder of all other events."""
    branch, _, subject = record.channel.partition("/")
    extra = {"subject": subject} if record.extra is None else orjson.loads(f"{{{record.extra}}}")
    priority, seq = unpack(record.key)
    event = encode(
        f"edge.{branch}.v1",
        origin=Origin('gw-"1"', f"o1-{priority.name.lower()}", seq),
        stamp=Stamp(record.time, TIME_STATES[record.time_state], record.error_ms),
        data=orjson.loads(record.body),
    )
    return dict(orjson.loads(event)) | extra


@given(st.lists(RECORDS, min_size=1, max_size=5))
def test_a_record_becomes_the_event_that_the_other_encoder_makes(records: list[Record]) -> None:
    """One encoder for all of them: what it remembers of one does no harm to the next."""
    encoder = Encoder('gw-"1"', "o1")
    events = [json.loads(encoder.encode(record)) for record in [*records, *records]]
    assert events == [expected(record) for record in [*records, *records]]
    assert json.loads(encoder.encode_many(records)) == events[: len(records)]


def test_more_channels_than_it_remembers_come_out_right() -> None:
    """Channels are other programs' choice; memory is not theirs."""
    encoder = Encoder("gw-1", "o1")
    for n in range(2500):
        record = Record(pack(Priority.NORMAL, n + 1), f"data/c{n}", b"{}", 0, UtcNs(0))
        assert json.loads(encoder.encode(record))["subject"] == f"c{n}"
    assert len(encoder._frames) <= 1000


def test_what_surrounds_the_data_is_small() -> None:
    """At most 320 bytes with names of usual length: links that cost money carry it with each record."""
    now = utc_from_datetime(datetime(2026, 12, 1, tzinfo=UTC))
    record = Record(pack(Priority.CRITICAL, 10**9), "data/temperature", b'{"c":21.5}', 0, now, 1, 250)
    event = Encoder("edge-0123456789abcdef", "019b81c93b9b2882").encode(record)
    assert len(event) - len(record.body) <= 320


@given(st.sampled_from(Priority), st.integers(1, SEQ_MASK), st.sampled_from(Priority), st.integers(1, SEQ_MASK))
def test_keys_are_ordered_by_priority_then_by_number(one: Priority, first: int, other: Priority, second: int) -> None:
    """And hold both; the largest fits into SQLite's integers."""
    assert unpack(pack(one, first)) == (one, first)
    assert (pack(one, first) < pack(other, second)) is ((one, first) < (other, second))
    assert pack(one, first) < 1 << 63


@pytest.mark.parametrize(
    ("numbers", "ranges"),
    [([], []), ([0], [(0, 0)]), ([1, 2, 3], [(1, 3)]), ([1, 3, 4, 9], [(1, 1), (3, 4), (9, 9)])],
)
def test_runs_are_consecutive_numbers(numbers: list[int], ranges: list[tuple[int, int]]) -> None:
    """A number that stands alone is a range, too."""
    assert runs(numbers) == ranges


@given(st.sets(st.integers(-50, 50)))
def test_runs_are_the_same_numbers_in_as_few_ranges_as_possible(numbers: set[int]) -> None:
    """None is added, none is lost, and between two ranges there is a hole."""
    found = runs(sorted(numbers))
    assert {n for first, last in found for n in range(first, last + 1)} == numbers
    assert all(before[1] + 1 < after[0] for before, after in itertools.pairwise(found))


def test_a_stream_is_named_after_the_outbox_and_the_priority() -> None:
    """As consumers know it."""
    assert [stream_name("o1", priority) for priority in Priority] == ["o1-critical", "o1-normal", "o1-bulk"]


def test_a_reply_knows_what_it_is_told_by() -> None:
    """As bytes; what only looks like it is not it."""
    submission = Submission("reply/c", b"{}", subject='"correlation":', correlation="00ff")
    record = Record(1, "reply/c", b"{}", 0, UtcNs(0), extra=submission.members())
    assert record.correlation == b"\x00\xff"
    plain = Submission("reply/c", b"{}", subject='"correlation":').members()
    assert Record(1, "reply/c", b"{}", 0, UtcNs(0), extra=plain).correlation is None
    assert Record(1, "reply/c", b"{}", 0, UtcNs(0)).correlation is None
