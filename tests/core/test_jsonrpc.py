"""Requests and answers, as lines."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.jsonrpc import (
    INVALID_REQUEST,
    PARSE_ERROR,
    Answer,
    Failure,
    Request,
    encode_answer,
    encode_request,
    parse_answer,
    parse_request,
)


def line(**members: object) -> bytes:
    """Return a request with these members."""
    return json.dumps({"jsonrpc": "2.0", "method": "publish", "params": {}} | members).encode()


@pytest.mark.parametrize("request_id", [0, 7, -1, 2**63 - 1, "a", "", "x" * 128, None])
def test_a_request_has_the_id_it_is_answered_by(request_id: object) -> None:
    """An integer, a string, or null."""
    parsed = parse_request(line(id=request_id))
    assert parsed == Request("publish", {}, request_id)  # type: ignore[arg-type]
    said = json.loads(encode_answer(Answer(request_id, {"n": 1})))  # type: ignore[arg-type]
    assert said == {"jsonrpc": "2.0", "result": {"n": 1}, "id": request_id}


def test_without_an_id_it_is_a_notification() -> None:
    """Which is not the same as an id of null; params may be absent."""
    assert parse_request(line()) == Request("publish", {}, notification=True)
    assert parse_request(b'{"jsonrpc": "2.0", "method": "x", "id": 1, "surplus": 2}\r') == Request("x", None, 1)


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (b"", PARSE_ERROR, "not JSON"),
        (b"{", PARSE_ERROR, "not JSON"),
        (b"\xff\xfe", PARSE_ERROR, "not JSON"),
        (b"[" * 100_000, PARSE_ERROR, "not JSON"),
        (b'{"id": NaN}', PARSE_ERROR, "not JSON"),
        (b"[]", INVALID_REQUEST, "batches"),
        (b"[" + line(id=1) + b"]", INVALID_REQUEST, "batches"),
        (b"1", INVALID_REQUEST, "jsonrpc"),
        (b"{}", INVALID_REQUEST, "jsonrpc"),
        (line(jsonrpc="1.0"), INVALID_REQUEST, "jsonrpc"),
        (line(jsonrpc=2.0), INVALID_REQUEST, "jsonrpc"),
        (line(id=1.5), INVALID_REQUEST, "id must be"),
        (line(id=True), INVALID_REQUEST, "id must be"),
        (line(id=2**70), INVALID_REQUEST, "id must be"),
        (line(id="x" * 129), INVALID_REQUEST, "id must be"),
        (line(id={}), INVALID_REQUEST, "id must be"),
        (line(method=None), INVALID_REQUEST, "method"),
        (line(method=["publish"]), INVALID_REQUEST, "method"),
    ],
)
def test_what_is_no_request_is_answered_with_the_reason(text: bytes, code: int, said: str) -> None:
    """With an id of null, for there is none that can be trusted."""
    answer = parse_request(text)
    assert isinstance(answer, Answer)
    assert isinstance(answer.result, Failure)
    assert (answer.id, answer.result.code) == (None, code)
    assert said in answer.result.message
    assert len(encode_answer(answer)) < 400


def test_a_request_without_a_method_is_answered_by_its_id() -> None:
    """So that the program finds the line that was wrong."""
    answer = parse_request(line(id=5, method=5))
    assert isinstance(answer, Answer)
    assert answer.id == 5


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_have_an_answer(text: bytes) -> None:
    """Nothing is raised."""
    parsed = parse_request(text)
    assert isinstance(parsed, Request) or encode_answer(parsed).endswith(b"\n")


@given(
    st.builds(
        Request, st.text(), st.dictionaries(st.text(), st.integers(-(2**63), 2**63)), st.text(max_size=128) | st.none()
    )
)
def test_a_request_is_read_as_it_was_written(request: Request) -> None:
    """One line each."""
    text = encode_request(request)
    assert text.count(b"\n") == 1
    assert parse_request(text) == request


def test_a_notification_is_read_as_one() -> None:
    """It is written without an id."""
    note = Request("tick", [1], notification=True)
    assert parse_request(encode_request(note)) == note


@pytest.mark.parametrize("result", [{"id": "a.1"}, None, Failure(-1, "no"), Failure(-1, "no", {"word": "full"})])
def test_an_answer_is_read_as_it_was_written(result: object) -> None:
    """A result, or a failure with or without data."""
    text = encode_answer(Answer(3, result))
    assert text.count(b"\n") == 1
    assert parse_answer(text) == Answer(3, result)
    members: dict[str, Any] = json.loads(text)
    assert ("error" in members) is isinstance(result, Failure)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"1", b"null", b"{}", b'{"id": 1}', b'{"id": 1, "error": "no"}', b'{"error": {}}']
)
def test_what_is_no_answer_is_a_value_error(text: bytes) -> None:
    """Whoever talks there is not the daemon."""
    with pytest.raises(ValueError, match="no JSON-RPC answer" if text else "the connection ended"):
        parse_answer(text)
