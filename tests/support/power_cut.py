"""Builds the states in which a power cut may leave a folder, from a log of ``iotrace``.

A write is certain once a later sync of its file has returned. Until then it is there whole, torn at sectors, or not at
all, each write for itself; after a sync that failed it stays so for ever, whatever later syncs say. Names and sizes
(create, rename, unlink, mkdir, truncate) survive in order, as a prefix: at least those before the last fsync of
anything, or the last fdatasync of a file that had grown. That is ext4's journal above a disk that writes in any order.
"""

from __future__ import annotations

import bisect
import os
import random
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

MARKS: Final = "MARKS"  # the shim knows it too
SECTOR: Final = 512  # bytes that a disk writes whole or not at all
_HEADER: Final = struct.Struct("=cQQI")  # of a record: kind, inode, value, length of the data


def marker(directory: Path) -> Callable[[bytes], None]:
    """Return what writes marks into a traced folder; each says at its place in the log what a worker has done."""
    descriptor = os.open(directory / MARKS, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def mark(text: bytes) -> None:
        assert text, "an empty mark leaves no trace"
        os.write(descriptor, text)

    return mark


@dataclass(frozen=True, slots=True)
class Op:
    """One change or sync.

    Attributes:
        kind: C create, M mkdir, U unlink or rmdir, R rename, T set size, W write, Y write that is its own sync,
            S fsync, D fdatasync, F a sync that failed.
        inode: of the file; 0 where only names count.
        value: W and Y: the offset; T: the size; S, D and F: how many operations there had been when it began.
        data: W and Y: what was written; C, M and U: the name; R: both names, with a NUL between them.
    """

    kind: str
    inode: int
    value: int
    data: bytes

    @property
    def names(self) -> list[str]:
        """The names that the operation is about."""
        return os.fsdecode(self.data).split("\0")


@dataclass(slots=True)
class _Pending:
    """A write, or a change of size, that is not part of what is certain yet."""

    index: int
    op: Op
    certain: bool
    failed: bool = False


@dataclass(slots=True)
class _File:
    """What is certain of a file, and what has happened to it since."""

    certain: bytearray = field(default_factory=bytearray)
    pending: list[_Pending] = field(default_factory=list)
    size: int = 0
    grown: int = 0  # the operation that last changed the size or created it

    def settle(self) -> None:
        """Move what has become certain from pending to certain, as far as nothing uncertain comes before it."""
        done = 0
        while done < len(self.pending) and self.pending[done].certain:
            _apply(self.certain, self.pending[done].op)
            done += 1
        del self.pending[:done]


_Names = dict[str, _File | None]  # None: a folder
_Change = tuple[int, Op, _File | None]


class PowerCut:
    """A log, and the disk states that a cut in it may leave.

    Attributes:
        ops: what was logged, without the marks.
        marks: each mark, with the number of operations before it.
    """

    def __init__(self, ops: list[Op], marks: list[tuple[int, bytes]]) -> None:
        self.ops = ops
        self.marks = marks
        self._rewind()

    @classmethod
    def load(cls, log: Path) -> PowerCut:
        """Read a log.

        Args:
            log: what ``Iotrace.environ`` was given; the traced folder must have been empty at its begin.
        """
        ops: list[Op] = []
        starts: list[int] = []
        marks: list[tuple[int, bytes]] = []
        marks_inode = -1
        raw = log.read_bytes()
        at = 0
        while at < len(raw):
            start = at
            kind, inode, value, length = _HEADER.unpack_from(raw, at)
            at += _HEADER.size + length
            data = raw[at - length : at]
            if kind == b"C" and data == MARKS.encode():
                marks_inode = inode
            elif inode == marks_inode:
                marks.append((len(ops), data))
            else:
                if kind in b"SDF":
                    value = bisect.bisect_left(starts, value)  # from bytes of log to operations
                ops.append(Op(kind.decode(), inode, value, data))
                starts.append(start)
        return cls(ops, marks)

    def marks_before(self, cut: int) -> list[bytes]:
        """Return the marks that a worker may have written when the power was cut after so many operations."""
        return [text for index, text in self.marks if index <= cut]

    def cuts(self, count: int, rng: random.Random, *, first: int = 0) -> list[int]:
        """Return random cuts for ``build``, ascending: in this order the log is replayed only once."""
        return sorted(rng.randint(first, len(self.ops)) for _ in range(count))

    def build(self, cut: int, rng: random.Random, into: Path) -> None:
        """Make one of the states in which a cut may leave the folder.

        Args:
            cut: after how many operations.
            rng: decides what of the uncertain survives.
            into: the folder to make; what is there is removed first.
        """
        if cut < self._done:
            self._rewind()
        while self._done < cut:
            self._replay(self._done, self.ops[self._done])
            self._done += 1
        survive = rng.randint(0, len(self._changes))
        horizon = self._changes[survive][0] if survive < len(self._changes) else cut
        names = dict(self._names)
        for _, op, created in self._changes[:survive]:
            _rename(names, op, created)
        share = rng.random()  # of the writes that survive whole: some cuts lose nearly all, others nearly nothing
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir(parents=True)
        for name, file in names.items():
            if file is None:
                (into / name).mkdir(parents=True, exist_ok=True)
            else:
                (into / name).parent.mkdir(parents=True, exist_ok=True)
                (into / name).write_bytes(_content(file, horizon, share, rng))

    # ---------------------------------------------------------------- replay
    def _rewind(self) -> None:
        self._done = 0
        self._inodes: dict[int, _File] = {}
        self._names: _Names = {}  # as they are certain
        self._changes: list[_Change] = []  # of names and sizes, that no sync has made certain

    def _replay(self, index: int, op: Op) -> None:
        match op.kind:
            case "C":
                file = self._inodes[op.inode] = _File(grown=index)
                self._changes.append((index, op, file))
            case "M" | "U" | "R":
                self._changes.append((index, op, None))
            case "T":
                file = self._inodes[op.inode]
                file.pending.append(_Pending(index, op, certain=False))
                file.size, file.grown = op.value, index
                self._changes.append((index, op, file))
            case "W" | "Y":
                self._write(index, op)
            case "S" | "D":
                self._sync(op)
            case _:
                assert op.kind == "F", op
                for one in self._written_before(op):
                    one.failed = not one.certain

    def _write(self, index: int, op: Op) -> None:
        file = self._inodes[op.inode]
        file.pending.append(_Pending(index, op, certain=op.kind == "Y"))
        if op.value + len(op.data) > file.size:
            file.size, file.grown = op.value + len(op.data), index
        if op.kind == "Y":
            self._commit(index + 1, file)
            file.settle()

    def _written_before(self, sync: Op) -> list[_Pending]:
        """Return the pending writes of a file that were there when a sync of it began."""
        file = self._inodes.get(sync.inode, _File())  # a folder has none
        return [one for one in file.pending if one.index < sync.value and one.op.kind != "T"]

    def _sync(self, op: Op) -> None:
        for one in self._written_before(op):
            one.certain = not one.failed
        file = self._inodes.get(op.inode)
        self._commit(op.value, file if op.kind == "D" else None)
        if file is not None:
            file.settle()

    def _commit(self, before: int, grown: _File | None) -> None:
        """Make the names and sizes before an operation certain; with a file, only if it has grown among them."""
        if grown is not None and not (self._changes and grown.grown >= self._changes[0][0]):
            return
        kept = bisect.bisect_left(self._changes, before, key=lambda change: change[0])
        for index, op, file in self._changes[:kept]:
            _rename(self._names, op, file)
            if op.kind == "T" and file is not None:
                next(one for one in file.pending if one.index == index).certain = True
                file.settle()
        del self._changes[:kept]


def _rename(names: _Names, op: Op, created: _File | None) -> None:
    """Apply a change of names to them."""
    match op.kind, op.names:
        case "C" | "M", [name]:
            names[name] = created
        case "U", [name]:
            names.pop(name, None)
        case "R", [old, new]:
            for name in [name for name in names if name == old or name.startswith(f"{old}/")]:
                names[new + name.removeprefix(old)] = names.pop(name)
        case _:
            assert op.kind == "T", op


def _apply(data: bytearray, op: Op) -> None:
    """Apply a write or a change of size to the content of a file."""
    end = op.value + len(op.data)
    if len(data) < end:
        data.extend(bytes(end - len(data)))
    if op.kind == "T":
        del data[op.value :]
    else:
        data[op.value : end] = op.data


def _content(file: _File, horizon: int, share: float, rng: random.Random) -> bytearray:
    """Return the content of a file after a cut: size changes before the horizon, and of the writes what survives."""
    content = bytearray(file.certain)
    for one in file.pending:
        if one.op.kind == "T":
            if one.index < horizon:
                _apply(content, one.op)
        elif one.certain or rng.random() < share:
            _apply(content, one.op)
        elif rng.random() < 0.5:
            _tear(content, one.op, rng)
    return content


def _tear(content: bytearray, op: Op, rng: random.Random) -> None:
    """Apply some of the sectors of a write."""
    at = op.value
    while at < op.value + len(op.data):
        end = (at // SECTOR + 1) * SECTOR
        if rng.random() < 0.5:
            _apply(content, Op("W", op.inode, at, op.data[at - op.value : end - op.value]))
        at = end
