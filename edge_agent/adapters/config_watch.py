"""Notices that configuration files may have been changed: by inotify(7), or by looking where the kernel is not told.

Every folder on the way to a file is watched, from the root on and through every symbolic link, for the names that the
way takes there: whatever is replaced, renamed or removed on it, or comes back, is noticed alike. The files themselves
are watched for what is written into them, by whatever path they were opened. So what other programs write into other
files of those folders wakes nobody up.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import logging
import os
import select
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final, Protocol

from asyncinotify import Event, Inotify, Mask

from edge_agent.adapters.config_files import MAX_DROP_INS, drop_in_folder, is_drop_in
from edge_agent.core.settling import Settling
from edge_agent.core.timebase import (
    NANOSECONDS_PER_MILLISECOND,
    DurationNs,
    MonotonicNs,
    elapsed,
    later,
    seconds,
    to_seconds,
)
from edge_agent.ports import Clock

LOOK_EVERY: Final = seconds(2)
"""Where changes have to be looked for."""

_WRITTEN: Final = Mask.MODIFY | Mask.CLOSE_WRITE
_FILE: Final = _WRITTEN | Mask.ATTRIB | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.MASK_ADD
_FOLDER: Final = (
    Mask.CREATE
    | Mask.DELETE
    | Mask.MOVE
    | Mask.ATTRIB
    | Mask.DELETE_SELF
    | Mask.MOVE_SELF
    | Mask.MASK_ADD
    | Mask.ONLYDIR
)
_APART: Final = DurationNs(20 * NANOSECONDS_PER_MILLISECOND)
"""Between two readings of events: in a busy folder, those of others are read together."""
_AT_ONCE: Final = 512
"""Events; the loop has other work, too."""
_MOUNTS: Final = Path("/proc/self/mountinfo")
_ROOT: Final = Path("/")
_MAX_LINKS: Final = 40  # path_resolution(7)
_USED_UP: Final = {errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOMEM}
_GONE: Final = {errno.ENOENT, errno.ENOTDIR}

_SHARED: Final = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFE534D42: "SMB",
    0xFF534D42: "SMB",
    0x65735546: "FUSE",
    0x01021997: "9P",
    0x00C36400: "Ceph",
    0x5346414F: "AFS",
    0x6B414653: "AFS",
    0x01161970: "GFS2",
    0x7461636F: "OCFS2",
    0x786F4256: "a VirtualBox folder",
}
"""File systems that others change behind the kernel's back, by statfs(2). An overlay is none: who changes its layers
below it breaks it."""

log = logging.getLogger(__name__)
_libc: Final = ctypes.CDLL(None, use_errno=True)
_statfs: Final = _libc.statfs64 if hasattr(_libc, "statfs64") else _libc.statfs  # of 32 bits it fails on a large disk


class ConfigWatch:
    """Tells when configuration files may have been changed, by whatever way of editing."""

    def __init__(self, path: Path, *, clock: Clock) -> None:
        """Prepare to watch a file ``X.toml``, which need not exist, and ``X.d/*.toml`` beside it."""
        self._path = path.absolute()
        self._clock = clock
        self._said = ""

    async def run(self, changed: Callable[[], None]) -> None:
        """Call ``changed()`` now, and whenever files were changed and that has settled (``core.settling``).

        It is called too often rather than too seldom, and returns only by being cancelled.
        """
        looks = _Looks(self._path, self._clock)
        is_new = True
        while True:
            try:
                with contextlib.closing(_Notices(self._path, self._clock)) as notices:
                    while True:
                        changed()
                        is_new = False
                        await self._settled(notices)
            except _UnwatchedError as why:
                self._say(f"{why}; the configuration is looked at every {to_seconds(LOOK_EVERY):g} s instead")
            if is_new:
                changed()
                is_new = False
            await self._settled(looks)
            changed()

    async def _settled(self, source: _Source) -> None:
        burst = Settling()
        while burst.due is None or self._clock.monotonic() < burst.due:
            if await source.happened(burst.due):
                burst.note(self._clock.monotonic())

    def _say(self, reason: str) -> None:
        if reason != self._said:
            log.warning("config_polled", extra={"reason": reason})
        self._said = reason


class _Source(Protocol):
    async def happened(self, until: MonotonicNs | None) -> bool:
        """Wait for something, up to an instant if there is one; return whether files may have been changed."""


class _UnwatchedError(Exception):
    """The kernel cannot tell what is changed; says why not."""


class _Notices:
    """What the kernel tells of the files and of the way to them; open until ``close``.

    Raises:
        _UnwatchedError: from ``happened``, too.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        # by watch: the names in a folder that matter; none of a file's
        self._names: dict[int, set[str]] = {}
        self._watched: dict[Path, int] = {}
        self._drop_ins: int | None = None
        self._awake = asyncio.Event()
        self._is_mounted_anew = self._is_more = False
        self._rested = clock.monotonic()
        with _unwatched(), contextlib.ExitStack() as opened:
            self._inotify = opened.enter_context(Inotify(sync_timeout=0))
            # inotify does not tell of mounts, and the mounts' file always seems readable: only an epoll of its own
            # tells when they have changed, and only to who asks it without a break
            mounts = opened.enter_context(_MOUNTS.open("rb"))
            mounted = opened.enter_context(select.epoll())
            mounted.register(mounts, select.EPOLLPRI)
            loop = asyncio.get_running_loop()
            loop.add_reader(mounted, self._mounted)
            opened.callback(loop.remove_reader, mounted)
            self._renew()
            self.close = opened.pop_all().close

    async def happened(self, until: MonotonicNs | None) -> bool:
        """See ``_Source``."""
        await self._wait(until)
        events = list(islice(self._inotify, _AT_ONCE))
        self._is_more = len(events) == _AT_ONCE
        concerning = [event for event in events if self._concerns(event)]
        before = self._names
        if self._is_mounted_anew or not all(event.mask & _WRITTEN for event in concerning):
            self._is_mounted_anew = False
            with _unwatched():
                self._renew()
        return bool(concerning) or self._names != before

    async def _wait(self, until: MonotonicNs | None) -> None:
        await self._clock.sleep_until(self._rested if until is None else min(self._rested, until))
        loop = asyncio.get_running_loop()
        if not self._is_more:
            loop.add_reader(self._inotify.fd, self._awake.set)
            left = None if until is None else to_seconds(elapsed(self._clock.monotonic(), until))
            try:
                async with asyncio.timeout(left):
                    await self._awake.wait()
            except TimeoutError:
                pass
            finally:
                loop.remove_reader(self._inotify.fd)
                self._awake.clear()
        self._rested = later(self._clock.monotonic(), _APART)

    def _mounted(self) -> None:
        self._is_mounted_anew = True
        self._awake.set()

    def _concerns(self, event: Event) -> bool:
        watch = event.watch
        if watch is None:  # there were too many
            return True
        names = self._names.get(watch.wd)
        if names is None or event.name is None:
            return names is not None
        name = event.name.name
        return name in names or (watch.wd == self._drop_ins and is_drop_in(name))

    def _renew(self) -> None:
        """Watch the way to each file as it is now; what is changed on it from here on is noticed."""
        self._names, self._watched = {}, {}
        self._watch_file(_ROOT, self._path)
        folder = self._follow(_ROOT, drop_in_folder(self._path))
        self._drop_ins = None if folder is None else self._watch(folder, _FOLDER)
        if folder is not None:
            for name in _drop_in_names(folder):
                self._watch_file(folder, Path(name))
        for watch in self._inotify.watches:
            if watch.wd not in self._names:
                with contextlib.suppress(OSError):  # it is gone, which is told in an event that waits
                    self._inotify.rm_watch(watch)

    def _watch_file(self, folder: Path, path: Path) -> None:
        file = self._follow(folder, path)
        if file is not None:
            self._watch(file, _FILE)

    def _follow(self, folder: Path, path: Path) -> Path | None:
        """Watch the way from a real folder along a path; return the real path of its end, ``None`` if it has none."""
        parts, links = [*path.parts][::-1], 0
        while parts and links <= _MAX_LINKS:
            part = parts.pop()
            if part == "..":
                folder = folder.parent
            elif part.startswith("/"):
                folder = _ROOT
            else:
                watch = self._watch(folder, _FOLDER)  # first, so that no change after the look is missed
                if watch is None:
                    return None
                self._names[watch].add(part)
                try:
                    parts += [*(folder / part).readlink().parts][::-1]
                    links += 1
                except OSError as bad:
                    if bad.errno != errno.EINVAL:
                        return None
                    folder /= part  # it is no link
        return None if parts else folder

    def _watch(self, path: Path, mask: Mask) -> int | None:
        """Watch a file or folder; return the descriptor, ``None`` if it is gone, of which the folder above tells."""
        if path in self._watched:
            return self._watched[path]
        try:
            kind = _SHARED.get(_file_system(path))
            if kind is not None:
                raise _UnwatchedError(f"{path}: lies on {kind}, which does not tell what is changed elsewhere")
            watch = self._inotify.add_watch(path, mask).wd
        except OSError as bad:
            # a file that may not be read yet: its folder tells when it may; but a folder may be passed through unread
            if bad.errno in _GONE or (bad.errno == errno.EACCES and mask == _FILE):
                return None
            raise
        self._names.setdefault(watch, set())
        self._watched[path] = watch
        return watch


class _Looks:
    """What looking at the files every now and then shows."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._seen: list[object] = []
        self._is_in_doubt = True

    async def happened(self, until: MonotonicNs | None) -> bool:
        """See ``_Source``."""
        at = later(self._clock.monotonic(), LOOK_EVERY)
        await self._clock.sleep_until(at if until is None else min(at, until))
        before, self._seen = self._seen, self._look()
        # what is changed right after a look may have the same time, as a file system tells it: so once more
        in_doubt, self._is_in_doubt = self._is_in_doubt, self._seen != before
        return in_doubt or self._is_in_doubt

    def _look(self) -> list[object]:
        folder = drop_in_folder(self._path)
        names = _drop_in_names(folder)
        return [names, _status(folder), *(_status(file) for file in (self._path, *(folder / name for name in names)))]


def _status(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError as bad:
        return (bad.errno or 0,)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _drop_in_names(folder: Path) -> list[str]:
    """Return those that are read, and one more if there are too many."""
    try:
        return sorted(file.name for file in folder.iterdir() if is_drop_in(file.name))[: MAX_DROP_INS + 1]
    except OSError:
        return []


def _file_system(path: Path) -> int:
    """Return the type of the file system below a path (``f_type`` of statfs(2)).

    Raises:
        OSError: there is no such path.
    """
    found = ctypes.create_string_buffer(512)
    if _statfs(bytes(path), found) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    return int.from_bytes(found.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder) & 0xFFFF_FFFF


@contextlib.contextmanager
def _unwatched() -> Iterator[None]:
    try:
        yield
    except OSError as bad:
        hint = ". Is fs.inotify.max_user_instances or max_user_watches used up?" if bad.errno in _USED_UP else ""
        where = f"{bad.filename}: " if bad.filename else ""
        raise _UnwatchedError(f"{where}cannot be watched: {bad.strerror}{hint}") from None
