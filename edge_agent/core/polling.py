"""When an NTP server is asked: soon when it matters, seldom otherwise, and never as often as to be a burden on it."""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from ipaddress import ip_address
from typing import Final

from edge_agent.core.backoff import Uniform
from edge_agent.core.ntp import Rejection
from edge_agent.core.sample import Sample
from edge_agent.core.timebase import DurationNs, MonotonicNs, later, seconds

NTP_PORT: Final = 123
BURST: Final = 8
SPACING: Final = seconds(2.0)
BURST_COSTS: Final = seconds(16.0)
"""What each request of a burst costs of a credit that grows with time: who always wants a burst asks so often."""

CREDIT: Final = 2 * BURST * BURST_COSTS
"""The most that is put by: two bursts in a row, for the first one may have been before the network was there."""

NEAR_MIN: Final = seconds(16.0)
"""The shortest interval for a server in one's own network."""

FAR_MIN: Final = seconds(64.0)
"""The shortest interval for any other server."""

BACKOFF_MAX: Final = seconds(1024.0)
MAX_DOUBLINGS: Final = 10  # beyond BACKOFF_MAX, from any interval
DENIED_FOR: Final = seconds(86_400.0)
JITTER: Final = 0.1
_KISSES: Final = (Rejection.KISS_RATE, Rejection.KISS_DENY, Rejection.KISS_RSTR)


def host_and_port(server: str) -> tuple[str, int]:
    """Split ``HOST``, ``HOST:PORT``, ``[IPv6]``, ``[IPv6]:PORT`` or a bare IPv6 address; the port is 123 by default."""
    if server.startswith("["):
        host, _, port = server[1:].partition("]")
    elif server.count(":") == 1:
        host, _, port = server.partition(":")
    else:
        host, port = server, ""
    return host, int(port.removeprefix(":") or NTP_PORT)


def is_near(address: str | None) -> bool:
    """Return whether an address is of a private, loopback or link-local range, so that the server is one's own."""
    try:
        return address is not None and ip_address(address).is_private
    except ValueError:
        return False


@dataclass(eq=False)
class Poll:
    """The plan for one server, which begins with a burst.

    Attributes:
        now: the present, when it is made.
        poll_min: the shortest interval; a server's own limit may be longer.
        poll_max: the longest interval while all is well.
        uniform: a source of randomness.
        place: the server's number from 0, and how many servers there are: they are asked in turn, not at once.
        due: when to ask it next; it may move to earlier by ``burst`` and ``hurry``.
    """

    now: InitVar[MonotonicNs]
    poll_min: DurationNs
    poll_max: DurationNs
    uniform: Uniform
    place: InitVar[tuple[int, int]] = (0, 1)

    def __post_init__(self, now: MonotonicNs, place: tuple[int, int]) -> None:
        self._turn = (place[0] + self.uniform()) / place[1]
        self._interval = self.poll_min
        self._asked_for = DurationNs(0)  # the interval that a server insists on, without any bursts
        self._is_near = False
        self._left = BURST
        self._misses = 0
        self._charged = now
        self._not_before = now
        self.due = later(now, DurationNs(int(SPACING * self._turn)))

    @property
    def interval(self) -> DurationNs:
        """How often it is asked while all is well."""
        return max(self._interval, self._floor)

    @property
    def _floor(self) -> DurationNs:
        return max(self.poll_min, NEAR_MIN if self._is_near else FAR_MIN, self._asked_for)

    def heard(self, answer: Sample | Rejection, now: MonotonicNs, *, near: bool, settled: bool) -> None:
        """Take note of the outcome of a request, and plan the next one.

        Args:
            answer: the outcome.
            now: the present.
            near: whether the server is in one's own network (``is_near``).
            settled: whether time is known well enough to ask less often.
        """
        self._is_near = near
        self._not_before = later(now, SPACING)
        ends_burst = self._left == 1
        if self._left:
            self._left -= 1
            self._charged = later(max(self._charged, now), BURST_COSTS)
        if isinstance(answer, Sample):
            wait = self._answered(settled=settled)
        elif answer in _KISSES:
            wait = self._kissed(answer)
            self._not_before = later(now, wait)
        else:
            self._misses += 1
            doublings = min(max(self._misses - BURST, 0), MAX_DOUBLINGS)
            wait = DurationNs(min(self._floor << doublings, max(BACKOFF_MAX, self._floor)))
        if self._left:
            self.due = self._in_burst(later(now, SPACING))
        else:
            self.due = max(later(now, self._jittered(wait, turn=self._turn if ends_burst else 0.0)), self._not_before)

    def burst(self, now: MonotonicNs) -> None:
        """Ask soon and often: the network came up, the device woke up, or somebody wants to know."""
        self.hurry(now)
        if not self._asked_for:
            self._left = BURST
            soon = max(later(now, DurationNs(int(SPACING * self._turn))), self._not_before)
            self.due = min(self.due, self._in_burst(soon))

    def hurry(self, now: MonotonicNs) -> None:
        """Ask twice as often: the time is less certain than it was."""
        self._interval = DurationNs(max(self._interval // 2, self.poll_min))
        self.due = min(self.due, max(later(now, self._jittered(self.interval)), self._not_before))

    def _answered(self, *, settled: bool) -> DurationNs:
        """Return the wait after a sample; a server that is back after a long silence is asked as at the start."""
        if self._misses >= BURST and not self._asked_for:
            self._left = BURST
        self._misses = 0
        if settled and not self._left:
            self._interval = DurationNs(min(2 * self.interval, max(self.poll_max, self._floor)))
        return self.interval

    def _kissed(self, kiss: Rejection) -> DurationNs:
        """Do as the server says, and return the wait."""
        self._left = 0
        if kiss is not Rejection.KISS_RATE:
            return DENIED_FOR
        self._asked_for = DurationNs(min(max(2 * self.interval, FAR_MIN), max(BACKOFF_MAX, self.poll_max)))
        return self.interval

    def _in_burst(self, instant: MonotonicNs) -> MonotonicNs:
        """Return when a request of a burst may be made that is due at an instant."""
        return max(instant, MonotonicNs(self._charged - CREDIT + BURST_COSTS))

    def _jittered(self, wait: DurationNs, *, turn: float = 0.0) -> DurationNs:
        """Vary a wait, so that devices that began together do not stay so; never to less than the server's limit."""
        varied = int(wait * (1 + turn + JITTER * (2 * self.uniform() - 1)))
        return DurationNs(self._floor + abs(varied - self._floor))
