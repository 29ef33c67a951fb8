"""The configuration of a device as its agent has it: real files, a real store, parts that only say what they use."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson
from typing_extensions import override

from edge_agent.adapters.config_reader import ConfigReader
from edge_agent.adapters.config_store import ConfigStore
from edge_agent.config_ports import Commit
from edge_agent.core.config import Loaded
from edge_agent.core.config_document import Source
from edge_agent.core.config_memory import ConfigMemory, Snapshot
from edge_agent.core.config_remote import Desired
from edge_agent.core.submission import Submission
from edge_agent.core.timebase import MonotonicNs, RawNs, seconds
from edge_agent.errors import ConfigError, OutboxError
from edge_agent.jobs import kinds
from edge_agent.services.config_start import Begun, begin
from edge_agent.services.configuring import Configuring
from tests.fakes import FakeClock
from tests.support.virtual_time import VirtualTimeLoop

T = TypeVar("T")

HEAD: Final = 'device.id = "dev-1"\nconfig.confirm_timeout = "10s"\n'
WITHIN_S: Final = 10


class KilledError(Exception):
    """The process has been killed at this point."""


class Counter(FakeClock):
    """The loop's time, also while the loop stands; the counter begins anew at each boot."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.loop = loop
        self.boot = 0
        self._booted = 0

    @override
    def monotonic(self) -> MonotonicNs:
        return MonotonicNs(seconds(self.loop.time()))

    @override
    def raw(self) -> RawNs:
        return RawNs(self.monotonic() - self._booted)

    def reboot(self) -> None:
        """Be the clock of the next boot."""
        self.boot += 1
        self._booted = self.monotonic()


class Disk(ConfigStore):
    """The store on a disk that fails while ``fails`` is set.

    Attributes:
        left: steps until the process is killed; ``None`` = it is not.
        written: names of the files that were written; ``in force`` and ``acknowledged`` where a device does that.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.fails = False
        self.left: int | None = None
        self.written: list[str] = []

    def step(self) -> None:
        """Go on, unless the process is killed here."""
        if self.left is not None:
            if self.left == 0:
                raise KilledError
            self.left -= 1

    @override
    def _write(self, name: str, document: object) -> None:
        if self.fails:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.step()
        super()._write(name, document)
        self.written.append(name)

    @override
    def _prune(self, memory: ConfigMemory) -> None:
        self.step()
        super()._prune(memory)

    @override
    async def save_soon(self, memory: ConfigMemory, snapshots: Mapping[str, Snapshot]) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        with loop.held():
            await super().save_soon(memory, snapshots)


class Device:
    """One life of an agent, as far as it goes by a configuration.

    Attributes:
        begun: what it started with.
        used: what the parts use, the last one now.
        events: what was published.
        largest: bytes of the largest event that is taken.
        wrong: what a part has against another configuration.
        reviewed: so often there was something new to say.
        notice: tells that the files may have been changed.
    """

    def __init__(self, root: Path, clock: Counter) -> None:
        (root / "state").mkdir(exist_ok=True)
        self.files = ConfigReader(root / "edge-agent.toml", {}, kinds)
        self.disk = Disk(root / "state")
        self.clock = clock
        self.events: list[dict[str, Any]] = []
        self.largest = 1 << 20
        self.wrong: ConfigError | None = None
        self.reviewed = 0
        self.notice: Callable[[], None] = lambda: None

    def begin(self) -> None:
        """Decide what to start with.

        Raises:
            ConfigError: there is nothing.
        """
        found: list[Source] | ConfigError
        try:
            found = self.files.read()
        except ConfigError as unreadable:
            found = unreadable
        boot = f"boot-{self.clock.boot}"
        self.begun: Begun = begin(self.files, found, self.disk, boot=boot, raw=self.clock.raw())
        self.used = [self.begun.loaded]
        self.configuring = Configuring(self.begun, self.files, self.disk, self, clock=self.clock, boot=boot)
        self.configuring.changed = self._changed

    async def start(self) -> None:
        """Start, and look at the files."""
        self.task = asyncio.get_running_loop().create_task(self.configuring.run(self._watch, self._prepare))
        await self.idle()

    async def kill(self) -> None:
        """End the process."""
        self.disk.left = 0
        self.task.cancel()
        await asyncio.wait((self.task,))

    async def stop(self) -> None:
        """Stop the agent as somebody wants it."""
        self.task.cancel()
        await asyncio.wait((self.task,))
        await self.configuring.note_stop()

    async def do(self, change: Coroutine[Any, Any, T]) -> T:
        """Return what comes of a change.

        Raises:
            KilledError: the process was killed over it.
        """
        one = asyncio.get_running_loop().create_task(change)
        try:
            await asyncio.wait((one, self.task), return_when=asyncio.FIRST_COMPLETED)
            if self.task.done():
                self._raise()
            return one.result()
        finally:
            one.cancel()

    def _raise(self) -> None:
        try:
            self.task.result()
        except* KilledError:
            raise KilledError from None

    async def idle(self) -> None:
        """Return once all that was asked for is done."""
        await self.do(self.configuring._done(_nothing))

    async def desire(self, version: int, config: dict[str, Any]) -> bool:
        """Have the cloud want a configuration, and see that it is acknowledged."""
        return await self._desire(Desired(version, config))

    async def drop(self) -> bool:
        """Have the cloud want nothing."""
        return await self._desire(None)

    async def _desire(self, desired: Desired | None) -> bool:
        before = len(self.disk.written)
        taken = partial(self.disk.written.append, "acknowledged")
        changed = await self.do(self.configuring.desire(desired, taken))
        assert "acknowledged" in self.disk.written[before:], "whatever comes"
        return changed

    async def confirm(self, told: Mapping[str, Any] | None = None) -> None:
        """Have a broker acknowledge what was said, or what is now."""
        self.configuring.confirm(self.configuring.said() if told is None else told, is_heard=True)
        await self.idle()

    async def edited(self) -> None:
        """Notice that the files may have been changed."""
        self.notice()
        await self.idle()

    def put(self, submission: Submission) -> None:
        """See ``in_force.Events``."""
        if len(submission.data) > self.largest:
            raise OutboxError("too large", word="too_large")
        self.events.append(orjson.loads(submission.data))

    def said(self) -> tuple[int | None, str]:
        """Return the version and the state of which the cloud is told."""
        said = self.configuring.said()
        return said["version"], said["state"]

    @property
    def every(self) -> float:
        """The interval of heartbeats that is in force, in seconds."""
        assert self.used[-1] is self.configuring.now.loaded
        return self.configuring.now.loaded.config.heartbeat.every / 1e9

    def _changed(self) -> None:
        self.reviewed += 1

    async def _watch(self, changed: Callable[[], None]) -> None:
        self.notice = changed
        changed()
        await asyncio.Event().wait()

    def _prepare(self, old: Loaded, new: Loaded) -> Commit:
        assert old is self.used[-1]
        if self.wrong is not None:
            raise self.wrong

        async def commit() -> list[str]:
            self.disk.step()
            self.used.append(new)
            self.disk.written.append("in force")
            await asyncio.sleep(0)
            self.disk.step()
            return ["part"]

        return commit


async def _nothing() -> bool:
    return False


def device(root: Path) -> Device:
    """Return a device whose files were put into a folder, with the running loop's time."""
    one = Device(root, Counter(asyncio.get_running_loop()))
    one.begin()
    return one
