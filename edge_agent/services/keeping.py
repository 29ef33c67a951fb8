"""Keeps the store usable: opens it, and mends what befalls it, so that the outbox goes on whatever the disk does.

==================  =================================================================================================
a full disk         the ballast is thrown off, then the oldest are dropped; failing that, records wait in memory
errors, read-only   records wait in memory; every few seconds the store is opened anew
damage              the store is put aside and a fresh one opened under the same name; what is intact is taken over;
                    so it is with a store of a version that is newer by two or more
==================  =================================================================================================
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar

from edge_agent.core.batch import Batch, Committed, Dropped, Identity, Salvaged, StoreFacts
from edge_agent.core.notes import LOST
from edge_agent.errors import StoreError, StoreFault
from edge_agent.ports import Store, StoreFile, StoreWorker

log = logging.getLogger(__name__)
T = TypeVar("T")

DELETED_AT_ONCE: Final = 200
"""Records, where the disk is full: what is deleted takes room in the log."""

SHED_TRIES: Final = 4


class Keeping:
    """The store, or the lack of one.

    Attributes:
        fault: what is wrong with it now; ``None`` = nothing.
        put_aside: what a damaged store said of itself when it was replaced; ``None`` = none was, or it said nothing.
    """

    def __init__(self, file: StoreFile, worker: StoreWorker, *, max_bytes: int, new_name: Callable[[], str]) -> None:
        self._file = file
        self._worker = worker
        self._max_bytes = max_bytes
        self._new_name = new_name
        self._store: Store | None = None
        self._ballast_gone = False
        self._failed = False  # the last commit did, and nothing was done about it yet
        self._shed: tuple[Dropped, ...] = ()  # dropped, and not told yet, for the commit that it was for has failed
        self.fault: StoreFault | None = None
        self.put_aside: Identity | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a store at all."""
        return self._store is not None

    @property
    def can_write(self) -> bool:
        """Whether a commit may succeed now."""
        return self._store is not None and not self._failed

    async def open(self) -> StoreFacts | None:
        """Open the store, replacing one that cannot be used; ``None`` = there is none now, see ``fault``."""
        try:
            self._store, facts = await self._worker.run(partial(self._open, self._new_name()))
        except StoreError as error:
            self._note(error)
            return None
        self.fault, self._failed = None, False
        return facts

    async def read(self, call: Callable[[Store], T]) -> T | None:
        """Return what a call of the store returns; ``None`` if it cannot be asked now."""
        if self._store is None:
            return None
        try:
            return await self._worker.run(partial(call, self._store))
        except StoreError as error:
            self._note(error)
            return None

    async def commit(self, batch: Batch) -> Committed | None:
        """Write a batch; ``None`` = it was not written, and ``fault`` says why."""
        if self._store is None:
            return None
        try:
            done = await self._worker.run(partial(self._commit, self._store, batch))
        except StoreError as error:
            self._note(error)
            self._failed = True
            return None
        self._failed = False
        self.fault = StoreFault.FULL if self._ballast_gone else None
        shed, self._shed = self._shed, ()
        return replace(done, dropped=shed + done.dropped)

    async def mend(self, identity: Callable[[], Identity]) -> bool:
        """Try to get out of a fault; return whether the store was replaced by a fresh one.

        Args:
            identity: of the outbox as it is known in memory, for the store that replaces a damaged one.
        """
        if self._store is None:
            return False
        replaced = self.fault is StoreFault.DAMAGED
        try:
            if replaced:
                known = identity()
                self._store = await self._worker.run(partial(self._replace, self._store, known))
                self.put_aside = known
            elif self.fault in (StoreFault.IO, StoreFault.READ_ONLY):
                self._store = await self._worker.run(partial(self._reopen, self._store, identity()))
            elif self._ballast_gone:
                self._ballast_gone = not await self._worker.run(self._file.lay_ballast)
            self.fault = StoreFault.FULL if self._ballast_gone else None
            self._failed = False
        except StoreError as error:
            self._note(error)
            return False
        return replaced

    async def salvage(self) -> AsyncIterator[Salvaged]:
        """Yield what can be got out of a store that was put aside, in pieces."""
        pieces = self._file.salvage()
        while (piece := await self._worker.run(lambda: next(pieces, None))) is not None:
            yield piece

    async def notes_taken(self) -> None:
        """Take note that the store has all notes of the one that it has replaced."""
        try:
            await self._worker.run(self._file.notes_taken)
        except StoreError as error:
            self._note(error)

    async def salvaged(self) -> None:
        """Take note that all of it is safe in the store."""
        await self._worker.run(self._file.salvaged)

    async def resize(self, max_bytes: int) -> None:
        """Change the room for records."""
        self._max_bytes = max_bytes
        await self.read(lambda store: store.resize(max_bytes))

    async def close(self, meta: Mapping[str, object] | None) -> None:
        """Close the store for good; with ``meta`` the stop is a clean one."""
        try:
            await self.abandon(meta)
        except StoreError as error:
            self._note(error)
        self._worker.stop()

    async def abandon(self, meta: Mapping[str, object] | None = None) -> None:
        """Close the store as it is."""
        if self._store is not None:
            store, self._store = self._store, None
            await self._worker.run(lambda: store.close(meta=meta))

    async def can_be_written(self) -> bool:
        """Return whether it is worth while to open a store."""
        return await self._worker.run(self._file.is_writable)

    # -- on the store's thread

    def _open(self, name: str) -> tuple[Store, StoreFacts]:
        store = self._usable(name)
        try:
            return store, self._with_notes(store)
        except BaseException:
            store.close()
            raise

    def _usable(self, name: str) -> Store:
        try:
            self.put_aside = known = self._file.put_aside()  # a power cut may have come between that and its salvage
            return self._fresh(known) if known else self._file.open(max_bytes=self._max_bytes, name=name)
        except StoreError as error:
            if error.fault is not StoreFault.DAMAGED:
                raise
            log.error(  # noqa: TRY400  # no bug of ours: the traceback would tell nobody anything
                "outbox_put_aside", extra={"reason": error.fault.value, "error": str(error)}
            )
            self.put_aside = known = self._file.identity()
            self._file.set_aside(known=known)
            return self._fresh(known) if known else self._file.open(max_bytes=self._max_bytes, name=name)

    def _with_notes(self, store: Store) -> StoreFacts:
        """Have a store take in the notes of those that were put aside, before anybody goes by what it knows."""
        there, found = store.facts.notes, self._file.notes()
        new = {name: text for name, text in found.items() if name == LOST or name not in there}
        if new:
            self._commit(store, Batch(notes=new))
        if found:
            log.warning("notes_salvaged", extra={"count": len(found.keys() - {LOST}), "whole": LOST not in found})
        self._file.notes_taken()
        return replace(store.facts, notes={**there, **new})

    def _fresh(self, known: Identity) -> Store:
        """Open the store; if there is none, one that continues another."""
        return self._file.open(max_bytes=self._max_bytes, name=known.name, reserved=known.reserved)

    def _commit(self, store: Store, batch: Batch) -> Committed:
        try:
            return store.commit(batch)
        except StoreError as error:
            if error.fault is not StoreFault.FULL:
                raise
        try:
            return self._commit_for_others(store, batch)
        except StoreError as error:
            if error.fault is not StoreFault.FULL:
                raise
            log.warning("disk_full", extra={"error": str(error)})
        self._ballast_gone = True
        self._file.throw_ballast()
        return self._commit_for_others(store, batch)

    def _commit_for_others(self, store: Store, batch: Batch) -> Committed:
        """Delete what may go, then drop as much as it takes: in one step that needs the room before it is there."""
        for first, last in batch.deletes:
            for low in range(first, last + 1, DELETED_AT_ONCE):
                piece = (low, min(low + DELETED_AT_ONCE - 1, last))
                store.commit(Batch(deletes=(piece,), may_drop=False, shed=True))
        for _ in range(SHED_TRIES if batch.may_drop and batch.records else 0):
            self._shed += store.commit(Batch(shed=True, keep=batch.keep, flying=batch.flying)).dropped
            with contextlib.suppress(StoreError):
                return store.commit(batch)
        return store.commit(batch)

    def _reopen(self, store: Store, known: Identity) -> Store:
        store.close()
        return self._file.open(max_bytes=self._max_bytes, name=known.name, reserved=known.reserved, resume=True)

    def _replace(self, store: Store, known: Identity) -> Store:
        store.close()
        self._file.set_aside(known=known)
        return self._fresh(known)

    # --

    def _note(self, error: StoreError) -> None:
        if self.fault is not error.fault:
            log.error("outbox_degraded", extra={"reason": error.fault.value, "error": str(error)})
        self.fault = error.fault
