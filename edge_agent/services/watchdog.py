"""Feeds the service manager's watchdog for as long as no service has broken its promise; silence gets us restarted.

A service that sleeps for an hour is alive, one that hangs in the middle of its work is not. So each says, before it
waits, when it will be back at the latest; no polling is needed to tell the two apart.
"""

from __future__ import annotations

import logging

from edge_agent.core.timebase import DurationNs, MonotonicNs, later
from edge_agent.ports import Clock, Notifier

log = logging.getLogger(__name__)


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


async def feed_watchdog(notifier: Notifier, *, period: DurationNs, clock: Clock, liveness: Liveness) -> None:
    """Feed twice per period until cancelled; being offline is no reason to starve it, a loop that does not turn is."""
    while True:
        overdue = liveness.overdue(clock.monotonic())
        if overdue:
            log.critical("watchdog_starved", extra={"overdue": overdue})
        else:
            notifier.alive()
        await clock.sleep_until(later(clock.monotonic(), DurationNs(period // 2)))
