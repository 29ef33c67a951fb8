"""How fast a backlog goes out: a token bucket that starts slowly after a reconnect.

A fleet that comes back after its broker's outage must not flood it. So each device waits for up to 5 s, begins with a
tenth of the configured rate, and doubles it every 5 s. New records are not slowed down: each that is put brings a token
of its own, so the backlog shrinks by the configured rate whatever the inflow is.
"""

from __future__ import annotations

from typing import Final

from edge_agent.core.backoff import Uniform
from edge_agent.core.timebase import MonotonicNs, elapsed, later, seconds, to_seconds

START_WITHIN: Final = seconds(5)
FIRST_SHARE: Final = 0.1
DOUBLES_EVERY: Final = seconds(5)
BURST_S: Final = 0.25
"""How many seconds' worth of tokens may be saved up."""


class Pace:
    """Tokens, one a record."""

    def __init__(self, rate: int, *, uniform: Uniform) -> None:
        """Start with no tokens.

        Args:
            rate: records per second; 0 = no limit.
            uniform: the randomness of the start.
        """
        self.rate = rate
        self._uniform = uniform
        self._tokens = 0.0
        self._credits = 0
        self._share = FIRST_SHARE
        self._at = MonotonicNs(0)
        self._doubles_at = MonotonicNs(0)

    def connected(self, now: MonotonicNs) -> None:
        """Begin anew, slowly."""
        start = later(now, seconds(self._uniform() * to_seconds(START_WITHIN)))
        self._tokens, self._credits, self._share = 0.0, 0, FIRST_SHARE
        self._at = start
        self._doubles_at = later(start, DOUBLES_EVERY)

    def record_was_put(self) -> None:
        """Let one record more go: as many may leave as come in."""
        self._credits += 1

    def slow_down(self, now: MonotonicNs) -> None:
        """Halve the rate: the broker has asked for it."""
        self._share = max(self._share / 2, FIRST_SHARE / 8)
        self._doubles_at = later(now, DOUBLES_EVERY)

    def take(self, now: MonotonicNs) -> bool:
        """Take a token for one record if there is one."""
        if self.rate == 0:
            return True
        if self._credits > 0:
            self._credits -= 1
            return True
        self._refill(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def next_token(self, now: MonotonicNs) -> MonotonicNs:
        """Return when ``take`` can succeed again if nothing is put meanwhile."""
        self._refill(now)
        missing = max(1 - self._tokens, 0)
        return max(later(now, seconds(missing / (self.rate * self._share))), self._at)

    def nothing_waits(self) -> None:
        """Forget what was put and has gone by other ways: there is no backlog."""
        self._credits = 0

    def _refill(self, now: MonotonicNs) -> None:
        if now <= self._at:
            return
        while self._share < 1 and now >= self._doubles_at:
            self._share = min(self._share * 2, 1.0)
            self._doubles_at = later(self._doubles_at, DOUBLES_EVERY)
        rate = self.rate * self._share
        self._tokens = min(self._tokens + rate * to_seconds(elapsed(self._at, now)), max(rate * BURST_S, 1.0))
        self._at = now
