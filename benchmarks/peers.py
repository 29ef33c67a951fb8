"""Other durable queues on one disk, as the benchmark of the outbox sees them: put a group, as durably as each can.

Only SQLite by itself can put a group as one; the others are synchronous and take one record a call.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import diskcache
import litequeue
import persistqueue

Put = Callable[[Sequence[bytes]], None]


@dataclass(frozen=True, slots=True)
class Peer:
    """A queue to compare with.

    Attributes:
        name: the package and its class.
        open: makes one in an empty folder, and returns its put.
        durable: whether what was put survives a power cut: whether every put is synchronised to the disk.
        groups: whether a group is put as one.
    """

    name: str
    open: Callable[[Path], Put]
    durable: bool
    groups: bool = False


def _sqlite(folder: Path) -> Put:
    """Open a bare table with the pragmas of the outbox: the most that its engine can give.

    It is the least that a queue needs (number, priority, topic, time, body), and what the requirement was drawn from.
    """
    database = sqlite3.connect(folder / "bare.db", isolation_level=None, check_same_thread=False)
    for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=200"):
        database.execute(f"PRAGMA {pragma}")
    database.execute("CREATE TABLE q(seq INTEGER PRIMARY KEY, prio INT, topic TEXT, ts REAL, body BLOB)")
    numbers = itertools.count(1)

    def put(group: Sequence[bytes]) -> None:
        database.execute("BEGIN IMMEDIATE")
        rows = [(next(numbers), body) for body in group]
        database.executemany("INSERT INTO q VALUES(?, 1, 't/1', 1.0, ?)", rows)
        database.execute("COMMIT")

    return put


def _one_by_one(put_one: Callable[[bytes], object]) -> Put:
    def put(group: Sequence[bytes]) -> None:
        for body in group:
            put_one(body)

    return put


def _persistqueue(folder: Path) -> Put:
    return _one_by_one(persistqueue.SQLiteAckQueue(str(folder)).put)


def _litequeue(folder: Path) -> Put:
    queue = litequeue.LiteQueue(str(folder / "queue.db"))
    return _one_by_one(lambda body: queue.put(body.decode()))  # it takes text only


def _diskcache(folder: Path) -> Put:
    return _one_by_one(diskcache.Deque(directory=str(folder)).append)


BARE: Final = Peer("bare sqlite3, WAL, FULL", _sqlite, durable=True, groups=True)
PEERS: Final = (
    BARE,
    Peer("persist-queue SQLiteAckQueue", _persistqueue, durable=True),
    Peer("litequeue", _litequeue, durable=False),  # synchronous=NORMAL
    Peer("diskcache Deque", _diskcache, durable=False),  # synchronous=NORMAL
)
