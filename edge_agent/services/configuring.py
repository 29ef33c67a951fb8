"""Changes the configuration while the agent runs: each change is a transaction, and one is made after the other.

A change is read, checked as a whole, and compared with what is in force; every part that it touches prepares; only then
all of them go over to it. What is wrong with it is said, and nothing has happened. A change from the cloud is on disk
as being on trial before it is in force, and taken back if no broker can be reached with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

from edge_agent.config_ports import ConfigFiles, MemoryStore, Prepare, Watch
from edge_agent.core.cloud_config import PROVEN, Reasons
from edge_agent.core.config import Loaded
from edge_agent.core.config_diff import MAX_TOLD
from edge_agent.core.config_document import Source
from edge_agent.core.config_memory import Entry, Pin, Snapshot, fingerprint
from edge_agent.core.config_remote import Desired
from edge_agent.core.timebase import DurationNs, MonotonicNs, UtcNs, elapsed, later, seconds, to_seconds
from edge_agent.core.units import format_duration
from edge_agent.errors import ConfigError, ConfigProblem, EdgeAgentError
from edge_agent.ports import Clock
from edge_agent.services.config_start import Begun, fit, reasons, report
from edge_agent.services.in_force import Events, InForce

log = logging.getLogger(__name__)

READ_AGAIN_AFTER: Final = seconds(0.05)
"""What is written in place is empty first, and then only a part of it is there; and that may be valid, too."""

_REFUSED: Final = {
    "other": "it said something else before; use a larger one",
    "dropped": "it was dropped since; use a larger one",
}

Change: TypeAlias = Callable[[], Awaitable[bool]]


class Configuring:
    """The configuration in force, and the changes of it.

    Attributes:
        now: what is in force.
        changed: called when there is something new to say of it.
    """

    def __init__(
        self, begun: Begun, files: ConfigFiles, store: MemoryStore, outbox: Events, *, clock: Clock, boot: str
    ) -> None:
        """Prepare.

        Args:
            begun: what the agent starts with.
            files: read and parse.
            store: what is remembered.
            outbox: takes events.
            clock: of the device.
            boot: the kernel's boot id.
        """
        self.now = InForce(begun, store, outbox, clock)
        self.changed: Callable[[], None] = lambda: None
        self._seen = begun.seen
        self._rejected, self._unfit = list(begun.rejected), begun.unfit
        self._refused: tuple[int | None, Reasons] | None = None
        self._files = files
        self._store = store
        self._clock = clock
        self._boot = boot
        self._proven_at: MonotonicNs | None = None
        self._asked: deque[tuple[Change, asyncio.Future[bool] | None]] = deque()
        self._more = asyncio.Event()

    async def run(self, watch: Watch, prepare: Prepare) -> None:
        """Make changes until cancelled.

        Args:
            watch: notices edits of the files.
            prepare: prepares all parts for another configuration.
        """
        self.now.prepare = prepare
        self._count_from_now()
        if self._rejected:
            self.now.say("rejected", "files", errors=self._rejected)
        await self.now.note_start(self._files)
        async with asyncio.TaskGroup() as group:
            group.create_task(watch(lambda: self._ask(self._look)), name="config-watch")
            while True:
                await self._next()

    async def note_stop(self) -> None:
        """Take note, once no changes are made any more, that somebody wanted the stop: a crash looks the same here."""
        if self.now.memory.cloud.trial is not None:
            await self.now.keep(replace(self.now.memory, cloud=self.now.memory.cloud.stop()))

    # -- what may be asked

    async def reload(self) -> bool:
        """Read the files again; return whether another configuration is in force then.

        Raises:
            ConfigError: they are not valid; nothing has changed.
        """
        return await self._done(lambda: self._look(forced=True))

    async def roll_back(self, digest: str | None = None) -> bool:
        """Go back to a configuration that was in force, by default the one before; until the files are changed again.

        Raises:
            EdgeAgentError: there is none, or it is not valid any more.
        """
        return await self._done(lambda: self._roll_back(digest))

    async def desire(self, desired: Desired | None, taken: Callable[[], object]) -> bool:
        """Have what the cloud wants put in force, ``None`` = nothing; return whether another configuration is then.

        Args:
            desired: what it wants.
            taken: called once nothing of that can be lost.
        """
        return await self._done(lambda: self._desire(desired, taken))

    def refuse(self, version: int | None, why: Reasons) -> None:
        """Take note of a configuration from the cloud that is none."""
        log.warning("config_refused", extra={"version": version, "errors": _words(why)})
        self._refused = version, why
        self.changed()

    def confirm(self, told: Mapping[str, Any], *, is_heard: bool) -> None:
        """Take note that a broker has answered to what was ``said``.

        Args:
            told: that.
            is_heard: whether it takes what this device says there, and lets it hear what the cloud says.
        """
        if is_heard or not self.now.memory.cloud.is_about_connection:
            self._ask(lambda: self._confirm(told))

    def said(self) -> dict[str, Any]:
        """Return ``data`` of ``edge.config.v1``: what became of what the cloud wants."""
        version, state, why = self.now.memory.cloud.verdict()
        if self._unfit and self.now.memory.cloud.layer is not None:
            version, state, why = self.now.memory.cloud.layer.version, "rejected", self._unfit
        if self._refused is not None:
            (version, why), state = self._refused, "rejected"
        ignored = list(self.now.loaded.ignored) if state in ("applied", "pending_confirm") else []
        if (more := len(ignored) - MAX_TOLD) > 0:
            ignored[MAX_TOLD:] = [f"{more} more"]
        return {
            "version": version,
            "state": state,
            "digest": self.now.loaded.digest,
            "errors": [{"key": key, "reason": reason} for key, reason in why],
            "ignored": ignored,
        }

    def since(self) -> UtcNs:
        """Return when what is in force was put in force, in true time."""
        return self.now.since

    def last(self) -> Entry | None:
        """Return the last change; ``None`` = nothing is remembered."""
        return next(reversed(self.now.memory.history), None)

    def conditions(self) -> list[str]:
        """Return what is less than it should be, as stable words."""
        pinned = ["config_rolled_back"] if self.now.memory.pin is not None else []
        pending = [f"restart_needed: {key}" for key in self.now.loaded.pending]
        return (["config_rejected"] if self._rejected else []) + pinned + pending

    def kept(self) -> set[str]:
        """Return the digests of configurations that can be gone back to."""
        return self._store.kept()

    def compare(self, *, restarting: bool = False) -> tuple[Loaded, Reasons]:
        """Return what would be in force if the files were read now, and why what the cloud says would not be in it.

        Args:
            restarting: as after a restart.

        Raises:
            ConfigError: they are not valid.
        """
        held = None if restarting else self.now.loaded.config
        return fit(self._files, self._files.read(), self.now.memory.cloud.layer, held=held)

    # -- one after the other

    def _ask(self, change: Change, done: asyncio.Future[bool] | None = None) -> None:
        self._asked.append((change, done))
        self._more.set()

    async def _done(self, change: Change) -> bool:
        """Have a change made, whatever becomes of the caller meanwhile, and return what comes of it."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._ask(change, done)
        return await done

    async def _next(self) -> None:
        """Do what is due, and make the next change."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._left_s()):
                await self._more.wait()
        await self._expire()  # first, however much is asked
        if not self._asked:
            return
        change, done = self._asked.popleft()
        if not self._asked:
            self._more.clear()
        try:
            result = await change()
        except EdgeAgentError as error:
            if done is not None and not done.cancelled():
                done.set_exception(error)
        else:
            if done is not None and not done.cancelled():
                done.set_result(result)

    def _left_s(self) -> float | None:
        """Return how long nothing is due."""
        trial, now = self.now.memory.cloud.trial, self._clock.monotonic()
        if trial is None:
            return None
        if self._proven_at is not None:
            return max(to_seconds(elapsed(now, self._proven_at)), 0)
        return max(to_seconds(DurationNs(trial.until - self._clock.raw())), 0)

    async def _expire(self) -> None:
        trial = self.now.memory.cloud.trial
        if trial is None:
            return
        if self._proven_at is not None:
            if self._clock.monotonic() >= self._proven_at:
                await self.now.keep(replace(self.now.memory, cloud=self.now.memory.cloud.settle()))
        elif self._clock.raw() >= trial.until:
            how = f"taken back: no broker has acknowledged it within {format_duration(trial.within)}"
            await self._give_up(tuple((key, how) for key in self._keys_on_trial()))

    def _count_from_now(self) -> None:
        trial = self.now.memory.cloud.trial
        is_confirmed = trial is not None and trial.is_confirmed
        self._proven_at = later(self._clock.monotonic(), PROVEN) if is_confirmed else None

    def _keys_on_trial(self) -> list[str]:
        """Return the keys that the trial is about."""
        for entry in reversed(self.now.memory.history):
            if entry.by in ("cloud", "rollback"):
                return [str(change["key"]) for change in entry.changes] or [""]
        return [""]

    # -- the files

    async def _look(self, *, forced: bool = False) -> bool:
        """Go by the files, if they have changed."""
        found = self._read()
        seen, pin = fingerprint(found), self.now.memory.pin
        if pin is not None and pin.files == seen:
            log.info("config_pinned", extra={"config": pin.digest, "reason": "somebody has gone back to it"})
            self._seen, self._rejected = seen, []
            self.changed()
            return False
        if not forced:
            if seen == self._seen:
                return False
            await self._clock.sleep_until(later(self._clock.monotonic(), READ_AGAIN_AFTER))
            if fingerprint(self._read()) != seen:  # of which the watch will tell
                return False
        self._seen = seen
        try:
            if isinstance(found, ConfigError):
                raise found
            layer = self.now.memory.cloud.layer
            new, self._unfit = fit(self._files, found, layer, held=self.now.loaded.config)
            self._rejected = []
            changed = await self.now.turn(
                new, Snapshot(tuple(found), layer), "files", replace(self.now.memory, pin=None)
            )
        except ConfigError as bad:
            report(bad)
            self._rejected = bad.problems
            self.now.say("rejected", "files", errors=bad.problems)
            self.changed()
            raise
        self.changed()
        return changed

    def _read(self) -> Sequence[Source] | ConfigError:
        try:
            return self._files.read()
        except ConfigError as unreadable:
            return unreadable

    async def _roll_back(self, digest: str | None) -> bool:
        cloud = self.now.memory.cloud
        if digest is None:
            known, bad = self.kept() - {self.now.loaded.digest}, cloud.version if cloud.given_up is not None else None
            earlier = (entry for entry in reversed(self.now.memory.history) if entry.digest in known)
            digest = next((entry.digest for entry in earlier if bad is None or entry.version != bad), None)
        snapshot = None if digest is None else self._store.snapshot(digest)
        if digest is None or snapshot is None:
            raise EdgeAgentError("there is no such configuration to go back to; see edge-agent config history")
        new, unfit = fit(self._files, snapshot.sources, snapshot.desired, held=self.now.loaded.config)
        pin = None if fingerprint(snapshot.sources) == self._seen else Pin(digest, self._seen)
        why: Reasons = (("", "taken back by hand"),)
        if snapshot.desired is not None and snapshot.desired != cloud.layer:
            within = new.config.config.confirm_timeout
            cloud = cloud.try_again(snapshot.desired, why, boot=self._boot, raw=self._clock.raw(), within=within)
        elif snapshot.desired != cloud.layer:
            cloud = cloud.go_back(None, why)
        changed = await self.now.turn(new, snapshot, "rollback", replace(self.now.memory, cloud=cloud, pin=pin))
        self._unfit, self._refused, self._rejected = unfit, None, []
        self._count_from_now()
        self.changed()
        return changed

    # -- the cloud

    async def _desire(self, desired: Desired | None, taken: Callable[[], object]) -> bool:
        """Put on trial what the cloud wants, if it is new."""
        version = None if desired is None else desired.version
        judged, changed = "new" if desired is None else self.now.memory.cloud.judge(desired), False
        try:
            if judged in _REFUSED:
                self.refuse(version, (("version", _REFUSED[judged]),))
            elif judged == "old":
                log.info("config_outdated", extra={"version": version})
            elif judged == "new" or (self._unfit and self.now.memory.cloud.given_up is None):
                changed = await self._try(desired, taken)
            else:
                self._refused = None
                self.changed()
        except ConfigError as bad:
            self.refuse(version, reasons(bad))
        except OSError as error:
            self.refuse(version, (("", f"it cannot be kept on disk, and nothing has changed: {error.strerror}"),))
        taken()  # not where it is cut off by a stop: it comes again
        return changed

    async def _try(self, desired: Desired | None, taken: Callable[[], object]) -> bool:
        snapshot, held = Snapshot(self.now.snapshot.sources, desired), self.now.loaded.config
        cloud, within = self.now.memory.cloud, held.config.confirm_timeout
        on_trial = cloud.begin(desired, boot=self._boot, raw=self._clock.raw(), within=within)
        loads = set() if desired is None else desired.kinds - {job.kind for job in held.jobs.values()}
        if loads:  # code of others, perhaps, which may end the agent already when it is loaded
            await self.now.note(replace(self.now.memory, cloud=on_trial))
        try:
            new = self._files.parse(snapshot.sources, desired=desired, held=held)
        except ConfigError:
            if loads:
                await self.now.keep(self.now.memory)
            raise
        cloud = cloud.take(desired) if new.digest == self.now.loaded.digest else on_trial
        changed = await self.now.turn(new, snapshot, "cloud", replace(self.now.memory, cloud=cloud), kept=taken)
        self._refused, self._unfit = None, ()
        self._count_from_now()
        self.changed()
        return changed

    async def _confirm(self, told: Mapping[str, Any]) -> bool:
        if not self.now.memory.cloud.is_pending or self._unfit or told["digest"] != self.now.loaded.digest:
            return False  # of something else; what else was told with it does not matter
        await self.now.keep(replace(self.now.memory, cloud=self.now.memory.cloud.confirm()))
        log.info("config_confirmed", extra={"version": self.now.loaded.version})
        self._count_from_now()
        self.changed()
        return True

    async def _give_up(self, why: Reasons) -> None:
        """Take back what is on trial."""
        cloud = self.now.memory.cloud.give_up(why)
        log.error("config_rolled_back", extra={"errors": _words(why)})
        snapshot, unfit = Snapshot(self.now.snapshot.sources, cloud.layer), self._unfit
        memory = replace(self.now.memory, cloud=cloud)
        try:
            new, unfit = fit(self._files, snapshot.sources, cloud.layer, held=self.now.loaded.config, starting=True)
            await self.now.turn(new, snapshot, "rollback", memory)
        except ConfigError as bad:  # the device has lost what its files name
            report(bad)
            await self.now.keep(memory)
        self._refused, self._unfit = None, unfit
        self._count_from_now()
        self.changed()


def _words(why: Reasons) -> list[str]:
    return [str(ConfigProblem("", key, reason)) for key, reason in why]
