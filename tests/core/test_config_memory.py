"""What is remembered of the configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge_agent.core.cloud_config import CloudConfig
from edge_agent.core.config_document import Source
from edge_agent.core.config_memory import (
    ConfigMemory,
    Entry,
    Pin,
    Snapshot,
    fingerprint,
    read_memory,
    read_snapshot,
)
from edge_agent.core.config_remote import Desired
from edge_agent.core.timebase import RawNs, seconds
from edge_agent.errors import ConfigError, ConfigProblem

DESIRED = Desired(7, {"heartbeat": {"every": "30s"}})
CHANGE = {"key": "heartbeat.every", "before": "1m", "after": "30s"}
MEMORY = ConfigMemory(
    CloudConfig().begin(DESIRED, boot="b", raw=RawNs(5), within=seconds(120)),
    Pin("0123456789ab", "f" * 64),
    (
        Entry("2027-01-15T08:00:00.000000Z", "0123456789ab", "start", None),
        Entry("2027-01-15T08:00:01.000000Z", "ba9876543210", "cloud", 7, [CHANGE]),
    ),
    "dev-1",
)
SNAPSHOT = Snapshot((Source("/a.toml", "\N{DEGREE SIGN} = 1\r\n".encode()), Source("/a.d/b.toml", b"")), DESIRED)


def stored(document: Any) -> Any:  # noqa: ANN401  # as JSON has it
    """Return a document as it comes back from the disk."""
    return orjson.loads(orjson.dumps(document))


def test_what_is_written_is_read_back() -> None:
    """Whole, as it was, and empty."""
    assert read_memory(stored(ConfigMemory().document())) == ConfigMemory()
    again = read_memory(stored(MEMORY.document()))
    assert again.document() == MEMORY.document()
    assert (again.cloud, again.pin, again.in_force) == (MEMORY.cloud, MEMORY.pin, "ba9876543210")
    assert read_snapshot(stored(SNAPSHOT.document())) == SNAPSHOT
    assert ConfigMemory().in_force is None


def test_what_the_cloud_said_is_for_one_id() -> None:
    """Where none was written yet, it is taken to be this one's; what the files said is nobody else's."""
    assert MEMORY.of("dev-1") == MEMORY
    assert MEMORY.of("dev-2") == replace(MEMORY, cloud=CloudConfig(), device="dev-2")
    unmarked = {key: value for key, value in MEMORY.document().items() if key != "device"}
    assert read_memory(stored(unmarked)).of("dev-2").cloud == MEMORY.cloud


@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=3), st.none() | st.just(DESIRED))
def test_files_come_back_to_the_byte(files: list[tuple[str, str]], desired: Desired | None) -> None:
    """Whatever text they hold, a byte order mark and line ends included."""
    snapshot = Snapshot(tuple(Source(name, text.encode()) for name, text in files), desired)
    assert read_snapshot(stored(snapshot.document())) == snapshot


def test_what_a_newer_version_adds_is_no_trouble_and_another_form_is_not_read() -> None:
    """One minor version reads what the next one writes."""
    newer: dict[str, Any] = MEMORY.document() | {"added": [1]}
    assert read_memory(stored(newer)).in_force == "ba9876543210"
    with pytest.raises(ValueError, match="not what was written"):
        read_memory(stored(MEMORY.document() | {"form": 2}))
    with pytest.raises(ValueError, match="not what was written"):
        read_snapshot(stored(SNAPSHOT.document() | {"form": 2}))


@pytest.mark.parametrize(
    "damage",
    [
        {"sources": []},
        {"sources": [["a"]]},
        {"sources": ["ab"]},
        {"sources": [["a", 5]]},
        {"sources": {}},
        {"desired": 5},
        {"desired": {}},
        {"desired": {"version": 0, "config": {}}},
    ],
    ids=str,
)
def test_a_snapshot_without_files_is_none(damage: dict[str, Any]) -> None:
    """Nor is one whose files cannot be told."""
    with pytest.raises((ValueError, ConfigError)):
        read_snapshot(SNAPSHOT.document() | damage)


@pytest.mark.parametrize("damage", [{"history": [5]}, {"history": None}, {"pin": []}, {"pin": {}}, {"cloud": None}])
def test_a_memory_of_another_shape_is_none(damage: dict[str, Any]) -> None:
    """Of anything in it."""
    with pytest.raises(ValueError, match="not what was written"):
        read_memory(MEMORY.document() | damage)


TEXT = orjson.dumps(MEMORY.document())
KEPT = orjson.dumps(SNAPSHOT.document())


def outcome(text: bytes) -> None:
    """Read what may be damaged; nothing but two kinds of error may come out, and what is read can be worked with."""
    for read in (read_memory, read_snapshot):
        try:
            found = read(orjson.loads(text))
        except (ValueError, ConfigError):
            continue
        assert read(stored(found.document())) == found
        if isinstance(found, ConfigMemory):
            started = found.cloud.start(boot="c", raw=RawNs(9))
            orjson.dumps(started.document())
        else:
            assert found.sources


@pytest.mark.parametrize("text", [TEXT, KEPT], ids=["memory", "snapshot"])
def test_wherever_it_is_cut_off_nothing_breaks(text: bytes) -> None:
    """At every byte."""
    for end in range(len(text)):
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(text[:end])
        outcome(text[:end])


@given(st.data())
def test_whatever_is_flipped_in_it_nothing_breaks(data: st.DataObject) -> None:
    """Any bits of any bytes."""
    text = bytearray(data.draw(st.sampled_from([TEXT, KEPT])))
    for at in data.draw(st.lists(st.integers(0, len(text) - 1), min_size=1, max_size=4)):
        text[at] ^= data.draw(st.integers(1, 255))
    outcome(bytes(text))


def test_any_single_bit_may_flip() -> None:
    """Each of them, one at a time."""
    for text in (TEXT, KEPT):
        for at in range(len(text)):
            for bit in range(8):
                outcome(text[:at] + bytes([text[at] ^ 1 << bit]) + text[at + 1 :])


PARTS = st.lists(st.tuples(st.text(), st.binary()), max_size=4)


@given(PARTS, PARTS)
@example([("a", b"bc")], [("ab", b"c")])
@example([("a", b""), ("b", b"")], [("a", b"b")])
def test_a_fingerprint_tells_files_from_others(one: list[tuple[str, bytes]], other: list[tuple[str, bytes]]) -> None:
    """By their names, their bytes and their order."""
    first, second = ([Source(*part) for part in parts] for parts in (one, other))
    assert (fingerprint(first) == fingerprint(second)) == (first == second)


def test_a_fingerprint_tells_what_cannot_be_read_from_what_can() -> None:
    """And one reason from another."""
    errors = [ConfigError([ConfigProblem("/a.toml", "", reason)]) for reason in ("x", "y", "y")]
    one, other, same = map(fingerprint, errors)
    assert len({one, other, same, fingerprint([]), fingerprint([Source("/a.toml", b"")])}) == 4
