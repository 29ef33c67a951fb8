"""What a person may ask of the outbox: how it stands, what is in it, and to let go of some of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any, Final, TypeVar

import orjson

from edge_agent.command_ports import NoArgs
from edge_agent.core.config_types import Section
from edge_agent.core.records import Encoder, Priority, stream_name
from edge_agent.errors import EdgeAgentError
from edge_agent.ports import Store
from edge_agent.services.control import After, Method, method
from edge_agent.services.keeping import Keeping
from edge_agent.services.outbox import Outbox

T = TypeVar("T")

PAGE: Final = 500


# ---------------------------------------------------------------- what is read from the store
def _page(store: Store, encoder: Encoder, args: After) -> dict[str, Any]:
    """Return records as events, and the keys of damaged ones; ``next`` is where to go on."""
    records, damaged, following = store.peek(args.after, rows=PAGE)
    events = [orjson.Fragment(encoder.encode(record)) for record in records]
    return {"records": events, "damaged": damaged, "next": following}


def _dead(store: Store, encoder: Encoder, _args: Section) -> dict[str, Any]:
    """Return the dead letters: the broker's reason code (0: it closes the connection), and the event."""
    letters = store.dead_letters()
    return {"dead": [{"reason": one.reason, "record": orjson.Fragment(encoder.encode(one.record))} for one in letters]}


def _structure(store: Store, _encoder: Encoder, _args: Section) -> dict[str, Any]:
    """Return what is wrong with the file's structure; records are checked as they are read."""
    return {"structure": store.structure()}


_READINGS: Final[dict[str, tuple[type[Section], Callable[[Store, Encoder, Any], dict[str, Any]]]]] = {
    "queue-peek": (After, _page),
    "queue-dead": (NoArgs, _dead),
    "queue-check": (NoArgs, _structure),
}


def answer_from(store: Store, device: str, method: str, **params: object) -> dict[str, Any]:
    """Answer as the agent would, from a store that no agent uses."""
    facts = store.facts
    if method != "queue-stat":
        args, read = _READINGS[method]
        return read(store, Encoder(device, facts.name), args.model_validate(params))
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
    """What the ``queue-…`` commands do, and the methods of the control socket beside them."""

    def __init__(self, outbox: Outbox, keeping: Keeping, *, device: str) -> None:
        self._outbox = outbox
        self._keeping = keeping
        self._device = device
        self._changing = asyncio.Lock()

    def methods(self) -> dict[str, Method]:
        """Return them by name."""
        return {
            "queue-retry": method(NoArgs, self.retry),
            **{name: method(args, partial(self._read, read)) for name, (args, read) in _READINGS.items()},
        }

    def stat(self) -> dict[str, Any]:
        """Return how the outbox stands."""
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

    async def _read(self, read: Callable[[Store, Encoder, Any], dict[str, Any]], args: Section) -> object:
        """Return what is in the store, without touching it."""
        if not (isinstance(args, After) and args.after):
            await self._outbox.written()
        encoder = Encoder(self._device, self._outbox.pending.name)
        return await self._ask(lambda store: read(store, encoder, args))

    async def purge(self, priority: Priority | None = None, channel: str | None = None) -> int:
        """Let go of stored records, each named as a gap; what is on its way at the moment stays."""
        outbox = self._outbox
        async with self._changing:
            outbox.purging = True
            try:
                await outbox.written()
                keys = await self._ask(lambda store: store.choose(priority, channel))
                before = outbox.dropped["purged"]
                outbox.pending.doom(keys, "purged")
                await outbox.written()
            finally:
                outbox.purging = False
                outbox.moved()
            return outbox.dropped["purged"] - before

    async def purge_dead(self) -> int:
        """Let go of all dead letters."""
        async with self._changing:
            letters = await self._ask(lambda store: store.dead_letters())
            self._outbox.pending.undead += [letter.number for letter in letters]
            await self._outbox.written()
        return len(letters)

    async def retry(self, _args: NoArgs) -> object:
        """Put the dead letters back into the outbox, under new numbers."""
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
