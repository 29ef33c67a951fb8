"""What is written into a command, and what its replies say."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from edge_agent.adapters import jose
from edge_agent.core.authority import Authority
from edge_agent.core.command_entry import REPLY
from edge_agent.core.command_request import Request, parse_request
from edge_agent.core.command_states import State
from edge_agent.core.config_models import Commands
from edge_agent.core.sending import Replies, claims, group_address, plain
from edge_agent.core.timebase import DurationNs, UtcNs
from tests.support.tokens import Key

KEY = Key("ops")
SECOND = 1_000_000_000
REQUESTS = [
    Request("ping", "c-1"),
    Request("job-run", "c-2", {"job": "sync"}, expires=UtcNs(1_900_000_000 * SECOND)),
    Request(
        *("exec", "c-3", {"program": "x", "n": [1, None]}),
        expires=UtcNs(1_900_000_000_123_456_000),
        ttl=DurationNs(90 * SECOND),
        not_before=UtcNs(SECOND),
        delay=DurationNs(SECOND // 2),
    ),
]


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_command_is_read_as_it_was_meant(request_: Request) -> None:
    """By the device, unsigned and, with an expiry, signed for each kind of address."""
    assert parse_request(request_.command, plain(request_)) == request_
    if request_.expires is None:
        return
    authority = Authority(
        Commands.model_validate({"keys": {"ops": {"public": KEY.public}}}), "dev-1", ["g"], jose.verify
    )
    for address in ("dev-1", group_address("g"), group_address(None)):
        token = jose.sign(claims(request_, address), KEY.jwk, kid=None)
        assert authority.read(request_.command, address, token)[0] == request_


def reply(state: object, *, event: str = "s.1", device: str = "dev-1", **data: object) -> bytes:
    """Return a reply as a device publishes it."""
    said = {"command": "ping", "id": "c-1", "state": state} | data
    return orjson.dumps({"type": REPLY, "source": f"/devices/{device}", "id": event, "data": said})


def taken(replies: Replies, *payloads: bytes, device: str = "dev-1") -> list[Any]:
    """Return the states that were news."""
    heard = (replies.take(f"edge/{device}/up/reply/c-1", payload) for payload in payloads)
    return [one.state if one else None for one in heard]


def test_repetitions_are_no_news_and_a_last_word_is_the_last() -> None:
    """An event that comes twice, and whatever comes after the end, even under an id of its own."""
    replies = Replies("edge", "c-1", 1)
    assert taken(replies, reply("accepted"), reply("accepted"), reply("running", event="s.2")) == [
        *(State.ACCEPTED, None, State.RUNNING),
    ]
    assert (replies.complete, replies.final()) == (False, [])
    after = [reply("succeeded", event="s.3"), reply("succeeded", event="s.4"), reply("accepted", event="s.5")]
    assert taken(replies, *after) == [State.SUCCEEDED, None, None]
    assert (replies.complete, replies.final()) == (True, [State.SUCCEEDED])


def test_each_device_counts_once() -> None:
    """The same event id of two devices is two events; who expects nothing in particular is never done."""
    replies, open_ended = Replies("edge", "c-1", 2), Replies("edge", "c-1", None)
    for device in ("dev-1", "dev-2", "dev-3"):
        for one in (replies, open_ended):
            assert taken(one, reply("failed", device=device), device=device) == [State.FAILED]
        assert replies.complete == (device != "dev-1")
    assert not open_ended.complete
    assert len(open_ended.final()) == 3


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b"\xff", b"[]", b"{}", reply("received!"), reply(None), reply(["accepted"]), reply({}), reply(5)),
        reply("accepted", id="c-2"),
        reply("accepted").replace(REPLY.encode(), b"edge.data.v1"),
    ],
)
def test_what_is_no_reply_to_it_is_ignored(payload: bytes) -> None:
    """Whoever may publish there may publish nonsense."""
    assert taken(Replies("edge", "c-1", 1), payload) == [None]


def test_an_error_is_read_where_there_is_one() -> None:
    """Whatever else stands there is none."""
    for error, read in (({"code": "busy", "message": "x"}, ("busy", "x")), ({}, ("None", "None")), ("busy", None)):
        heard = Replies("edge", "c-1", 1).take("edge/d/up/reply/c-1", reply("rejected", error=error))
        assert heard is not None
        assert heard.error == read
