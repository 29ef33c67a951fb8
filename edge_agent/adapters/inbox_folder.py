"""The inbox as a folder: any program of the device leaves a record there, whether the agent runs or not."""

from __future__ import annotations

import heapq
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from asyncinotify import Inotify, Mask

from edge_agent.adapters.drop_folder import REJECTED, DropFolder
from edge_agent.adapters.places import hand_to_group
from edge_agent.adapters.threads import in_daemon_thread
from edge_agent.core.submission import ENVELOPE
from edge_agent.errors import EdgeAgentError
from edge_agent.ports import Arrival

MAX_REJECTED: Final = 1000
MAX_REJECTED_BYTES: Final = 16 * 1024 * 1024

_PUT_IN: Final = Mask.MOVED_TO | Mask.CLOSE_WRITE | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR

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
    _files: DropFolder = field(init=False)
    _dropped: bool = False

    def __post_init__(self) -> None:
        self._files = DropFolder(self.path, max_bytes=self.max_record + ENVELOPE, keys="inbox", made=self._share)

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
        while names := await self._blocking(partial(self._files.names, last)):
            last = names[-1]
            while names:
                batch, names = await self._blocking(partial(self._files.read, names))
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
        with self._files.opened() as inbox, suppress(OSError), self._files.opened(REJECTED, inbox):
            pass

    def _share(self, folder: int) -> None:
        hand_to_group(folder, self.group)
        try:
            os.fchmod(folder, 0o2770)  # setgid: what is put in can be read by the group
        except PermissionError:  # forbidden by RestrictSUIDSGID= of a unit file
            os.fchmod(folder, 0o770)

    def _settle(self, settled: Sequence[tuple[Arrival, str | None]]) -> list[Arrival]:
        resisting = self._files.settle(settled)
        if any(reason is not None for _, reason in settled):
            with suppress(OSError), self._files.opened() as inbox, self._files.opened(REJECTED, inbox) as rejected:
                self._bound(rejected)
        return resisting

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
