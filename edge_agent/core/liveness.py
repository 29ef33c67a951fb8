"""Who promised to be back by when; the watchdog is fed only while no promise is broken.

A service that sleeps for an hour is alive, one that hangs in the middle of its work is not. So each says, before it
waits, when it will be back at the latest; no polling is needed to tell the two apart.
"""

from __future__ import annotations

from edge_agent.core.timebase import MonotonicNs


class Liveness:
    """The latest promise of each service, by name."""

    def __init__(self) -> None:
        self._due: dict[str, MonotonicNs] = {}

    def promise(self, name: str, due: MonotonicNs) -> None:
        """Record that the service ``name`` will be back at ``due`` at the latest; replaces its last promise."""
        self._due[name] = due

    def release(self, name: str) -> None:
        """Forget the service: it has ended, or waits for something that may never come."""
        self._due.pop(name, None)

    def overdue(self, now: MonotonicNs) -> list[str]:
        """Return the names of the services that broke their promise, in order of name."""
        return sorted(name for name, due in self._due.items() if due < now)
