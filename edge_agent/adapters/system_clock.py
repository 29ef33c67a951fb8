"""The only reader of the clocks of the operating system."""

from __future__ import annotations

import asyncio
import time
from time import CLOCK_BOOTTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, clock_gettime_ns

from edge_agent.core.events import Stamp
from edge_agent.core.timebase import NANOSECONDS_PER_SECOND, DurationNs, MonotonicNs, RawNs, UtcNs, WallNs


class SystemClock:
    """The clocks of this machine."""

    def __init__(self) -> None:
        self._slept = DurationNs(0)

    def monotonic(self) -> MonotonicNs:
        """Return CLOCK_MONOTONIC."""
        return MonotonicNs(time.monotonic_ns())

    def raw(self) -> RawNs:
        """Return CLOCK_MONOTONIC_RAW + (CLOCK_BOOTTIME - CLOCK_MONOTONIC): undisciplined, and counting suspend."""
        # other programs may run between the two readings: that makes the difference too small, never too large
        slept = clock_gettime_ns(CLOCK_BOOTTIME) - clock_gettime_ns(CLOCK_MONOTONIC)
        if slept > self._slept:
            self._slept = DurationNs(slept)
        return RawNs(clock_gettime_ns(CLOCK_MONOTONIC_RAW) + self._slept)

    def wall(self) -> WallNs:
        """Return CLOCK_REALTIME; it may be wrong and may step."""
        return WallNs(time.time_ns())

    def pair(self) -> tuple[RawNs, WallNs]:
        """Return the counter and CLOCK_REALTIME at the same instant: the tightest of three tries."""
        tries = []
        for _ in range(3):
            before = self.raw()
            wall = self.wall()
            after = self.raw()
            tries.append((after - before, RawNs((before + after) // 2), wall))
        return min(tries)[1:]

    def slept(self) -> DurationNs:
        """Return how long the device has been suspended since its boot; it never goes back."""
        self.raw()
        return self._slept

    def now(self) -> Stamp:
        """Return CLOCK_REALTIME as a time that nobody vouches for."""
        return Stamp(UtcNs(time.time_ns()))

    async def sleep_until(self, deadline: MonotonicNs) -> None:
        """Return at ``deadline``; the loop's timers may fire a clock tick early, so it is looked at again."""
        while (left := deadline - time.monotonic_ns()) > 0:  # noqa: ASYNC110  # there is no event to wait for: time is what is waited for
            await asyncio.sleep(left / NANOSECONDS_PER_SECOND)


def pause(wait_s: float) -> None:
    """Block this thread for so many seconds: for programs without a loop."""
    time.sleep(wait_s)
