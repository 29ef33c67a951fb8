"""One command in the journal: what was asked for, how far it has come, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, NamedTuple

import orjson

from edge_agent.core.command_request import Code, CommandError, Request
from edge_agent.core.command_states import Happened, State, after
from edge_agent.core.events import Stamp
from edge_agent.core.timebase import NANOSECONDS_PER_SECOND, UtcNs, rfc3339

REPLY: Final = "edge.reply.v1"
STARTS: Final = 3
"""So many times a command is begun that may run again; one that ends the agent each time would do so for ever."""

MAX_COPIES: Final = 100


class Moment(NamedTuple):
    """A moment as commands are judged by it.

    Attributes:
        now: true time, and how well it is known.
        age: the outbox's age, in nanoseconds: it stands still only while the device is off.
        boot: the age at which the device was booted.
    """

    now: Stamp
    age: int
    boot: int

    @property
    def is_known(self) -> bool:
        """Whether true time is known well enough to judge by it."""
        return self.now.state in ("synced", "holdover")


@dataclass(frozen=True, slots=True)
class ReplyTo:
    """Where replies go.

    Attributes:
        channel: below ``up/``; ``reply//TOPIC`` is a topic elsewhere, and nothing is whoever waits for it here.
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
        received: when it arrived; ``age``, ``boot``, ``timed``: the same as a ``Moment``, and whether time was known.
        deduplicated: whether its sender gave the id: a second one is answered from the journal.
        state: where it stands.
        starts: how often it was begun.
        not_before: not begun before this time; ``delay``: nor before so long has passed since its receipt.
        expires: not begun from this time on; ``ttl``: nor once so long has passed since its receipt.
        keep_until: not forgotten before this time; ``keep_age``: nor before this age.
        started: when it was begun the last time.
        finished: when it came to its end; ``finished_age``: the age at which.
        result: what it returned, as JSON.
        error: the code and the message of why it did not succeed.
        copies: where its last reply has yet to go: before its end beside ``reply``, for it was sent again.
        stored: whether the journal on the disk knows of it; not written down.
    """

    id: str
    command: str
    digest: str
    args: Mapping[str, Any] | None
    reply: ReplyTo
    received: int
    age: int
    boot: int
    timed: bool = False
    deduplicated: bool = True
    state: State = State.RECEIVED
    starts: int = 0
    not_before: int | None = None
    delay: int | None = None
    expires: int | None = None
    ttl: int | None = None
    keep_until: int = 0
    keep_age: int = 0
    started: int | None = None
    finished: int | None = None
    finished_age: int = 0
    result: str | None = None
    error: tuple[str, str] | None = None
    copies: tuple[ReplyTo, ...] = ()
    stored: bool = False

    @property
    def is_passing(self) -> bool:
        """Whether it is not written down: whoever waits for it here has no id to ask for it again."""
        return not (self.reply.channel or self.deduplicated)

    def step(self, happened: Happened, at: Moment) -> None:
        """Go on to the next state; that ``happened`` cannot happen now is a bug of ours."""
        self.state = after(self.state, happened)
        if self.state is State.RUNNING:
            self.started, self.starts = at.now.time, self.starts + 1
        elif self.state.is_final:
            self.finished, self.finished_age, self.args = at.now.time, at.age, None

    def data(self) -> dict[str, object]:
        """Return ``data`` of the reply that says where it stands."""
        said: dict[str, object] = {"command": self.command, "id": self.id, "state": self.state.value}
        if self.error is not None:
            said["error"] = {"code": self.error[0], "message": self.error[1]}
        elif self.state is State.SUCCEEDED:
            said["result"] = orjson.Fragment(self.result or "null")
        return said | {"started": _time(self.started), "finished": _time(self.finished)}

    def passed(self, at: Moment) -> int:
        """Return how long ago it was received: by the counter; by true time where the device was off meanwhile."""
        counted = max(at.age - self.age, 0)
        by_clock = self.timed and at.is_known and at.boot != self.boot
        return max(counted, at.now.time - self.received) if by_clock else counted

    def is_due(self, at: Moment) -> bool:
        """Return whether it may be begun; where it has a time, that has to be known."""
        if not at.is_known and not (self.not_before is self.expires is None):
            return False
        return self._left(at, self.not_before, self.delay) <= 0

    def is_late(self, at: Moment) -> bool:
        """Return whether its expiry has passed."""
        by_time = self.expires is not None and at.is_known and at.now.time >= self.expires
        return by_time or (self.ttl is not None and self.passed(at) >= self.ttl)

    def next_look(self, at: Moment) -> int | None:
        """Return after how many nanoseconds it may be due or late; ``None`` = not by the passing of time."""
        waits = [self._left(at, self.not_before, self.delay)]
        waits += [] if self.ttl is None else [self.ttl - self.passed(at)]
        waits += [] if self.expires is None or not at.is_known else [self.expires - at.now.time]
        return min((wait for wait in waits if wait > 0), default=None)

    def _left(self, at: Moment, time: int | None, wait: int | None) -> int:
        """Return how long it is until both a time has come and a wait is over."""
        by_time = 0 if time is None or not at.is_known else time - at.now.time
        return max(by_time, 0 if wait is None else wait - self.passed(at))

    def dump(self) -> bytes:
        """Return it as it is kept."""
        return orjson.dumps({name: value for name in _FIELDS if (value := getattr(self, name)) != _DEFAULTS[name]})


_FIELDS: Final = tuple(one.name for one in fields(Entry) if one.name != "stored")
_DEFAULTS: Final = {one.name: one.default for one in fields(Entry)}
_REPLY_FIELDS: Final = frozenset(one.name for one in fields(ReplyTo))


def load(text: bytes) -> Entry:
    """Return what was kept; what a newer version has added is left out.

    Raises:
        ValueError, TypeError, KeyError: it is of a version that nobody here knows.
    """
    kept = {name: value for name, value in orjson.loads(text).items() if name in _FIELDS}
    kept["reply"], kept["copies"] = _reply(kept["reply"]), tuple(_reply(one) for one in kept.get("copies", ()))
    kept["state"], kept["error"] = State(kept["state"]), tuple(kept["error"]) if kept.get("error") else None
    return Entry(**kept, stored=True)


def _reply(kept: Mapping[str, Any]) -> ReplyTo:
    return ReplyTo(**{name: value for name, value in kept.items() if name in _REPLY_FIELDS})


def entry_of(
    request: Request, digest: str, command_id: str, reply: ReplyTo, at: Moment, *, expiry_s: int | None = None
) -> Entry:
    """Return the entry of a command that has just arrived.

    Args:
        request: what it asks for.
        digest: of that.
        command_id: the sender's id, or one of the agent's.
        reply: where replies go.
        at: when.
        expiry_s: what is left of its MQTT 5 message expiry, in seconds.

    Raises:
        CommandError: it is not to be begun, ever or now.
    """
    if not at.is_known and not (request.expires is request.not_before is None):
        text = "the device does not know the time; use ttl or delay instead of expires or not_before, or wait"
        raise CommandError(Code.TIME_UNKNOWN, text)
    expiry = None if expiry_s is None else expiry_s * NANOSECONDS_PER_SECOND
    entry = Entry(
        command_id,
        request.command,
        digest,
        request.args,
        reply,
        *(at.now.time, at.age, at.boot, at.is_known),
        deduplicated=request.id is not None,
        not_before=request.not_before,
        delay=request.delay,
        expires=request.expires,
        ttl=min((one for one in (request.ttl, expiry) if one is not None), default=None),
        keep_until=request.expires or 0,
        keep_age=0 if expiry is None else at.age + expiry,
    )
    if entry.is_late(at):
        raise CommandError(Code.EXPIRED, "its expiry has passed")
    begins = max(at.now.time + (request.delay or 0), request.not_before or 0)
    ends = [one for one in (request.expires, entry.ttl and at.now.time + entry.ttl) if one is not None]
    if min(ends, default=begins + 1) <= begins:
        raise CommandError(Code.INVALID_ARGS, "it would have to begin after it expires")
    return entry


def _time(instant: int | None) -> str | None:
    return None if instant is None else rfc3339(UtcNs(instant))


def refused(command: str, command_id: str, code: Code, message: str, now: UtcNs) -> dict[str, object]:
    """Return ``data`` of the reply to a command that is not obeyed."""
    state = State.EXPIRED if code is Code.EXPIRED else State.REJECTED
    error = {"code": code.value, "message": message}
    told = {"command": command, "id": command_id, "state": state.value, "error": error}
    return told | {"started": None, "finished": rfc3339(now)}
