"""The only reader of the clocks of the operating system."""

from __future__ import annotations

import asyncio
import time

from edge_agent.core.timebase import NANOSECONDS_PER_SECOND, MonotonicNs, UtcNs


class SystemClock:
    """The clocks of this machine."""

    def monotonic(self) -> MonotonicNs:
        """Return CLOCK_MONOTONIC."""
        return MonotonicNs(time.monotonic_ns())

    def utc(self) -> UtcNs:
        """Return CLOCK_REALTIME; it may be wrong and may step."""
        return UtcNs(time.time_ns())

    async def sleep_until(self, deadline: MonotonicNs) -> None:
        """Return at ``deadline``; the loop's timers may fire a clock tick early, so it is looked at again."""
        while (left := deadline - time.monotonic_ns()) > 0:  # noqa: ASYNC110  # there is no event to wait for: time is what is waited for
            await asyncio.sleep(left / NANOSECONDS_PER_SECOND)
