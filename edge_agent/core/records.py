"""Records of the outbox: their streams and numbers, and the event that one becomes when it is sent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import orjson

from edge_agent.core.events import TimeState
from edge_agent.core.timebase import NANOSECONDS_PER_SECOND, UtcNs, rfc3339

SEQ_BITS: Final = 48
SEQ_MASK: Final = (1 << SEQ_BITS) - 1
BLOCK: Final = 4096
"""Numbers are reserved on disk in blocks of so many: after an unclean stop none is used twice."""

TIME_STATES: Final[tuple[TimeState, ...]] = ("unsynced", "synced", "holdover", "estimated", "unsynced")
GIVEN: Final = 4
"""The program has said when it happened: nobody vouches for it, and nobody corrects it."""

_TYPES: Final = {"data": "edge.data.v1", "event": "edge.event.v1", "reply": "edge.reply.v1"}


AND_CORRELATION: Final = "\n"
"""Stands in no JSON as we write it."""


class Priority(IntEnum):
    """Who goes first, and who is dropped last; each is a stream of its own."""

    CRITICAL = 0
    NORMAL = 1
    BULK = 2


def pack(priority: Priority, seq: int) -> int:
    """Return the key under which a record is stored: ordered by priority, then by number."""
    return priority << SEQ_BITS | seq


def unpack(key: int) -> tuple[Priority, int]:
    """Return the priority and the number of a key."""
    return Priority(key >> SEQ_BITS), key & SEQ_MASK


def stream_name(outbox: str, priority: Priority) -> str:
    """Return the name of a stream of one incarnation of the outbox."""
    return f"{outbox}-{priority.name.lower()}"


@dataclass(slots=True, eq=False)
class Record:
    """One record.

    Attributes:
        key: packed priority and number.
        channel: its topic below ``up/``; the first part gives the event's type.
        body: the event's ``data`` as JSON.
        made: when it was put, in nanoseconds of the outbox's own age, which stands still only while the device is off.
        time: when it happened.
        time_state: index into ``TIME_STATES``: how well ``time`` is known.
        error_ms: bound of the error of ``time``; ``None`` when unsynced.
        latest: whether a newer one of its channel replaces it while it is unsent.
        extra: further attributes of the event as JSON members (``"subject":"x"``), ``None`` = the usual subject alone;
            and after ``AND_CORRELATION`` what the message, not the event, has as correlation data, in hex.
        always: whether it must be on the disk before it is sent; not stored, for what is stored is.
        bound: whether it must be in the store at the same moment as the next one of its lane.
        waiter: whoever waits for it to be durable; the service's business.
    """

    key: int
    channel: str
    body: bytes
    made: int
    time: UtcNs
    time_state: int = 0
    error_ms: int | None = None
    latest: bool = False
    extra: str | None = None
    always: bool = False
    bound: bool = False
    waiter: Any = None

    @property
    def seq(self) -> int:
        """Its number in its stream."""
        return self.key & SEQ_MASK

    @property
    def correlation(self) -> bytes | None:
        """What a reply is told by (MQTT 5 §3.3.2.3.6)."""
        found = None if self.extra is None else self.extra.partition(AND_CORRELATION)[2]
        return bytes.fromhex(found) if found else None


@dataclass(frozen=True, slots=True, order=True)
class Gap:
    """Numbers of a stream that will not be delivered.

    Attributes:
        stream: the stream's name.
        first: the first number.
        last: the last number.
        count: how many of them; all, unless the range had to be made coarser.
        reason: one stable word. ``unclean_stop``: numbers that were used or not.
    """

    stream: str
    first: int
    last: int
    count: int
    reason: str


def runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return ascending numbers as ranges ``(first, last)`` of consecutive ones."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    return found


class Encoder:
    """Makes events of the records of one incarnation of the outbox; what repeats from one to the next is made once."""

    def __init__(self, device: str, outbox: str) -> None:
        self._source = orjson.dumps(f"/devices/{device}")
        self.outbox = outbox
        self._frames: dict[tuple[int, str], tuple[bytes, bytes]] = {}
        self._second = -1
        self._second_text = b""

    def encode(self, record: Record) -> bytes:
        """Return a record as one CloudEvent in structured JSON."""
        frame = self._frames.get((record.key >> SEQ_BITS, record.channel))
        if frame is None:
            frame = self._frame(record)
        head, tail = frame
        if record.extra is not None:
            tail = f",{record.extra.partition(AND_CORRELATION)[0]}".encode()
        if record.error_ms is not None:
            tail = b',"timeerrorms":%d%s' % (record.error_ms, tail)
        seq = record.key & SEQ_MASK
        second, fraction = divmod(record.time, NANOSECONDS_PER_SECOND)
        if second != self._second:
            self._second = second
            self._second_text = rfc3339(UtcNs(second * NANOSECONDS_PER_SECOND))[:-7].encode()
        return (
            b'%s%d","sequence":"%016d","time":"%s%06dZ","timestate":"%s","datacontenttype":"application/json"%s,"data":%s}'
            % (
                head,
                seq,
                seq,
                self._second_text,
                fraction // 1000,
                _STATE_BYTES[record.time_state],
                tail,
                record.body,
            )
        )

    def encode_many(self, records: Sequence[Record]) -> bytes:
        """Return several records as one batch (CloudEvents JSON batch format)."""
        return b"[" + b",".join([self.encode(record) for record in records]) + b"]"

    def _frame(self, record: Record) -> tuple[bytes, bytes]:
        branch, _, subject = record.channel.partition("/")
        stream = stream_name(self.outbox, Priority(record.key >> SEQ_BITS))
        head = b'{"specversion":"1.0","type":"%s","source":%s,"id":"%s.' % (
            _TYPES[branch].encode(),
            self._source,
            stream.encode(),
        )
        frame = head, b',"subject":' + orjson.dumps(subject)
        if len(self._frames) >= 1000:  # channels are other programs' choice
            self._frames.clear()
        self._frames[record.key >> SEQ_BITS, record.channel] = frame
        return frame


_STATE_BYTES: Final = tuple(state.encode() for state in TIME_STATES)
