"""What other parts write down so that it outlives a crash, and what of it the store has yet to be told."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final

from edge_agent.core.records import Record

LOST: Final = "lost"
"""The name of a note that the store itself writes, empty: others may be missing, by damage or in another store."""


class Notes:
    """Short texts by name.

    Attributes:
        kept: all of them.
        unwritten: what has changed and is not in the store yet; ``None`` = it is to be forgotten.
        recalled: called when a store has told what it had written down.
    """

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.unwritten: dict[str, bytes | None] = {}
        self.recalled: Callable[[], None] = lambda: None
        self._beside: dict[str, Record] = {}  # by name: what has to be on the disk at the same moment

    def put(self, name: str, text: bytes | None, beside: Record | None = None) -> None:
        """Write something down, or forget it; ``beside`` a record: neither is in the store without the other."""
        if text is not None:
            text = bytes(memoryview(text))  # what orjson returns keeps the room that it was made in: kilobytes
        self.unwritten[name] = text
        self._beside.pop(name, None)
        if beside is not None:
            self._beside[name] = beside
        if text is None:
            self.kept.pop(name, None)
        else:
            self.kept[name] = text

    def recall(self, stored: Mapping[str, bytes]) -> None:
        """Take up what a store has; what is known already is newer, and goes into this store as far as it differs."""
        known = {**stored, **self.kept, **self.unwritten}
        # what is forgotten stays so: a store that is not there now may have it
        self.unwritten = {name: text for name, text in known.items() if text is None or stored.get(name) != text}
        self.kept = {name: text for name, text in known.items() if text is not None}
        self.recalled()

    def ready(self, chosen: Collection[Record], fresh: Callable[[Record], bool]) -> dict[str, bytes | None]:
        """Return what may be written beside some records, of all those that are ``fresh``: in memory alone."""
        held = {name for name, record in self._beside.items() if fresh(record) and record not in chosen}
        return {name: text for name, text in self.unwritten.items() if name not in held}

    def written(self, notes: Mapping[str, bytes | None]) -> None:
        """Take note of what the store has been told."""
        for name, text in notes.items():
            if name in self.unwritten and self.unwritten[name] is text:
                del self.unwritten[name]
                self._beside.pop(name, None)
