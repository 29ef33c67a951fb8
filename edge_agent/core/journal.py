"""Which commands are remembered, and which of them are forgotten first."""

from __future__ import annotations

from typing import Final

from edge_agent.core.command_entry import Entry, Moment
from edge_agent.core.timebase import seconds

MAX_AGE: Final = seconds(7 * 86_400)
MAX_BYTES: Final = 1 << 20
"""Of all that have ended."""

MAX_OPEN_BYTES: Final = 512 << 10
"""Of those that have not: beyond it no more is accepted."""


class Journal:
    """Commands by id.

    Attributes:
        open: those that have not ended, in the order in which they came.
        ended: those that have, in the order in which they did.
        open_bytes: what the open ones take.
    """

    def __init__(self) -> None:
        self.open: dict[str, Entry] = {}
        self.ended: dict[str, Entry] = {}
        self.open_bytes = 0
        self._ended_bytes = 0
        self._sizes: dict[str, int] = {}

    def find(self, command_id: str) -> Entry | None:
        """Return a command that is remembered."""
        return self.open.get(command_id) or self.ended.get(command_id)

    def keep(self, entry: Entry, size: int) -> None:
        """Remember a command, or how far it has come; ``size`` is what it takes in bytes."""
        if entry.id in self.open and not entry.state.is_final:
            self.open_bytes += size - self._sizes[entry.id]
        else:
            self.forget(entry.id)
            if entry.state.is_final:
                self.ended[entry.id] = entry
                self._ended_bytes += size
            else:
                self.open[entry.id] = entry
                self.open_bytes += size
        self._sizes[entry.id] = size

    def forget(self, command_id: str) -> None:
        """Forget a command, if it is remembered."""
        size = self._sizes.pop(command_id, 0)
        if self.open.pop(command_id, None) is not None:
            self.open_bytes -= size
        elif self.ended.pop(command_id, None) is not None:
            self._ended_bytes -= size

    def outlived(self, at: Moment, *, may_repeat: frozenset[str]) -> list[str]:
        """Return the ids to forget: of those that ended long ago, and of the oldest of those there is no room for.

        Nothing is forgotten while a reply of it has yet to be said.

        Args:
            at: now.
            may_repeat: commands of which it does no harm to run one twice: where there is no room, they go first, and
                those last that a broker may still deliver.
        """
        told = [one for one in self.ended.values() if not one.copies]
        old = [one.id for one in told if at.age >= one.finished_age + MAX_AGE and _is_over(one, at)]
        left = self._ended_bytes - sum(self._sizes[one] for one in old)
        if left > MAX_BYTES:
            gone = set(old)
            kept = [one for one in told if one.id not in gone]
            for one in sorted(kept, key=lambda one: (one.command not in may_repeat, not _is_over(one, at))):
                if left <= MAX_BYTES * 7 // 8:  # some at a time
                    break
                old.append(one.id)
                left -= self._sizes[one.id]
        return old

    @property
    def is_crowded(self) -> bool:
        """Whether there is no room for all that have ended."""
        return self._ended_bytes > MAX_BYTES

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another one: too many have not ended, or were not told."""
        return self.open_bytes > MAX_OPEN_BYTES or self.is_crowded


def _is_over(entry: Entry, at: Moment) -> bool:
    """Return whether nobody delivers it any more: its expiry has passed."""
    return at.age >= entry.keep_age and (entry.keep_until == 0 or (at.is_known and at.now.time >= entry.keep_until))
