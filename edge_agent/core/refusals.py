"""What a broker's answer to a record means, and how long a channel that it refuses is left alone."""

from __future__ import annotations

from enum import Enum
from typing import Final

from edge_agent.core.backoff import Uniform
from edge_agent.core.timebase import DurationNs, MonotonicNs, later, seconds

FIRST_PAUSE: Final = seconds(60)
LONGEST_PAUSE: Final = seconds(900)
NOT_AUTHORIZED: Final = 0x87
QUOTA_EXCEEDED: Final = 0x97
PACKET_TOO_LARGE: Final = 0x95
CLOSES_THE_CONNECTION: Final = 0
"""In place of a reason code: a broker closed the connection over it, again and again."""

STRIKES: Final = 3
"""Connections lost with the same record first in flight, after which it is sent alone."""

_LATER: Final = frozenset({0x80, 0x83, QUOTA_EXCEEDED})


class Answer(Enum):
    """What to do with a record."""

    DELIVERED = "delivered"
    HOLD = "hold"  # its channel is refused: somebody has to give a permission
    LATER = "later"  # the broker cannot now
    DEAD = "dead"  # no broker will ever take it


def answer(reason: int) -> Answer:
    """Return what a PUBACK's reason code (MQTT 5 §3.4.2.1) means for the record."""
    if reason < 0x80:
        return Answer.DELIVERED
    if reason == NOT_AUTHORIZED:
        return Answer.HOLD
    return Answer.LATER if reason in _LATER else Answer.DEAD


class Pauses:
    """Channels that are refused: each is tried again after a pause, which doubles from 1 to 15 min."""

    def __init__(self, *, uniform: Uniform) -> None:
        self._uniform = uniform
        self._pauses: dict[str, tuple[MonotonicNs, DurationNs]] = {}  # until when, and how long that was

    def refused(self, channel: str, now: MonotonicNs) -> bool:
        """Take note of a refusal; return whether it is news."""
        until, length = self._pauses.get(channel, (now, DurationNs(0)))
        if until <= now:  # what else of it was in flight says nothing new
            longer = DurationNs(min(max(length * 2, FIRST_PAUSE), LONGEST_PAUSE))
            jittered = DurationNs(int(longer * (0.75 + 0.25 * self._uniform())))
            self._pauses[channel] = later(now, jittered), longer
        return not length

    def accepted(self, channel: str) -> bool:
        """Take note that a record of the channel was accepted; return whether it was paused."""
        return self._pauses.pop(channel, None) is not None

    def may_go(self, channel: str, now: MonotonicNs) -> bool:
        """Return whether records of the channel may be sent."""
        return channel not in self._pauses or self._pauses[channel][0] <= now

    def over(self, now: MonotonicNs) -> list[str]:
        """Return the channels that may be tried again."""
        return [channel for channel in self._pauses if self.may_go(channel, now)]

    def next_over(self, now: MonotonicNs) -> MonotonicNs | None:
        """Return when the next pause is over."""
        return min((until for until, _ in self._pauses.values() if until > now), default=None)

    def channels(self) -> list[str]:
        """Return what is refused."""
        return sorted(self._pauses)


class Isolation:
    """Finds the record over which a broker closes the connection.

    The end of a connection throws suspicion on the first record that was not answered on it. After three of the same
    record nothing else is in flight with it; if that connection ends too, the record is found. The first one of a
    channel is taken to be bad itself; if the next one of the same channel is found as well, the channel is refused.
    """

    def __init__(self) -> None:
        self._suspect: int | None = None
        self._strikes = 0
        self._blamed: str | None = None

    @property
    def alone(self) -> bool:
        """Whether no two records may be in flight at once."""
        return self._strikes >= STRIKES

    @property
    def suspects(self) -> bool:
        """Whether a record was outstanding when a connection ended, and has not been answered since."""
        return self._suspect is not None

    def answered(self, key: int, channel: str) -> None:
        """Take note of an answer: neither this record nor one that goes before it ends connections."""
        if self._suspect is not None and key >= self._suspect:
            self._suspect, self._strikes = None, 0
        if channel == self._blamed:
            self._blamed = None

    def ended(self, first: int, channel: str) -> Answer | None:
        """Take note of a connection that ended.

        Args:
            first: the key of the first record that was not answered.
            channel: its channel.

        Returns:
            ``DEAD`` or ``HOLD`` when the record or its channel is found out, else ``None``.
        """
        if first != self._suspect:
            self._suspect, self._strikes = first, 1
            return None
        if not self.alone:
            self._strikes += 1
            return None
        self._suspect, self._strikes = None, 0
        if self._blamed == channel:
            return Answer.HOLD
        self._blamed = channel
        return Answer.DEAD
