"""The only reader of the clocks of the operating system."""

from __future__ import annotations

import asyncio
import time
from time import CLOCK_BOOTTIME, CLOCK_MONOTONIC_RAW, clock_gettime_ns

from edge_agent.core.events import Stamp
from edge_agent.core.timebase import NANOSECONDS_PER_SECOND, MonotonicNs, RawNs, UtcNs, WallNs


class SystemClock:
    """The clocks of this machine."""

    def monotonic(self) -> MonotonicNs:
        """Return CLOCK_MONOTONIC."""
        return MonotonicNs(time.monotonic_ns())

    def raw(self) -> RawNs:
        """Return CLOCK_MONOTONIC_RAW + (CLOCK_BOOTTIME - CLOCK_MONOTONIC)."""
        return RawNs(clock_gettime_ns(CLOCK_MONOTONIC_RAW) + clock_gettime_ns(CLOCK_BOOTTIME) - time.monotonic_ns())

    def wall(self) -> WallNs:
        """Return CLOCK_REALTIME; it may be wrong and may step."""
        return WallNs(time.time_ns())

    def now(self) -> Stamp:
        """Return CLOCK_REALTIME as a time that nobody vouches for."""
        return Stamp(UtcNs(time.time_ns()))

    async def sleep_until(self, deadline: MonotonicNs) -> None:
        """Return at ``deadline``; the loop's timers may fire a clock tick early, so it is looked at again."""
        while (left := deadline - time.monotonic_ns()) > 0:  # noqa: ASYNC110  # there is no event to wait for: time is what is waited for
            await asyncio.sleep(left / NANOSECONDS_PER_SECOND)
