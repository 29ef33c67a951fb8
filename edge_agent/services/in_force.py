"""The configuration in force, and how it becomes another one: as a whole, remembered first, and told."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, Protocol, TypeAlias

import orjson

from edge_agent.config_ports import ConfigFiles, MemoryStore, Prepare
from edge_agent.core.config import Loaded
from edge_agent.core.config_diff import shown
from edge_agent.core.config_memory import MAX_ENTRIES, ConfigMemory, Entry, Snapshot
from edge_agent.core.submission import Submission
from edge_agent.core.timebase import rfc3339
from edge_agent.core.units import parse_instant
from edge_agent.errors import ConfigError, ConfigProblem, OutboxError
from edge_agent.ports import Clock
from edge_agent.services.config_start import Begun, fit

log = logging.getLogger(__name__)

MAX_KEYS: Final = 20
"""Keys that are named in a line of the log."""

By: TypeAlias = Literal["start", "files", "cloud", "rollback"]


class Events(Protocol):
    """The way into the outbox."""

    def put(self, submission: Submission) -> object:
        """Take a record in.

        Raises:
            OutboxError: it was not accepted.
        """
        ...


class InForce:
    """What is in force.

    Attributes:
        loaded: the configuration.
        snapshot: how it was said.
        memory: what is remembered with it.
        since: since when it is in force, in true time.
        is_turning: whether parts of the agent still go by the one before.
        prepare: prepares all parts of the agent for another one.
    """

    prepare: Prepare

    def __init__(self, begun: Begun, store: MemoryStore, outbox: Events, clock: Clock) -> None:
        self.loaded, self.snapshot, self.memory = begun.loaded, begun.snapshot, begun.memory
        is_old = self.memory.in_force == self.loaded.digest
        self.since = parse_instant(self.memory.history[-1].time) if is_old else clock.now().time
        self.is_turning = False
        self._store = store
        self._outbox = outbox
        self._clock = clock

    async def note_start(self, files: ConfigFiles) -> None:
        """Remember what the agent has started with, if that is not what was remembered, and tell what is different."""
        if self.memory.in_force != self.loaded.digest:
            last = self._store.snapshot(self.memory.in_force or "")
            changes: Sequence[Mapping[str, Any]] = ()
            by: By = "start"
            with contextlib.suppress(ConfigError):  # to another version of the agent it may say nothing
                if last is not None:
                    by = "files" if last.desired == self.snapshot.desired else "rollback"
                    before, _ = fit(files, last.sources, last.desired, starting=True)
                    changes = shown(before.config, self.loaded.config)
            by = by if changes else "start"
            await self.keep(self._with_entry(self.memory, self.loaded, by, changes))
            self._tell_applied(by, changes)
        elif self._store.snapshot(self.loaded.digest) != self.snapshot or self._store.load() != self.memory:
            await self.keep(self.memory)

    async def turn(
        self,
        new: Loaded,
        snapshot: Snapshot,
        by: By,
        memory: ConfigMemory,
        *,
        kept: Callable[[], object] | None = None,
    ) -> bool:
        """Go over to another configuration; return whether it says something else.

        Args:
            new: it.
            snapshot: how it was said.
            by: who says so.
            memory: what is to be remembered with it.
            kept: called when that is on disk; ``None`` = it is gone over to even if that cannot be.

        Raises:
            ConfigError: a part cannot go over to it; nothing has changed.
            OSError: it cannot be remembered; nothing has changed.
        """
        old, is_other = self.loaded, new.digest != self.loaded.digest
        commit = self.prepare(old, new)
        changes = shown(old.config, new.config)
        if is_other:
            memory = self._with_entry(memory, new, by, changes)
        if (memory, snapshot) != (self.memory, self.snapshot):
            await self.keep(memory, snapshot, tolerant=kept is None)
        if kept is not None:
            kept()
        self.loaded = new
        if is_other:
            self.since = self._clock.now().time
        self.is_turning = True
        restarted = await commit()
        self.is_turning = False
        said = {"by": by, "config": new.digest, "version": new.version, "not_used_yet": list(new.unused)}
        keys = [change["key"] for change in changes[:MAX_KEYS]]
        log.info("config_applied", extra=said | {"keys": keys, "restarted": restarted})
        if new.pending:
            log.warning("config_pending", extra={"keys": new.pending, "reason": "only a restart changes that"})
        if is_other or new.pending != old.pending:
            self._tell_applied(by, changes)
        return is_other

    def _tell_applied(self, by: By, changes: Sequence[Mapping[str, Any]]) -> None:
        if by != "start":
            self.say("rolled_back" if by == "rollback" else "applied", by, changes=changes)

    def _with_entry(
        self, memory: ConfigMemory, new: Loaded, by: By, changes: Sequence[Mapping[str, Any]]
    ) -> ConfigMemory:
        entry = Entry(rfc3339(self._clock.now().time), new.digest, by, new.version, changes)
        return replace(memory, history=(*memory.history, entry)[-MAX_ENTRIES:])

    async def keep(self, memory: ConfigMemory, snapshot: Snapshot | None = None, *, tolerant: bool = True) -> None:
        """Remember, and how it was said if that has changed; what cannot be remembered holds until the agent ends."""
        snapshot, digest = snapshot or self.snapshot, memory.in_force or ""
        memory = memory.of(self.loaded.config.device.id)
        try:
            await self._store.save_soon(memory, {} if self._store.snapshot(digest) == snapshot else {digest: snapshot})
        except OSError as error:
            if not tolerant:
                raise
            log.warning("config_not_kept", extra={"reason": str(error)})
        self.memory, self.snapshot = memory, snapshot

    async def note(self, memory: ConfigMemory) -> None:
        """Have the next life begin with something else than this one goes by, as long as nothing is kept.

        Raises:
            OSError: it cannot be written.
        """
        await self._store.save_soon(memory, {})

    def say(
        self,
        what: str,
        by: By,
        *,
        changes: Sequence[Mapping[str, Any]] = (),
        errors: Sequence[ConfigProblem] = (),
    ) -> None:
        """Publish what has become of a change."""
        wrong = [{"key": one.key, "reason": one.reason, "file": one.file, "line": one.line} for one in errors]
        data = {"what": what, "by": by, "digest": self.loaded.digest, "version": self.loaded.version}
        details = {"changes": list(changes), "errors": wrong, "pending": list(self.loaded.pending)}
        for body in (data | details, data):  # without the details, where a record may not be so large
            with contextlib.suppress(OutboxError):
                self._outbox.put(Submission("event/config", orjson.dumps(body)))
                return
