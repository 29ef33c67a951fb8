"""Records of the outbox: their streams, their numbers, and the event that one becomes when it is sent."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

SEQ_BITS: Final = 48
SEQ_MASK: Final = (1 << SEQ_BITS) - 1
BLOCK: Final = 4096
"""Numbers are reserved on disk in blocks of so many: after an unclean stop none is used twice."""


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
