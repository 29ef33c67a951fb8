"""What arrives as a command: read whole, or refused with what was found and what to do."""

from __future__ import annotations

import re
from typing import Any

import orjson
import pytest
from pydantic import Field, field_validator

from edge_agent.core.command_request import (
    MAX_CORRELATION,
    Code,
    CommandError,
    Request,
    id_from_correlation,
    parse_args,
    parse_request,
    request_from,
)
from edge_agent.core.config_types import Name, Section

SECOND = 1_000_000_000


def refusal(payload: bytes) -> CommandError:
    """Return why a payload is refused."""
    with pytest.raises(CommandError) as raised:
        parse_request("ping", payload).digest()
    assert raised.value.code is Code.INVALID_ARGS
    return raised.value


def test_all_of_a_command_is_read() -> None:
    """Every key of it."""
    said = {"id": "c-1", "args": {"a": 1}, "ttl": "10m", "delay": "30s"}
    said |= {"expires": "2026-12-01T00:00:00Z", "not_before": "2026-11-30T00:00:00Z"}
    request = parse_request("ping", orjson.dumps(said))
    assert (request.command, request.id, request.args) == ("ping", "c-1", {"a": 1})
    assert (request.expires, request.not_before) == (1_796_083_200 * SECOND, 1_795_996_800 * SECOND)
    assert (request.ttl, request.delay) == (600 * SECOND, 30 * SECOND)


@pytest.mark.parametrize("payload", [b"", b"{}", b'{"id": null, "args": null, "ttl": null}'])
def test_nothing_is_needed(payload: bytes) -> None:
    """A command without anything is one."""
    assert parse_request("ping", payload) == Request("ping")


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"{", "not JSON"),
        (b"[]", "an object like"),
        (b'"c-1"', "an object like"),
        (b'{"id": 7}', "id: "),
        (b'{"id": "a/b"}', "id: "),
        (b'{"id": ""}', "id: "),
        (b'{"arg": {}}', "unknown key 'arg'"),
        (b'{"args": [1]}', "args: an object"),
        (b'{"ttl": 5}', "ttl: a string"),
        (b'{"ttl": "soon"}', "ttl: "),
        (b'{"delay": "3651d"}', "delay: .*at most 3650d"),
        (b'{"expires": "tomorrow"}', "expires: "),
    ],
)
def test_what_is_wrong_is_named(payload: bytes, reason: str) -> None:
    """With the key where there is one."""
    error = refusal(payload)
    assert re.search(reason.replace("'", "."), str(error)), str(error)


def test_a_refusal_has_the_id_where_it_can_be_read() -> None:
    """So that whoever waits for that id is told."""
    assert refusal(b'{"id": "c-1", "ttl": "soon"}').id == "c-1"
    assert refusal(b'{"id": "a/b", "ttl": "soon"}').id is None


def test_what_is_nested_deeper_than_can_be_written_down_is_refused() -> None:
    """JSON is read four times as deep as it is written."""
    deep = b'{"id": "c-1", "args": {"a": ' + b"[" * 500 + b"]" * 500 + b"}}"
    error = refusal(deep)
    assert error.id == "c-1"
    assert "nest" in str(error)


def test_the_same_command_has_the_same_digest() -> None:
    """In whatever order its arguments come; any other has another."""

    def digest(command: str, args: dict[str, Any]) -> str:
        return request_from(command, {"args": args}).digest()

    assert digest("a", {"x": 1, "y": {"b": 2, "c": 3}}) == digest("a", {"y": {"c": 3, "b": 2}, "x": 1})
    others = [digest("a", {}), digest("b", {}), digest("a", {"x": 1}), digest("a", {"x": "1"}), digest("a", {"x": [1]})]
    assert len(set(others)) == len(others)


def test_correlation_data_serve_as_an_id() -> None:
    """As they are if they are a name, else in hex, or a digest of them: always a name that fits into a topic."""
    assert id_from_correlation(b"c-1") == "c-1"
    assert id_from_correlation(b"\x00\xff/") == "00ff2f"
    assert id_from_correlation(b"a b") == "612062"
    long = [id_from_correlation(b"x" * size) for size in (65, 66, MAX_CORRELATION)]
    assert all(len(one) == 64 for one in long)
    assert len(set(long)) == 3


def test_correlation_data_that_are_too_long_to_be_kept_are_refused() -> None:
    """They would be kept with every reply."""
    with pytest.raises(CommandError, match=f"{MAX_CORRELATION} are allowed"):
        id_from_correlation(b"x" * (MAX_CORRELATION + 1))


class Args(Section):
    """Some arguments."""

    job: Name = Field("a", description="A name.")
    count: int = Field(0, ge=0, description="A number.")


@pytest.mark.parametrize("given", [None, {}])
def test_no_arguments_are_an_empty_object(given: object) -> None:
    """At every door."""
    assert parse_args(Args, given) == Args()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], 'args: an object like {"job": "sync"} is needed'),
        ({"jbo": 1}, "args.jbo: unknown key 'jbo'; did you mean 'job'?"),
        (
            {"job": "a b", "count": "1"},
            'args.job: found "a b"; a name of 1 to 64 of A-Z a-z 0-9 _ : - is needed; args.count: found',
        ),
        ({str(number): 0 for number in range(1000)}, "; 996 more like it"),
    ],
)
def test_what_is_wrong_is_said_and_not_too_much_of_it(given: object, words: str) -> None:
    """Where, what was found, what is allowed."""
    with pytest.raises(CommandError) as invalid:
        parse_args(Args, given)
    assert invalid.value.code is Code.INVALID_ARGS
    assert words in str(invalid.value)
    assert len(str(invalid.value)) < 500


def test_a_bug_of_a_package_is_not_ours() -> None:
    """A model that raises anything fails its command alone."""

    class Bad(Section):
        """Never valid."""

        n: int = 0

        @field_validator("n")
        @classmethod
        def _never(cls, _value: int) -> int:
            raise KeyError("n")

    with pytest.raises(CommandError, match=r"^args: KeyError in the model Bad; this is a bug"):
        parse_args(Bad, {"n": 1})
