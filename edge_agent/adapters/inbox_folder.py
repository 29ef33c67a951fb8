"""The inbox as a folder: any program of the device leaves a record there, whether the agent runs or not.

Other programs may write there: nothing in it is followed, waited for, or read beyond a limit.
"""

from __future__ import annotations

import errno
import heapq
import logging
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Final, TypeVar

from asyncinotify import Inotify, Mask

from edge_agent.adapters.places import hand_to_group
from edge_agent.adapters.threads import in_daemon_thread
from edge_agent.core.submission import ENVELOPE
from edge_agent.errors import EdgeAgentError
from edge_agent.ports import Arrival

MAX_BATCH: Final = 256
MAX_BATCH_BYTES: Final = 512 * 1024  # one file alone may be larger
MAX_LISTED: Final = 4096  # names in memory at once
MAX_NAME: Final = 240  # bytes; a filename has 255, and the reason's is longer
MAX_REJECTED: Final = 1000
MAX_REJECTED_BYTES: Final = 16 * 1024 * 1024
REJECTED: Final = "rejected"

_PUT_IN: Final = Mask.MOVED_TO | Mask.CLOSE_WRITE | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR
_PASSING: Final = frozenset({errno.ENOENT, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Why a good file may not be readable just now."""

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(slots=True)
class InboxFolder:
    """See ``ports.Inbox``; the folder is made whenever it is missing.

    Attributes:
        path: of the folder; its directory exists.
        group: whose members may put files in.
        max_record: bytes of the largest record.
    """

    path: Path
    group: str
    max_record: int
    _group_missed: bool = False
    _dropped: bool = False

    async def watch(self, changed: Callable[[], None]) -> None:
        """See ``ports.Inbox``."""
        await self._blocking(self._make)
        try:
            with Inotify() as inotify:
                inotify.add_watch(self.path, _PUT_IN)
                changed()
                while (name := (await inotify.get()).name) is not None:  # without one: the folder has gone, or too much
                    if not name.name.startswith("."):
                        changed()
        except OSError as bad:
            raise EdgeAgentError(
                f"{self.path}: cannot be watched: {bad.strerror}; it is looked into every minute instead. "
                "Is fs.inotify.max_user_instances or max_user_watches used up?"
            ) from None

    async def batches(self) -> AsyncIterator[list[Arrival]]:
        """See ``ports.Inbox``."""
        last = ""
        while names := await self._blocking(partial(self._list, last)):
            last = names[-1]
            while names:
                batch, names = await self._blocking(partial(self._read, names))
                yield batch

    async def settle(self, settled: Sequence[tuple[Arrival, str | None]]) -> list[Arrival]:
        """See ``ports.Inbox``."""
        return await self._blocking(partial(self._settle, settled))

    async def _blocking(self, work: Callable[[], T]) -> T:
        try:
            return await in_daemon_thread(work, name="inbox", late=lambda: None)
        except OSError as bad:
            raise EdgeAgentError(
                f"{self.path}: no inbox: {bad.strerror}; it must be a folder of the agent's user, no link, "
                "on a disk that can be written to"
            ) from None

    # -- folders

    def _make(self) -> None:
        with self._opened(self.path) as inbox, suppress(OSError), self._opened(REJECTED, inbox):
            pass

    @contextmanager
    def _opened(self, path: str | Path, parent: int | None = None) -> Iterator[int]:
        """Open a folder, made if it is missing; one that exists keeps its permissions."""
        made = False
        with suppress(FileExistsError):
            os.mkdir(path, 0o770, dir_fd=parent)
            made = True
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            if made:
                self._share(folder)
            yield folder
        finally:
            os.close(folder)

    def _share(self, folder: int) -> None:
        reason = hand_to_group(folder, self.group)
        if reason and not self._group_missed:
            log.warning("inbox_group_missing", extra={"reason": f"{reason}; its own group may write instead"})
            self._group_missed = True
        try:
            os.fchmod(folder, 0o2770)  # setgid: what is put in can be read by the group
        except PermissionError:  # forbidden by RestrictSUIDSGID= of a unit file
            os.fchmod(folder, 0o770)

    # -- files

    def _list(self, last: str) -> list[str]:
        """Return the first names after ``last``; a million of them are never in memory at once."""
        with self._opened(self.path) as inbox, os.scandir(inbox) as entries:
            files = (entry.name for entry in entries if not entry.is_dir(follow_symlinks=False))
            return heapq.nsmallest(MAX_LISTED, (name for name in files if name > last and name[0] != "."))

    def _read(self, names: list[str]) -> tuple[list[Arrival], list[str]]:
        """Return what the first of the files hold, and the names of the others."""
        batch: list[Arrival] = []
        size = taken = 0
        with self._opened(self.path) as inbox:
            for name in names[:MAX_BATCH]:
                taken += 1
                with suppress(FileNotFoundError):  # taken away again
                    batch.append(self._arrival(inbox, name))
                    size += len(batch[-1].content)
                if size >= MAX_BATCH_BYTES:
                    break
        return batch, names[taken:]

    def _arrival(self, inbox: int, name: str) -> Arrival:
        status = os.lstat(name, dir_fd=inbox)
        identity = _identity(status)
        if fault := self._fault(name, status):
            return Arrival(name, identity, fault=fault)
        try:
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=inbox)
            with os.fdopen(file, "rb", buffering=0) as opened:
                if _identity(os.fstat(file)) != identity:
                    raise FileNotFoundError(errno.ENOENT, "another file has taken its name", name)
                content = opened.read(self.max_record + ENVELOPE)
        except OSError as bad:
            if bad.errno in _PASSING:
                raise
            return Arrival(name, identity, fault=f"cannot be read: {bad.strerror}; let the agent's group read it")
        # the content, too: inode and time of a file just removed may be those of the next one of the name
        digest = blake2b(b"%b\0%d.%d.%d\0%b" % (os.fsencode(name), *identity, content), digest_size=16)
        return Arrival(name, identity, f"inbox:{digest.hexdigest()}", content)

    def _fault(self, name: str, status: os.stat_result) -> str | None:
        """Return why a file is not even opened."""
        if not stat.S_ISREG(status.st_mode):  # opening a device may do something
            return "this is no regular file; rename one into the inbox"
        if len(os.fsencode(name)) > MAX_NAME:
            return f"its name is too long; at most {MAX_NAME} bytes are allowed"
        if status.st_size > (most := self.max_record + ENVELOPE):
            return f"it has {status.st_size} bytes; outbox.max_record allows {most} with all around the data"
        return None

    def _settle(self, settled: Sequence[tuple[Arrival, str | None]]) -> list[Arrival]:
        resisting: list[Arrival] = []
        with self._opened(self.path) as inbox:
            for arrival, reason in settled:
                try:
                    if _identity(os.lstat(arrival.name, dir_fd=inbox)) != arrival.identity:
                        continue
                    if reason is None:
                        os.unlink(arrival.name, dir_fd=inbox)
                    else:
                        self._put_aside(inbox, arrival.name, reason)
                except FileNotFoundError:
                    continue
                except OSError:
                    resisting.append(arrival)
            if any(reason is not None for _, reason in settled):
                with suppress(OSError), self._opened(REJECTED, inbox) as rejected:
                    self._bound(rejected)
        return resisting

    # -- rejected files

    def _put_aside(self, inbox: int, name: str, reason: str) -> None:
        kept = os.fsdecode(os.fsencode(name)[:MAX_NAME])
        beside = f"{kept}.reason.txt"
        with self._opened(REJECTED, inbox) as rejected:
            os.rename(name, kept, src_dir_fd=inbox, dst_dir_fd=rejected)
            with suppress(OSError):  # a full disk; the log has the reason
                with suppress(FileNotFoundError):
                    os.unlink(beside, dir_fd=rejected)
                file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640, dir_fd=rejected)
                with os.fdopen(file, "w", encoding="utf-8", errors="backslashreplace") as opened:
                    opened.write(reason + "\n")

    def _bound(self, rejected: int) -> None:
        """Keep the newest; a file that is too large for the folder is not kept even if it is the newest."""
        with os.scandir(rejected) as entries:
            newest = heapq.nlargest(MAX_REJECTED, map(_age_and_size, entries))
        kept, size = set(), 0
        for _, name, bytes_ in newest:
            if size + bytes_ <= MAX_REJECTED_BYTES:
                kept.add(name)
                size += bytes_
        with os.scandir(rejected) as entries:
            for entry in entries:
                if entry.name not in kept and not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.name, dir_fd=rejected)
                    if not self._dropped:
                        log.warning("inbox_rejected_full", extra={"reason": "the oldest rejected files are removed"})
                    self._dropped = True


def _age_and_size(entry: os.DirEntry[str]) -> tuple[int, str, int]:
    status = entry.stat(follow_symlinks=False)
    return status.st_ctime_ns, entry.name, status.st_size


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_mtime_ns, status.st_size
