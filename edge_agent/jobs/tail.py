"""Sends the new lines of files that grow and are rotated; part of the kind ``files``.

A file is known again by its inode and by what stands before the place up to which it was read: so it is followed when
it is renamed, into the copy when it was copied and truncated (copytruncate), and not taken for one whose inode it got.
A rotated file must stay in the folder, uncompressed, until the next run.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Final

from edge_agent.core.lines import line_records
from edge_agent.errors import JobError
from edge_agent.job_ports import Context
from edge_agent.jobs.off_loop import off_loop
from edge_agent.jobs.tail_cursor import Cursor, Place, begin, end, load

MAX_FILES: Final = 1000
READ: Final = 256 << 10
"""Bytes of a file in one pass; a line that is longer is sent in pieces."""

PASS: Final = 2 << 20
"""Bytes of all files in one pass, or a little more."""

WINDOW: Final = 1024
"""Bytes by which a file is known again."""

TRIES: Final = 10

log = logging.getLogger(__name__)


class _MovedError(Exception):
    """A name has passed to another file since the folder was listed."""


@dataclass(slots=True)
class _Pass:
    """What is handed in, from which place of which file.

    Attributes:
        found: it, in order.
        begun: whether it is written down.
        full: whether there is more to be read before what comes after it.
        wrong: what went wrong with other files.
    """

    found: list[tuple[Place, bytes]] = field(default_factory=list)
    begun: bool = False
    full: bool = False
    wrong: list[str] = field(default_factory=list)


async def tail(ctx: Context, path: Path, pattern: str, *, parsed: bool) -> Mapping[str, object]:
    """Hand in all lines that have come since the last run.

    Args:
        ctx: of the run.
        path: of the folder.
        pattern: of the names of the files that grow; not of those that they are given when they are rotated.
        parsed: whether lines that are JSON are sent as such.
    """
    records = size = 0
    while (this := await off_loop(ctx, partial(_next_pass, ctx, path, pattern))).begun:
        for place, content in this.found:
            lines = line_records(content, file=place.name, parsed=parsed, max_record=ctx.max_record)
            for number, data in enumerate(lines):
                digest = blake2b(b"%d.%d.%d.%b" % (place.serial, place.start, number, data), digest_size=16)
                await ctx.publish(data, key=f"tail:{ctx.job}:{digest.hexdigest()}")
                records += 1
            size += len(content)
        await off_loop(ctx, partial(end, ctx.folder))
    if this.wrong:
        raise JobError(this.wrong[0])
    return {"records": records, "bytes": size}


def _next_pass(ctx: Context, path: Path, pattern: str) -> _Pass:
    """Return the pass that a crash cut off, else the next one, written down if there is anything new."""
    cursor = load(ctx.folder)
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for _ in range(TRIES):
            with suppress(_MovedError):
                folder = _Folder(ctx.job, directory, _listed(directory))
                folder.taken.update(place.inode for place in cursor.places if folder.has(place))
                return _again(cursor, folder) if cursor.begun else _new(ctx.folder, cursor, folder, pattern)
    finally:
        os.close(directory)
    raise JobError(f"{path}: its files are renamed faster than they can be read")


def _again(cursor: Cursor, folder: _Folder) -> _Pass:
    this = _Pass(begun=True)
    for place in cursor.places:
        if place.start < place.end:
            found = folder.read(place, start=place.start, size=place.end - place.start)
            if found is None:
                said = {"task_name": folder.job, "file": place.name, "from": place.start, "to": place.end}
                log.warning("tail_lost", extra=said)
            else:
                this.found.append((place, found[1]))
    return this


def _new(own: Path, cursor: Cursor, folder: _Folder, pattern: str) -> _Pass:
    this, places = _Pass(), list[Place]()
    for place in cursor.places:
        places += _followed(this, place, folder)
    used, claimed = cursor.used, {place.inode for place in places}
    for inode, name in folder.files.items():
        if inode not in claimed and fnmatchcase(name, pattern):
            used += 1
            places += _followed(this, Place(used, inode, os.fsencode(name).decode(errors="backslashreplace")), folder)
    if len(places) > MAX_FILES:
        raise JobError(f"more than {MAX_FILES} files are followed; a narrower pattern is needed")
    this.begun = bool(this.found) or _identities(places) != _identities(cursor.places)
    if this.begun:
        begin(own, Cursor(places, used))
    return this


def _followed(this: _Pass, place: Place, folder: _Folder) -> list[Place]:
    """Add to a pass what is new in a file; return its new place, if it is still there."""
    room = 0 if this.full else READ
    try:
        found = folder.read(place, start=place.end, size=room)
    except PermissionError:
        this.wrong.append(f"{place.name}: permission denied; let the agent's user read it")
        return [place]
    if found is None:
        log.info("tail_ended", extra={"task_name": folder.job, "file": place.name, "read": place.end})
        return []
    inode, content, before = found
    this.full = this.full or len(content) == READ or sum(len(content) for _, content in this.found) > PASS
    content = content[: content.rfind(b"\n") + 1] or (content if len(content) == READ else b"")
    if not content:
        return [replace(place, inode=inode, start=place.end)]
    place = replace(place, inode=inode, start=place.end, end=place.end + len(content), mark=_mark(before + content))
    this.found.append((place, content))
    return [place]


def _identities(places: Sequence[Place]) -> list[tuple[int, int]]:
    return [(place.serial, place.inode) for place in places]


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder as it was listed.

    Attributes:
        job: who follows files in it.
        directory: its descriptor.
        files: their names by inode.
        taken: inodes of files that are followed.
    """

    job: str
    directory: int
    files: Mapping[int, str]
    taken: set[int] = field(default_factory=set)

    def read(self, place: Place, *, start: int, size: int) -> tuple[int, bytes, bytes] | None:
        """Return the inode of a file now, what it holds from ``start`` on, and what stands before its place.

        Raises:
            _MovedError: it has to be listed again.
        """
        for inode in (place.inode, *(inode for inode in self.files if inode not in self.taken)):
            found = self.at(inode, place, start=start, size=size)
            if found is not None:
                return inode, *found
        if _listed(self.directory) != self.files:  # the copy may have been made just now
            raise _MovedError
        return None

    def has(self, place: Place) -> bool:
        """Return whether a file is where it was last; its inode may be that of another one now."""
        try:
            return self.at(place.inode, place) is not None
        except PermissionError:
            return True

    def at(self, inode: int, place: Place, *, start: int | None = None, size: int = 0) -> tuple[bytes, bytes] | None:
        """Return the same of the file that has an inode, if it is that file."""
        if inode not in self.files or (inode != place.inode and not place.end):
            return None
        start = place.end if start is None else start
        window = max(0, place.end - WINDOW)
        first = min(start, window)
        try:
            raw = self._raw(inode, first, start + size - first)
        except PermissionError:
            if inode == place.inode:
                raise
            return None
        before = raw[window - first : place.end - first]
        if len(before) < place.end - window or (place.end and _mark(before) != place.mark):
            return None
        return raw[start - first :], before

    def _raw(self, inode: int, start: int, size: int) -> bytes:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            file = os.open(self.files[inode], flags, dir_fd=self.directory)
        except FileNotFoundError:
            raise _MovedError from None
        try:
            if os.fstat(file).st_ino != inode:
                raise _MovedError
            return os.pread(file, size, start)
        finally:
            os.close(file)


def _listed(directory: int) -> dict[int, str]:
    """Return the names of all files by inode; one that is renamed meanwhile is not missed."""
    before: dict[int, str] | None = None
    for _ in range(TRIES):
        files: dict[int, str] = {}
        with os.scandir(directory) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.is_file(follow_symlinks=False):
                        files[entry.stat(follow_symlinks=False).st_ino] = entry.name
        if files == before:
            return files
        before = files
    raise _MovedError


def _mark(before: bytes) -> str:
    return blake2b(before[-WINDOW:], digest_size=16).hexdigest()
