"""Feeds the service manager's watchdog for as long as no service has broken its promise; silence gets us restarted."""

from __future__ import annotations

import logging

from edge_agent.core.liveness import Liveness
from edge_agent.core.timebase import DurationNs, later
from edge_agent.ports import Clock, Notifier

log = logging.getLogger(__name__)


async def feed_watchdog(notifier: Notifier, *, period: DurationNs, clock: Clock, liveness: Liveness) -> None:
    """Feed twice per period until cancelled; being offline is no reason to starve it, a loop that does not turn is."""
    while True:
        overdue = liveness.overdue(clock.monotonic())
        if overdue:
            log.critical("watchdog_starved", extra={"overdue": overdue})
        else:
            notifier.alive()
        await clock.sleep_until(later(clock.monotonic(), DurationNs(period // 2)))
