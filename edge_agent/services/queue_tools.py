"""What a person may ask of the outbox: how it stands, what is in it, and to let go of some of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from itertools import accumulate
from typing import Any, Final, TypeVar

import orjson

from edge_agent.core.records import Encoder, Priority, stream_name
from edge_agent.core.submission import parse_channel
from edge_agent.errors import EdgeAgentError, SubmissionError
from edge_agent.ports import Store
from edge_agent.services.control import Method
from edge_agent.services.keeping import Keeping
from edge_agent.services.outbox import Outbox

T = TypeVar("T")

PAGE: Final = 500
PAGE_BYTES: Final = 1 << 20

Params = Mapping[str, Any]


# ---------------------------------------------------------------- what is read from the store
def _page(store: Store, encoder: Encoder, params: Params) -> dict[str, Any]:
    """Return records as events, and the keys of damaged ones; ``next`` is where to go on."""
    records, damaged, following = store.peek(params.get("after", 0), rows=PAGE)
    sizes = accumulate(len(record.body) for record in records)
    some = [record for record, size in zip(records, sizes, strict=True) if size <= PAGE_BYTES] or records[:1]
    events = [orjson.Fragment(encoder.encode(record)) for record in some]
    return {"records": events, "damaged": damaged, "next": following if len(some) == len(records) else some[-1].key}


def _dead(store: Store, encoder: Encoder, _params: Params) -> dict[str, Any]:
    """Return the dead letters: the broker's reason code (0: it closes the connection), and the event."""
    letters = store.dead_letters()
    return {"dead": [{"reason": one.reason, "record": orjson.Fragment(encoder.encode(one.record))} for one in letters]}


def _structure(store: Store, _encoder: Encoder, _params: Params) -> dict[str, Any]:
    """Return what is wrong with the file's structure; records are checked as they are read."""
    return {"structure": store.structure()}


_READINGS: Final = {"queue-peek": _page, "queue-dead": _dead, "queue-check": _structure}


def answer_from(store: Store, device: str, method: str, **params: object) -> dict[str, Any]:
    """Answer as the agent would, from a store that no agent uses."""
    facts = store.facts
    if method != "queue-stat":
        return _READINGS[method](store, Encoder(device, facts.name), params)
    return {
        "name": facts.name,
        "running": False,
        "records": facts.state.records,
        "bytes": facts.state.used,
        "dead": facts.state.dead,
        "gaps": [asdict(gap) for gap in facts.state.gaps],
        "streams": {stream_name(facts.name, p): {"last": used} for p, used in facts.used.items() if used},
    }


# ---------------------------------------------------------------- what is asked of the outbox
class QueueTools:
    """The ``queue-…`` methods of the control socket."""

    def __init__(self, outbox: Outbox, keeping: Keeping, *, device: str) -> None:
        self._outbox = outbox
        self._keeping = keeping
        self._device = device
        self._changing = asyncio.Lock()

    def methods(self) -> dict[str, Method]:
        """Return them by name."""
        return {
            "queue-stat": self.stat,
            "queue-purge": self.purge,
            "queue-retry": self.retry,
            **{method: partial(self._read, method) for method in _READINGS},
        }

    async def stat(self, params: object) -> object:
        """Return how the outbox stands."""
        _given(params)
        outbox = self._outbox
        return asdict(outbox.measure()) | {
            "name": outbox.pending.name,
            "max_bytes": outbox.config.max_bytes,
            "online": outbox.online,
            "conditions": outbox.conditions(),
            "dropped_by_reason": dict(outbox.dropped),
            "dead": outbox.state.dead + len(outbox.pending.dead),
            "gaps": [asdict(gap) for gap in (*outbox.state.gaps, *outbox.pending.lost)],
            "streams": {
                stream_name(outbox.pending.name, lane.priority): {
                    "last": lane.next_seq - 1,
                    "in_flight": len(lane.flying),
                    "in_memory_alone": len(lane.fresh),
                    "held": sorted(name for name in lane.held if name),
                }
                for lane in outbox.lanes.values()
                if lane.next_seq > 1
            },
        }

    async def _read(self, method: str, params: object) -> object:
        """Return what is in the store, without touching it."""
        given = _given(params, *(["after"] if method == "queue-peek" else []))
        if not given.get("after"):
            await self._outbox.written()
        encoder = Encoder(self._device, self._outbox.pending.name)
        return await self._ask(lambda store: _READINGS[method](store, encoder, given))

    async def purge(self, params: object) -> object:
        """Let go of stored records, each named as a gap; what is on its way at the moment stays."""
        given, outbox = _given(params, "priority", "channel", "dead"), self._outbox
        if given.get("dead") and len(given) > 1:
            raise SubmissionError("dead: all dead letters go at once; leave out priority and channel")
        async with self._changing:
            if given.get("dead"):
                letters = await self._ask(lambda store: store.dead_letters())
                outbox.pending.undead += [letter.number for letter in letters]
                await outbox.written()
                return {"purged": len(letters)}
            outbox.purging = True
            try:
                await outbox.written()
                keys = await self._ask(lambda store: store.choose(given.get("priority"), given.get("channel")))
                before = outbox.dropped["purged"]
                outbox.pending.doom(keys, "purged")
                await outbox.written()
            finally:
                outbox.purging = False
                outbox.moved()
            return {"purged": outbox.dropped["purged"] - before}

    async def retry(self, params: object) -> object:
        """Put the dead letters back into the outbox, under new numbers."""
        _given(params)
        async with self._changing:
            letters = await self._ask(lambda store: store.dead_letters())
            again = [(letter.number, self._outbox.again(letter.record)) for letter in letters]
            for _, record in again:
                record.always = True  # on disk before its letter is forgotten
            await self._outbox.written()
            waiting = {key for lane in self._outbox.lanes.values() for key in lane.fresh}
            self._outbox.pending.undead += [number for number, record in again if record.key not in waiting]
            await self._outbox.written()
        return {"retried": len(letters)}

    async def _ask(self, call: Callable[[Store], T]) -> T:
        found = await self._keeping.read(call)
        if found is None:
            raise EdgeAgentError("the store cannot be read now; see the agent's log")
        return found


# ---------------------------------------------------------------- params
def _key(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << 62:
        raise SubmissionError("after: what the last answer has as next is needed, or 0")
    return value


def _priority(value: object) -> Priority:
    found = next((priority for priority in Priority if priority.name.lower() == value), None)
    if found is None:
        raise SubmissionError(f"priority: one of {', '.join(one.name.lower() for one in Priority)} is needed")
    return found


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise SubmissionError("dead: true or false is needed")
    return value


_PARAMS: Final[Mapping[str, Callable[[Any], object]]] = {
    "after": _key,
    "priority": _priority,
    "channel": parse_channel,
    "dead": _flag,
}


def _given(params: object, *names: str) -> dict[str, Any]:
    """Return the params of a request, of which only these may be there.

    Raises:
        SubmissionError: there are others, or one is not valid.
    """
    if params is not None and not (isinstance(params, Mapping) and set(params) <= set(names)):
        raise SubmissionError(f"unknown parameters; known: {', '.join(names) or 'none'}")
    return {name: _PARAMS[name](value) for name, value in (params or {}).items() if value is not None}
