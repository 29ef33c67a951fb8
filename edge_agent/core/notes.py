"""What other parts write down so that it outlives a crash, and what of it the store has yet to be told."""

from __future__ import annotations

from collections.abc import Mapping


class Notes:
    """Short texts by name.

    Attributes:
        kept: all of them.
        unwritten: what has changed and is not in the store yet; ``None`` = it is to be forgotten.
    """

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.unwritten: dict[str, bytes | None] = {}

    def put(self, name: str, text: bytes | None) -> None:
        """Write something down, or forget it."""
        self.unwritten[name] = text
        if text is None:
            self.kept.pop(name, None)
        else:
            self.kept[name] = text

    def recall(self, stored: Mapping[str, bytes]) -> None:
        """Take up what a store has written down; what is known already is newer, and all of it goes into this one."""
        self.unwritten = {**stored, **self.kept, **self.unwritten}
        self.kept = {name: text for name, text in self.unwritten.items() if text is not None}

    def written(self, notes: Mapping[str, bytes | None]) -> None:
        """Take note of what the store has been told."""
        self.unwritten = {
            name: text for name, text in self.unwritten.items() if name not in notes or notes[name] is not text
        }
