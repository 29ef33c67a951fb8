"""What another program may hand in, from whichever door it comes: checked whole before anything is accepted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson

from edge_agent.core.config_types import NAME_PATTERN
from edge_agent.core.records import AND_CORRELATION, Priority
from edge_agent.core.timebase import UtcNs
from edge_agent.core.units import parse_instant
from edge_agent.errors import SubmissionError

ENVELOPE: Final = 64 * 1024
"""Bytes that a request or a file may have above the largest record in it."""

MAX_PARTS: Final = 8
MAX_KEY: Final = 256
OWN_EVENTS: Final = frozenset({"agent", "clock", "config", "job", "outbox"})
"""The kinds of event that the agent says itself."""

_PARAMS: Final = frozenset({"channel", "data", "time", "priority", "keep", "key"})


class Submission(NamedTuple):
    """A record on its way into the outbox.

    Attributes:
        channel: the topic below ``up/``: ``data/…`` or ``event/…`` (or ``reply/…`` from the agent itself).
        data: the event's ``data`` as JSON.
        priority: which stream it belongs to.
        time: when it happened; ``None`` = now.
        latest: while it cannot be sent, a newer one of the same channel replaces it.
        key: the same key twice is one record.
        always: to disk first, even online.
        subject: the event's ``subject``; ``None`` = what follows the channel's first part.
        traceparent: W3C trace context.
        correlation: what a reply is to be told by (MQTT 5 §3.3.2.3.6), in hex.
    """

    channel: str
    data: bytes
    priority: Priority = Priority.NORMAL
    time: UtcNs | None = None
    latest: bool = False
    key: str | None = None
    always: bool = False
    subject: str | None = None
    traceparent: str | None = None
    correlation: str | None = None

    def members(self) -> str | None:
        """Return the event's subject and what else it has, as members of a JSON object; ``None`` = nothing unusual."""
        if self.subject is self.traceparent is self.correlation is None:
            return None
        subject = self.channel.partition("/")[2] if self.subject is None else self.subject
        members = {"subject": subject} | ({} if self.traceparent is None else {"traceparent": self.traceparent})
        correlation = "" if self.correlation is None else AND_CORRELATION + self.correlation
        return orjson.dumps(members)[1:-1].decode() + correlation


def parse_submission(params: object, *, max_record: int) -> Submission:
    """Return what a program hands in, checked.

    Args:
        params: ``{"channel", "data", "time"?, "priority"?, "keep"?, "key"?}`` as it was parsed from JSON.
        max_record: bytes of the largest ``data``.

    Raises:
        SubmissionError: with the parameter, what was found, and what is allowed.
    """
    if not isinstance(params, Mapping):
        raise SubmissionError('the parameters must be an object, like {"channel": "data/temp", "data": {"c": 21.5}}')
    for name in params:
        if name not in _PARAMS:
            raise SubmissionError(f"unknown parameter {_shown(name)}; known: {', '.join(sorted(_PARAMS))}")
    priority = _one_of(params, "priority", ("normal", "critical", "bulk"))
    return Submission(
        channel=parse_channel(params.get("channel")),
        data=_data(params, max_record),
        priority=Priority[priority.upper()],
        time=_time(params.get("time")),
        latest=_one_of(params, "keep", ("all", "latest")) == "latest",
        key=_key(params.get("key")),
    )


def parse_channel(channel: object) -> str:
    """Return a channel that a program may publish to.

    Raises:
        SubmissionError: it is none.
    """
    if not isinstance(channel, str):
        raise SubmissionError(f"channel is needed, like data/temperature; found {_shown(channel)}")
    branch, *parts = channel.split("/")
    if branch not in ("data", "event") or not 1 <= len(parts) <= MAX_PARTS:
        raise SubmissionError(f"channel {_shown(channel)}: data/NAME or event/NAME is needed")
    for part in parts:
        if not re.fullmatch(NAME_PATTERN, part):
            raise SubmissionError(f"channel {_shown(channel)}: {_shown(part)} is no name: 1 to 64 of A-Z a-z 0-9 _ : -")
    if branch == "event" and parts[0] in OWN_EVENTS:
        raise SubmissionError(f"channel {_shown(channel)}: events of kind {parts[0]} are the agent's own; name another")
    return channel


def _data(params: Mapping[Any, object], max_record: int) -> bytes:
    if "data" not in params:
        raise SubmissionError("data is needed: a JSON object")
    if not isinstance(params["data"], dict):
        raise SubmissionError('data must be a JSON object; put a bare value into one, like {"value": 21.5}')
    try:
        data = orjson.dumps(params["data"])
    except (orjson.JSONEncodeError, RecursionError) as error:
        raise SubmissionError(f"data cannot be said in JSON: {error}") from None
    if len(data) > max_record:
        raise SubmissionError(f"data has {len(data)} bytes; outbox.max_record allows {max_record}")
    return data


def _time(value: object) -> UtcNs | None:
    try:
        return None if value is None else parse_instant(value if isinstance(value, str) else _shown(value))
    except ValueError as error:
        raise SubmissionError(f"time: {error}") from None


def _key(value: object) -> str | None:
    if value is None or (isinstance(value, str) and 1 <= len(value) <= MAX_KEY):
        return value
    raise SubmissionError(f"key {_shown(value)}: a string of 1 to {MAX_KEY} characters is needed")


def _one_of(params: Mapping[Any, object], name: str, allowed: tuple[str, ...]) -> str:
    value = params.get(name, allowed[0])
    if value not in allowed:
        raise SubmissionError(f"{name} {_shown(value)}: one of {', '.join(allowed)} is needed")
    return value


def _shown(value: object) -> str:
    if isinstance(value, dict | list):  # perhaps nested too deep for repr()
        return "an object" if isinstance(value, dict) else "an array"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
