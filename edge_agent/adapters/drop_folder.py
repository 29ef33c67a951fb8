"""A folder from which files are taken, each once: listed, read, and afterwards removed, archived or put aside.

Other programs may write there: nothing in it is followed, waited for, or read beyond a limit. All of it blocks.
"""

from __future__ import annotations

import errno
import heapq
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from hashlib import blake2b
from pathlib import Path
from typing import Final

from edge_agent.ports import Arrival

MAX_BATCH: Final = 256
MAX_BATCH_BYTES: Final = 512 * 1024  # one file alone may be larger
MAX_LISTED: Final = 4096  # names in memory at once
MAX_NAME: Final = 240  # bytes; a filename has 255, and the reason's is longer
ARCHIVE: Final = "archive"
REJECTED: Final = "rejected"

_PASSING: Final = frozenset({errno.ENOENT, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Why a good file may not be readable just now."""


class DropFolder:
    """The files of a folder; those in its own folders, and those that begin with a dot, are none of them.

    Raises:
        OSError: by any method; the folder cannot be used.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int,
        keys: str,
        pattern: str = "*",
        archive: bool = False,
        made: Callable[[int], None] | None = None,
    ) -> None:
        """Prepare.

        Args:
            path: of the folder.
            max_bytes: of the largest file that is read.
            keys: what the key of every file begins with.
            pattern: of the names of the files.
            archive: whether files that were taken are kept, in a folder below this one.
            made: makes the folder whenever it is missing, and is called with each folder that was made; ``None`` = the
                folder must be there, and what is put aside never replaces what was put aside before.
        """
        self._path = path
        self._max_bytes = max_bytes
        self._keys = keys
        self._pattern = pattern
        self._archive = archive
        self._made = made

    @contextmanager
    def opened(self, name: str | None = None, parent: int | None = None) -> Iterator[int]:
        """Open the folder, or one below it that is made if it is missing; one that exists keeps its permissions."""
        made, flags = False, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        path: str | Path = self._path if name is None else name
        if self._made is not None or name is not None:
            flags |= os.O_NOFOLLOW
            with suppress(FileExistsError):
                os.mkdir(path, 0o770, dir_fd=parent)
                made = True
        folder = os.open(path, flags, dir_fd=parent)
        try:
            if made and self._made is not None:
                self._made(folder)
            yield folder
        finally:
            os.close(folder)

    def is_writable(self) -> bool:
        """Return whether files may be taken out."""
        return os.access(self._path, os.W_OK | os.X_OK)

    # -- files

    def names(self, last: str) -> list[str]:
        """Return the first names after ``last``; a million of them are never in memory at once."""
        with self.opened() as folder, os.scandir(folder) as entries:
            return heapq.nsmallest(
                MAX_LISTED,
                (
                    entry.name
                    for entry in entries
                    if entry.name > last
                    and entry.name[0] != "."
                    and fnmatchcase(entry.name, self._pattern)
                    and not entry.is_dir(follow_symlinks=False)
                ),
            )

    def identities(self, names: Sequence[str]) -> dict[str, tuple[int, int, int]]:
        """Return what tells each file from what it may become."""
        found = {}
        with self.opened() as folder:
            for name in names:
                with suppress(FileNotFoundError):
                    found[name] = _identity(os.lstat(name, dir_fd=folder))
        return found

    def read(self, names: list[str]) -> tuple[list[Arrival], list[str]]:
        """Return what the first of the files hold, and the names of the others."""
        batch: list[Arrival] = []
        size = taken = 0
        with self.opened() as folder:
            for name in names[:MAX_BATCH]:
                taken += 1
                with suppress(FileNotFoundError):  # taken away again
                    batch.append(self._arrival(folder, name))
                    size += len(batch[-1].content)
                if size >= MAX_BATCH_BYTES:
                    break
        return batch, names[taken:]

    def _arrival(self, folder: int, name: str) -> Arrival:
        status = os.lstat(name, dir_fd=folder)
        identity = _identity(status)
        if fault := self._fault(status):
            return Arrival(name, identity, fault=fault)
        try:
            content = self._content(folder, name, identity)
        except OSError as bad:
            if bad.errno in _PASSING:
                raise
            return Arrival(name, identity, fault=f"cannot be read: {bad.strerror}; let the agent's group read it")
        # the content, too: inode and time of a file just removed may be those of the next one of the name
        digest = blake2b(b"%b\0%d.%d.%d\0%b" % (os.fsencode(name), *identity, content), digest_size=16)
        return Arrival(name, identity, f"{self._keys}:{digest.hexdigest()}", content)

    def _content(self, folder: int, name: str, identity: tuple[int, int, int]) -> bytes:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        with os.fdopen(file, "rb", buffering=0) as opened:
            content = opened.read(self._max_bytes) if _identity(os.fstat(file)) == identity else b""
            if len(content) != identity[2]:
                raise FileNotFoundError(errno.ENOENT, "another file has taken its name, or it has shrunk", name)
            return content

    def _fault(self, status: os.stat_result) -> str | None:
        """Return why a file is not even opened."""
        if not stat.S_ISREG(status.st_mode):  # opening a device may do something
            return "this is no regular file; rename one into the folder"
        if status.st_size > self._max_bytes:
            return f"it has {status.st_size} bytes; outbox.max_record allows {self._max_bytes} with all around the data"
        return None

    def settle(self, settled: Sequence[tuple[Arrival, str | None]]) -> list[Arrival]:
        """Let go of files that were taken, and put aside those with a reason why not; return those that resist.

        Another file that has taken the name meanwhile stays.
        """
        resisting: list[Arrival] = []
        with self.opened() as folder:
            for arrival, reason in settled:
                try:
                    if _identity(os.lstat(arrival.name, dir_fd=folder)) != arrival.identity:
                        continue
                    if reason is not None:
                        self._put_aside(folder, arrival, reason)
                    elif self._archive:
                        with self.opened(ARCHIVE, folder) as archive:
                            self._move(folder, arrival, archive)
                    else:
                        os.unlink(arrival.name, dir_fd=folder)
                except FileNotFoundError:
                    continue
                except OSError:
                    resisting.append(arrival)
        return resisting

    def _move(self, folder: int, arrival: Arrival, target: int) -> str:
        """Move a file into another folder; return its name there."""
        name = os.fsdecode(os.fsencode(arrival.name)[:MAX_NAME])
        if self._made is None:
            with suppress(FileNotFoundError):
                os.lstat(name, dir_fd=target)
                name = f"{os.fsdecode(os.fsencode(name)[: MAX_NAME - 20])}.{arrival.identity[1]}"
        os.rename(arrival.name, name, src_dir_fd=folder, dst_dir_fd=target)
        return name

    def _put_aside(self, folder: int, arrival: Arrival, reason: str) -> None:
        with self.opened(REJECTED, folder) as rejected:
            beside = f"{self._move(folder, arrival, rejected)}.reason.txt"
            with suppress(OSError):  # a full disk; the log has the reason
                with suppress(FileNotFoundError):
                    os.unlink(beside, dir_fd=rejected)
                file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640, dir_fd=rejected)
                with os.fdopen(file, "w", encoding="utf-8", errors="backslashreplace") as opened:
                    opened.write(reason + "\n")


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_mtime_ns, status.st_size
