"""Knows whether some of what was noted down in former lives may be missing, and for how long that matters."""

from __future__ import annotations

from typing import Final

from edge_agent.core.journal import MAX_AGE
from edge_agent.core.notes import LOST
from edge_agent.core.timebase import seconds
from edge_agent.services.outbox import Outbox

HEARD_AFTER: Final = seconds(60)
"""So long after a connection was made, a broker has sent all that it retains."""


class LostNotes:
    """What the store says of notes that are missing, or that there is no store.

    It matters for as long as a command is remembered at all, counted by the outbox's age, which stands still while the
    device is off: no broker delivers again then what it had delivered before. And until a connection has been there for
    a while: only then has the broker sent what it retains.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._found = False
        self._online_since: int | None = None

    def look(self, *, unreadable: bool) -> None:
        """Look at the notes that the store has just told; ``unreadable`` = somebody cannot read one of his."""
        until = self._outbox.notes.get(LOST)
        if until == b"" or (until is None and unreadable):
            self._outbox.note(LOST, b"%d" % (self._outbox.age() + MAX_AGE))
        self._tell(found=LOST in self._outbox.notes or not self._outbox.keeping.is_open)

    def look_again(self) -> None:
        """Have it forgotten once it no longer matters."""
        age, until = self._outbox.age(), self._outbox.notes.get(LOST)
        if self._online_since is None and self._outbox.online:
            self._online_since = age
        heard = self._online_since is not None and age >= self._online_since + HEARD_AFTER
        if until is not None and heard and age >= int(until):
            self._outbox.note(LOST, None)
            self._tell(found=False)

    def __bool__(self) -> bool:
        """Return whether some may be missing."""
        return self._found

    def _tell(self, *, found: bool) -> None:
        if found is not self._found:
            self._found = found
            self._outbox.said()
