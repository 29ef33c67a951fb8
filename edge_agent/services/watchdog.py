"""Feeds the service manager's watchdog for as long as no service has broken its promise; silence gets us restarted."""

from __future__ import annotations

import logging

from edge_agent.core.liveness import Liveness
from edge_agent.core.timebase import DurationNs, later
from edge_agent.ports import Clock, Notifier

log = logging.getLogger(__name__)


class Watchdog:
    """Wakes twice per period; being offline is no reason to starve it, a loop that does not turn is."""

    def __init__(self, notifier: Notifier, *, period: DurationNs, clock: Clock, liveness: Liveness) -> None:
        self._notifier = notifier
        self._half = DurationNs(period // 2)
        self._clock = clock
        self._liveness = liveness

    async def run(self) -> None:
        """Feed until cancelled."""
        while True:
            overdue = self._liveness.overdue(self._clock.monotonic())
            if overdue:
                log.critical("watchdog_starved", extra={"overdue": overdue})
            else:
                self._notifier.alive()
            await self._clock.sleep_until(later(self._clock.monotonic(), self._half))
