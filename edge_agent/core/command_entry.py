"""One command in the journal: what was asked for, how far it has come, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import orjson

from edge_agent.core.command_request import Code, Request
from edge_agent.core.command_states import Happened, State, after
from edge_agent.core.events import Stamp
from edge_agent.core.timebase import UtcNs, rfc3339

REPLY: Final = "edge.reply.v1"
STARTS: Final = 3
"""So many times a command is begun that may run again; one that ends the agent each time would do so for ever."""


@dataclass(frozen=True, slots=True)
class ReplyTo:
    """Where replies go.

    Attributes:
        channel: below ``up/``; ``reply//TOPIC`` is a topic elsewhere.
        correlation: correlation data in hex (MQTT 5 §3.3.2.3.6), ``None`` without any.
        traceparent: W3C trace context.
    """

    channel: str
    correlation: str | None = None
    traceparent: str | None = None


@dataclass(slots=True)
class Entry:
    """One command; times are nanoseconds of true time, ages those of the outbox's own age.

    Attributes:
        id: the sender's, or one of the agent's.
        command: its name.
        digest: tells it from another command that takes its id.
        args: as they arrived; forgotten at the end.
        reply: where replies go.
        received: when it arrived.
        deduplicated: whether its sender gave the id: a second one is answered from the journal.
        state: where it stands.
        starts: how often it was begun.
        due: not before this time, and ``due_age`` this age; when there are both, the first one that comes.
        expires: not begun after this time, nor after ``expires_age`` this age.
        keep_until: not forgotten before this time.
        started: when it was begun the last time.
        finished: when it came to its end.
        result: what it returned, as JSON.
        error: the code and the message of why it did not succeed.
        copies: where else its last reply goes: it was sent again while it was open.
    """

    id: str
    command: str
    digest: str
    args: Mapping[str, Any] | None
    reply: ReplyTo
    received: int
    deduplicated: bool = True
    state: State = State.RECEIVED
    starts: int = 0
    due: int | None = None
    due_age: int | None = None
    expires: int | None = None
    expires_age: int | None = None
    keep_until: int = 0
    started: int | None = None
    finished: int | None = None
    result: str | None = None
    error: tuple[str, str] | None = None
    copies: tuple[ReplyTo, ...] = ()

    def step(self, happened: Happened, now: UtcNs) -> None:
        """Go on to the next state; that ``happened`` cannot happen now is a bug of ours."""
        self.state = after(self.state, happened)
        if self.state is State.RUNNING:
            self.started, self.starts = now, self.starts + 1
        elif self.state.is_final:
            self.finished, self.args = now, None

    def data(self) -> dict[str, object]:
        """Return ``data`` of the reply that says where it stands."""
        said: dict[str, object] = {"command": self.command, "id": self.id, "state": self.state.value}
        if self.error is not None:
            said["error"] = {"code": self.error[0], "message": self.error[1]}
        elif self.state is State.SUCCEEDED:
            said["result"] = orjson.Fragment(self.result or "null")
        return said | {"started": _time(self.started), "finished": _time(self.finished)}

    @property
    def is_never_due(self) -> bool:
        """Whether it will have expired before it may be begun."""
        pairs = ((self.due, self.expires), (self.due_age, self.expires_age))
        return any(due is not None and end is not None and due >= end for due, end in pairs)

    def is_due(self, now: Stamp, age: int) -> bool:
        """Return whether it may be begun."""
        if self.due is None and self.due_age is None:
            return True
        by_time = self.due is not None and is_known(now) and now.time >= self.due
        return by_time or (self.due_age is not None and age >= self.due_age)

    def is_late(self, now: Stamp, age: int) -> bool:
        """Return whether its expiry has passed."""
        by_time = self.expires is not None and is_known(now) and now.time >= self.expires
        return by_time or (self.expires_age is not None and age >= self.expires_age)

    def next_look(self, now: Stamp, age: int) -> int | None:
        """Return after how many nanoseconds it may be due or late; ``None`` = not by the passing of time."""
        waits = [at - age for at in (self.due_age, self.expires_age) if at is not None]
        if is_known(now):
            waits += [at - now.time for at in (self.due, self.expires) if at is not None]
        return min((wait for wait in waits if wait > 0), default=None)

    def dump(self) -> bytes:
        """Return it as it is kept."""
        return orjson.dumps({name: value for name in _FIELDS if (value := getattr(self, name)) != _DEFAULTS.get(name)})


_FIELDS: Final = tuple(one.name for one in fields(Entry))
_DEFAULTS: Final = {one.name: one.default for one in fields(Entry)}


def load(text: bytes) -> Entry:
    """Return what was kept; what a newer version has added is left out."""
    kept = {name: value for name, value in orjson.loads(text).items() if name in _FIELDS}
    kept["reply"], kept["copies"] = ReplyTo(**kept["reply"]), tuple(ReplyTo(**one) for one in kept.get("copies", ()))
    kept["state"], kept["error"] = State(kept["state"]), tuple(kept["error"]) if kept.get("error") else None
    return Entry(**kept)


def is_known(now: Stamp) -> bool:
    """Return whether true time is known well enough to judge by it."""
    return now.state in ("synced", "holdover")


def entry_of(request: Request, command_id: str, reply: ReplyTo, *, now: Stamp, age: int, expiry_s: int | None) -> Entry:
    """Return the entry of a command that has just arrived.

    Args:
        request: what it asks for.
        command_id: the sender's id, or one of the agent's.
        reply: where replies go.
        now: true time.
        age: the outbox's age.
        expiry_s: what is left of its MQTT 5 message expiry, in seconds.
    """
    ttl = min((one for one in (request.ttl, _seconds(expiry_s)) if one is not None), default=None)
    known = is_known(now)
    ends = [] if ttl is None or not known else [now.time + ttl]
    ends += [] if request.expires is None else [request.expires]
    # a delay counts as time passes, and not_before by the clock; with both, the later one
    waits_for_clock = request.not_before is not None and (
        request.delay is None or not known or request.not_before >= now.time + request.delay
    )
    delay = None if waits_for_clock else request.delay
    by_clock = request.not_before if waits_for_clock else now.time + delay if delay is not None and known else None
    return Entry(
        command_id,
        request.command,
        request.digest(),
        request.args,
        reply,
        now.time,
        deduplicated=request.id is not None,
        due=by_clock,
        due_age=None if delay is None else age + delay,
        expires=min(ends, default=None),
        expires_age=None if ttl is None else age + ttl,
        keep_until=request.expires or 0,
    )


def _time(instant: int | None) -> str | None:
    return None if instant is None else rfc3339(UtcNs(instant))


def _seconds(count: int | None) -> int | None:
    return None if count is None else count * 1_000_000_000


def refused(command: str, command_id: str, code: Code, message: str, now: UtcNs) -> dict[str, object]:
    """Return ``data`` of the reply to a command that is not obeyed."""
    state = State.EXPIRED if code is Code.EXPIRED else State.REJECTED
    error = {"code": code.value, "message": message}
    told = {"command": command, "id": command_id, "state": state.value, "error": error}
    return told | {"started": None, "finished": rfc3339(now)}
