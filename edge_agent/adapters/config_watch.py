"""Notices that configuration files may have been changed: by inotify(7), or by looking where the kernel is not told.

Every folder on the way to a file is watched, from the root on and through every symbolic link, for the names that the
way takes there: whatever is replaced, renamed or removed on it, or comes back, is noticed alike. The files themselves
are watched for what is written into them, by whatever path they were opened. So what other programs write into other
files of those folders wakes nobody up.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import select
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Final

from asyncinotify import Event, Inotify, Mask

from edge_agent.adapters.config_files import MAX_DROP_INS, drop_in_folder, is_drop_in, read_sources
from edge_agent.core.timebase import later, seconds, to_seconds
from edge_agent.errors import ConfigError
from edge_agent.ports import Clock

LOOK_EVERY: Final = seconds(1)
"""Where changes have to be looked for."""

QUIET_S: Final = 0.2
AT_MOST_S: Final = 1.0
"""A change has settled after so long without another one, and at most so long after the first."""

_ITSELF: Final = Mask.ATTRIB | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.MASK_ADD
_FILE: Final = _ITSELF | Mask.MODIFY | Mask.CLOSE_WRITE
_FOLDER: Final = _ITSELF | Mask.CREATE | Mask.DELETE | Mask.MOVE | Mask.ONLYDIR
_MOUNTS: Final = Path("/proc/self/mountinfo")
_ROOT: Final = Path("/")
_MAX_LINKS: Final = 40  # path_resolution(7)
_USED_UP: Final = {errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOMEM}
_GONE: Final = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}

_SHARED: Final = re.compile("(nfs|cifs|smb|fuse|virtiofs|9p|ceph|afs|gfs2|ocfs2|vboxsf)")
"""File systems that others change behind the kernel's back. An overlay is none: who changes its layers below it breaks
it."""

log = logging.getLogger(__name__)


class ConfigWatch:
    """Tells when configuration files may have been changed, by whatever way of editing."""

    def __init__(self, path: Path, *, clock: Clock) -> None:
        """Prepare to watch a file ``X.toml``, which need not exist, and ``X.d/*.toml`` beside it."""
        self._path = path.absolute()
        self._clock = clock
        self._said = ""
        self._seen: Sequence[object] = ()

    async def run(self, changed: Callable[[], None]) -> None:
        """Call ``changed()`` now, and whenever files were changed and that has settled.

        It is called too often rather than too seldom, and returns only by being cancelled.
        """
        async with contextlib.aclosing(self._changes()) as changes:
            async for _ in changes:
                changed()

    async def _changes(self) -> AsyncGenerator[None, None]:
        while True:
            try:
                with contextlib.closing(_Notices(self._path)) as notices:
                    while True:
                        yield
                        await notices.settled()
            except OSError as bad:
                self._say(bad)
            yield
            await self._looked()

    def _say(self, bad: OSError) -> None:
        hint = ". Is fs.inotify.max_user_instances or max_user_watches used up?" if bad.errno in _USED_UP else ""
        reason = f"{bad.filename or self._path}: cannot be watched: {bad.strerror}{hint}"
        if reason != self._said:
            instead = f"; the configuration is looked at every {to_seconds(LOOK_EVERY):g} s instead"
            log.warning("config_polled", extra={"reason": reason + instead})
        self._said = reason

    async def _looked(self) -> None:
        """Return one look after that which shows a change: a file may be half written."""
        before = self._seen
        while self._seen == before:
            await self._clock.sleep_until(later(self._clock.monotonic(), LOOK_EVERY))
            self._seen = _contents(self._path)
        await self._clock.sleep_until(later(self._clock.monotonic(), LOOK_EVERY))


class _Notices:
    """What the kernel tells of the files and of the way to them; open until ``close``.

    Raises:
        OSError: it cannot tell what is changed; from all methods.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: dict[int, set[str]] = {}
        """By watch: the names in a folder that matter; none of a file's."""
        with contextlib.ExitStack() as opened:
            self._inotify = opened.enter_context(Inotify())
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

    async def settled(self) -> None:
        """Return when something has happened to the files, and nothing more for a moment."""
        await self._happened()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AT_MOST_S):
                while True:
                    async with asyncio.timeout(QUIET_S):
                        await self._happened()
        self._renew()  # what is told at the very end of the time is lost

    async def _happened(self) -> None:
        while not self._concerns(await self._inotify.get()):
            pass
        self._renew()

    def _mounted(self) -> None:
        """Where the way is another one now, have the end of a watch that there always is told as the change."""
        before = self._names
        with contextlib.suppress(OSError):  # which is raised again when the change is heeded
            self._renew()
            if self._names == before:
                return
        with contextlib.suppress(OSError):  # it has ended already
            self._inotify.rm_watch(self._root)

    def _concerns(self, event: Event) -> bool:
        if event.watch is None:  # there were too many
            return True
        names = self._names.get(event.watch.wd)
        if names is None or event.name is None:
            return names is not None
        name = event.name.name
        return name in names or (event.watch.wd == self._drop_ins and is_drop_in(name))

    def _renew(self) -> None:
        """Watch the way to each file as it is now; what is changed on it from here on is noticed."""
        self._names, self._steps, self._shared = {}, set[Path](), _shared()
        self._reach(self._path, _FILE)
        self._drop_ins = self._reach(drop_in_folder(self._path), _FOLDER)
        for file in _drop_ins(self._path):
            self._reach(file, _FILE)
        for watch in self._inotify.watches:
            if watch.wd not in self._names:
                with contextlib.suppress(OSError):  # it is gone, which is told in an event that waits
                    self._inotify.rm_watch(watch)

    def _reach(self, path: Path, mask: Mask) -> int | None:
        """Watch what a path leads to, and the way to it; return the watch of its end, ``None`` if it has none."""
        self._follow(path, _MAX_LINKS)
        return self._watch(path, mask)

    def _follow(self, path: Path, links: int) -> None:
        """Watch every folder on the way for the name that is looked up there, before it is seen where that leads."""
        for step in (*reversed(path.parents), path):
            if step.name and step not in self._steps:
                self._steps.add(step)
                watch = self._watch(step.parent, _FOLDER)
                if watch is not None:
                    self._names[watch].add(step.name)
                try:
                    target = step.parent / step.readlink()
                except OSError:  # it is no link
                    continue
                if links:
                    self._follow(target, links - 1)

    def _watch(self, path: Path, mask: Mask) -> int | None:
        """Watch a file or folder; return the descriptor, ``None`` if it is gone, of which the folder above tells."""
        try:
            if (kind := self._shared.get(path.stat().st_dev)) is not None:
                reason = f"it lies on {kind}, which does not tell what is changed elsewhere"
                raise OSError(errno.EREMOTE, reason, str(path))  # noqa: TRY301  # as the kernel does for want of watches
            watch = self._inotify.add_watch(path, mask)
        except OSError as bad:
            # a file that may not be read yet: its folder tells when it may; but a folder may be passed through unread
            if bad.errno in _GONE or (bad.errno == errno.EACCES and mask == _FILE):
                return None
            raise
        self._names.setdefault(watch.wd, set())
        if path == _ROOT:
            self._root = watch
        return watch.wd


def _contents(path: Path) -> Sequence[object]:
    """Return what the files hold, or why they cannot be read."""
    try:
        return read_sources(path)
    except ConfigError as unreadable:
        return unreadable.problems


def _drop_ins(path: Path) -> list[Path]:
    """Return those that are read, and one more if there are too many."""
    try:
        return sorted(file for file in drop_in_folder(path).iterdir() if is_drop_in(file.name))[: MAX_DROP_INS + 1]
    except OSError:
        return []


def _shared() -> dict[int, str]:
    """Return the devices of those file systems that others change, too, each with its kind."""
    found = {}
    for line in _MOUNTS.read_text(errors="replace").splitlines():  # its format: proc_pid_mountinfo(5)
        mount, _, source = line.partition(" - ")
        if kind := _SHARED.match(source):
            major, minor = mount.split()[2].split(":")
            found[os.makedev(int(major), int(minor))] = kind[1].upper()
    return found
