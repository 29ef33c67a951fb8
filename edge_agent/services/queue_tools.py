"""What a person may ask of the outbox: how it stands, what is in it, and to let go of some of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, Final

import orjson

from edge_agent.core.batch import DeadLetter
from edge_agent.core.records import Encoder, Priority, Record, stream_name
from edge_agent.core.submission import parse_channel
from edge_agent.errors import EdgeAgentError, SubmissionError
from edge_agent.ports import Store
from edge_agent.services.control import Method
from edge_agent.services.keeping import Keeping
from edge_agent.services.outbox import Outbox

PAGE: Final = 500
PAGE_BYTES: Final = 1 << 20


def page_of(store: Store, encoder: Encoder, after: int, rows: int) -> dict[str, Any]:
    """Return records of a store as events, and the keys of damaged ones; ``next`` is where to go on."""
    records, damaged, following = store.peek(after, rows=rows)
    size, some = 0, list[Record]()
    for record in records:
        if some and size + len(record.body) > PAGE_BYTES:
            following = some[-1].key
            break
        some.append(record)
        size += len(record.body)
    events = [orjson.Fragment(encoder.encode(record)) for record in some]
    return {"records": events, "damaged": damaged, "next": following}


def dead_of(store: Store, encoder: Encoder) -> list[dict[str, Any]]:
    """Return the dead letters of a store: the broker's reason code (0: it closes the connection), and the event."""
    return [
        {"reason": letter.reason, "record": orjson.Fragment(encoder.encode(letter.record))}
        for letter in store.dead_letters()
    ]


def stand_of(store: Store) -> dict[str, Any]:
    """Return how a store stands that nobody uses."""
    facts = store.facts
    return {
        "name": facts.name,
        "records": facts.state.records,
        "bytes": facts.state.used,
        "dead": facts.state.dead,
        "gaps": [asdict(gap) for gap in facts.state.gaps],
        "streams": {stream_name(facts.name, p): {"last": used} for p, used in facts.used.items() if used},
    }


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
            "queue-peek": self.peek,
            "queue-dead": self.dead,
            "queue-check": self.check,
            "queue-purge": self.purge,
            "queue-retry": self.retry,
        }

    async def stat(self, params: object) -> object:
        """Return how the outbox stands."""
        _known(params, ())
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

    async def peek(self, params: object) -> object:
        """Return some records in sending order, from ``after`` on, without touching them."""
        given = _known(params, ("after", "limit"))
        after, limit = _number(given, "after", 0, 1 << 62), _number(given, "limit", PAGE, PAGE)
        if after == 0:
            await self._outbox.written()
        return await self._ask(partial(page_of, encoder=self._encoder(), after=after, rows=max(limit, 1)))

    async def dead(self, params: object) -> object:
        """Return the dead letters."""
        _known(params, ())
        return {"dead": await self._ask(partial(dead_of, encoder=self._encoder()))}

    async def check(self, params: object) -> object:
        """Return what is wrong with the file's structure; records are checked as they are read."""
        _known(params, ())
        return {"structure": await self._ask(_structure)}

    async def purge(self, params: object) -> object:
        """Let go of stored records, each named as a gap; what is on its way at the moment stays."""
        async with self._changing:
            return await self._purge(_known(params, ("priority", "channel", "dead")))

    async def _purge(self, given: Mapping[str, Any]) -> object:
        priority = given.get("priority")
        if priority is not None and priority not in (names := [p.name.lower() for p in Priority]):
            raise SubmissionError(f"priority: one of {', '.join(names)} is needed")
        channel = None if given.get("channel") is None else parse_channel(given["channel"])
        outbox = self._outbox
        if given.get("dead"):
            letters: list[DeadLetter] = await self._ask(_letters)
            outbox.pending.undead += [letter.number for letter in letters]
            await outbox.written()
            return {"purged": len(letters)}
        outbox.purging = True
        try:
            await outbox.written()
            wanted = None if priority is None else Priority[str(priority).upper()]
            keys: list[int] = await self._ask(partial(_choose, wanted, channel))
            before = outbox.dropped["purged"]
            outbox.pending.doom(keys, "purged")
            await outbox.written()
        finally:
            outbox.purging = False
            outbox.moved()
        return {"purged": outbox.dropped["purged"] - before}

    async def retry(self, params: object) -> object:
        """Put the dead letters back into the outbox, under new numbers."""
        _known(params, ())
        async with self._changing:
            letters: list[DeadLetter] = await self._ask(_letters)
            again: list[tuple[int, Record]] = []
            for letter in letters:
                record = self._outbox.again(letter.record)
                record.always = True  # on disk before its letter is forgotten
                again.append((letter.number, record))
            await self._outbox.written()
            waiting = {key for lane in self._outbox.lanes.values() for key in lane.fresh}
            self._outbox.pending.undead += [number for number, record in again if record.key not in waiting]
            await self._outbox.written()
        return {"retried": len(letters)}

    async def _ask(self, call: Any) -> Any:  # noqa: ANN401  # whatever the call returns
        found = await self._keeping.read(call)
        if found is None:
            raise EdgeAgentError("the store cannot be read now; see the agent's log")
        return found

    def _encoder(self) -> Encoder:
        return Encoder(self._device, self._outbox.pending.name)


def _structure(store: Store) -> str:
    return store.structure()


def _letters(store: Store) -> list[DeadLetter]:
    return store.dead_letters()


def _choose(priority: Priority | None, channel: str | None, store: Store) -> list[int]:
    return store.choose(priority, channel)


def _known(params: object, names: tuple[str, ...]) -> Mapping[str, Any]:
    if params is None:
        return {}
    if not isinstance(params, Mapping) or not set(params) <= set(names):
        raise SubmissionError(f"unknown parameters; known: {', '.join(names) or 'none'}")
    return params


def _number(given: Mapping[str, Any], name: str, default: int, most: int) -> int:
    value = given.get(name, default)
    if not isinstance(value, int) or not 0 <= value <= most:
        raise SubmissionError(f"{name}: a number from 0 to {most} is needed")
    return value
