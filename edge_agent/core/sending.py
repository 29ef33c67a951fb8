"""An operator's command on its way: what is written into it, and what the devices reply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from edge_agent.core.authority import ALL
from edge_agent.core.command_entry import REPLY
from edge_agent.core.command_request import Request
from edge_agent.core.command_states import State
from edge_agent.core.events import decode
from edge_agent.core.timebase import UtcNs, rfc3339
from edge_agent.core.topics import parse_up
from edge_agent.core.units import format_duration

MAX_KNOWN: Final = 100_000
_STATES: Final = tuple(State)  # what stands in a reply may not even be hashable


def group_address(group: str | None) -> str:
    """Return the address of a group; of everybody without one."""
    return ALL if group is None else f"_group/{group}"


def plain(request: Request) -> bytes:
    """Return a command as its unsigned payload."""
    times = {"expires": request.expires, "not_before": request.not_before}
    return orjson.dumps(
        {"id": request.id} | _common(request) | {name: rfc3339(at) for name, at in times.items() if at is not None}
    )


def claims(request: Request, address: str) -> bytes:
    """Return a command as what is to be signed for an address."""
    times = {"exp": request.expires, "nbf": request.not_before}
    dates = {name: _date(at) for name, at in times.items() if at is not None}
    return orjson.dumps({"jti": request.id, "aud": address, "cmd": request.command} | _common(request) | dates)


def _common(request: Request) -> dict[str, Any]:
    waits = {"ttl": request.ttl, "delay": request.delay}
    said: dict[str, Any] = {"args": request.args} if request.args else {}
    return said | {name: format_duration(wait) for name, wait in waits.items() if wait is not None}


def _date(at: UtcNs) -> float:
    """Return an instant as a NumericDate (RFC 7519 §2)."""
    return at // 1_000_000_000 if at % 1_000_000_000 == 0 else at // 1000 / 1_000_000


@dataclass(frozen=True, slots=True)
class Reply:
    """What a device says of a command.

    Attributes:
        device: its id.
        state: where the command stands there.
        data: all that it says.
    """

    device: str
    state: State
    data: Mapping[str, Any]

    @property
    def error(self) -> tuple[str, str] | None:
        """The code and the message of why it did not succeed, if that is said."""
        error = self.data.get("error")
        return (str(error.get("code")), str(error.get("message"))) if isinstance(error, dict) else None


@dataclass(slots=True)
class Replies:
    """Those to one command; what anybody else says under their topic is ignored.

    Attributes:
        prefix: first topic levels.
        command_id: of the command.
        expected: how many final ones there will be; ``None`` = nobody knows.
        last: where the command stands at each device, as far as is known.
    """

    prefix: str
    command_id: str
    expected: int | None
    last: dict[str, State] = field(default_factory=dict)
    _seen: set[tuple[str, str]] = field(default_factory=set)

    def take(self, topic: str, payload: bytes) -> Reply | None:
        """Return what is news: no repetition, and nothing of a device that has said its last word."""
        event, where = decode(payload), parse_up(topic, self.prefix)
        if event is None or where is None or event["type"] != REPLY or len(self._seen) >= MAX_KNOWN:
            return None
        device, data = where[0], event["data"]
        key = (str(event.get("source")), str(event.get("id")))
        state = data.get("state")
        if key in self._seen or data.get("id") != self.command_id or state not in _STATES:
            return None
        self._seen.add(key)
        if device in self.last and self.last[device].is_final:
            return None
        self.last[device] = State(state)
        return Reply(device, State(state), data)

    def final(self) -> list[State]:
        """Return how the command has ended so far, for each device where it has."""
        return [state for state in self.last.values() if state.is_final]

    @property
    def complete(self) -> bool:
        """Whether all that are expected have come."""
        return self.expected is not None and len(self.final()) >= self.expected
