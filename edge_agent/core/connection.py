"""Which broker to try next, how, and when: the memory of what went wrong with each, and the decisions it leads to.

Rules kept here and nowhere else:

1. Brokers are tried in order of preference; a failure moves on to the next, a lost connection starts over at the first.
2. Waits are exponential with full jitter, capped at 4 s during the first 2 minutes of an outage and at the configured
   maximum after; 5 s of life end an outage, 30 s let the waits begin anew.
3. ``auto`` starts with MQTT 5. A broker that says it cannot, answers in 3.1.1, or closes twice without a CONNACK is
   spoken to in 3.1.1 until restart.
4. What a broker answers by closing the connection (a filter, a retained message, a topic) is left out for an hour, so
   that no refusal becomes a reconnect loop.
5. A client id taken over by another client makes both disconnect each other for ever: attempts are then at least 60 s
   apart until a connection has lived for 5 minutes.

Nothing here reads a clock: every instant is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal, NamedTuple

from edge_agent.core.backoff import Uniform, full_jitter
from edge_agent.core.config_types import BrokerUrl
from edge_agent.core.timebase import DurationNs, MonotonicNs, elapsed, later, seconds
from edge_agent.core.topics import MAX_FILTERS_PER_SUBSCRIBE
from edge_agent.errors import ConnectFailedError, ConnectFailure

ProtocolVersion = Literal[4, 5]
"""The protocol level of a CONNECT packet: 4 is MQTT 3.1.1."""

SPOKEN: Final[Mapping[ProtocolVersion, str]] = {5: "5", 4: "3.1.1"}
"""What people call it."""

FIRST_WAIT: Final = seconds(1)
EARLY_OUTAGE: Final = seconds(120)
EARLY_CAP: Final = seconds(4)
ESTABLISHED_AFTER: Final = seconds(30)
QUICK_CLOSE: Final = seconds(5)
QUICK_CLOSES_THAT_MEAN_TAKEOVER: Final = 3
TAKEOVER_WAIT: Final = seconds(60)
TAKEOVER_FORGOTTEN_AFTER: Final = seconds(300)
LEFT_OUT_FOR: Final = seconds(3600)
CLOSES_THAT_MEAN_OLD: Final = 2
SESSION_TAKEN_OVER: Final = 0x8E  # MQTT 5 §3.14.2.1
RETAIN_NOT_SUPPORTED: Final = 0x9A


class Suspect(NamedTuple):
    """One thing the broker may have closed the connection for: a filter, or a publish to a topic, retained or not."""

    kind: Literal["filter", "retained", "topic"]
    name: str


class ClosedBy(Enum):
    """Who ended a connection."""

    PEER = "peer"  # a DISCONNECT packet, or the end of the stream
    NETWORK = "network"  # the operating system gave up on it
    SILENCE = "silence"  # nothing was answered for too long, so it was given up here
    PROTOCOL = "protocol"  # the peer sent something that is not MQTT
    US = "us"


@dataclass(frozen=True, slots=True)
class Closing:
    """How a connection ended.

    Attributes:
        by: who ended it.
        reason: the reason code of the broker's DISCONNECT (MQTT 5 §3.14.2.1), ``None`` without one.
        detail: one line for the log.
    """

    by: ClosedBy
    reason: int | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What to try next.

    Attributes:
        broker: whom to connect to.
        protocol: the protocol to speak.
        will_retained: whether the Will asks to be retained; some brokers refuse the connection for it.
        wait: how long to wait first.
    """

    broker: BrokerUrl
    protocol: ProtocolVersion
    will_retained: bool
    wait: DurationNs


@dataclass(slots=True)
class _BrokerMemory:
    """What is known of one broker."""

    protocol: ProtocolVersion
    closes_before_connack: int = 0
    one_filter_at_a_time: bool = False
    retains: bool = False  # it has accepted a retained message
    struck: set[Suspect] = field(default_factory=set)  # the broker closed a connection with this alone outstanding
    left_out: dict[Suspect, MonotonicNs] = field(default_factory=dict)  # until when


RETAINED: Final = Suspect("retained", "messages")
"""A broker that does not take retained messages takes none, the Will included."""


@dataclass(slots=True)
class ConnectionPolicy:
    """The decisions of the connection loop.

    Call ``next_attempt``, then exactly one of ``failed`` or ``connected``; after ``connected``, ``closed`` at its end.

    Attributes:
        brokers: in order of preference; at least one.
        protocol: the one protocol to speak; ``None`` tries MQTT 5 and falls back.
        reconnect_max: cap of the wait between tries once an outage has lasted.
        uniform: the randomness of the jitter.
    """

    brokers: Sequence[BrokerUrl]
    protocol: ProtocolVersion | None
    reconnect_max: DurationNs
    uniform: Uniform
    _memory: list[_BrokerMemory] = field(init=False)
    _index: int = 0
    _tries: int = 0
    _outage_since: MonotonicNs | None = None
    _connected_at: MonotonicNs | None = None
    _quick_closes: int = 0
    _taken_over: bool = False

    def __post_init__(self) -> None:
        """Start with nothing known."""
        self._memory = [_BrokerMemory(self.protocol or 5) for _ in self.brokers]

    # -- the loop

    def next_attempt(self, now: MonotonicNs) -> Attempt:
        """Return what to try next; the very first try has no wait."""
        memory = self._current
        closes = memory.closes_before_connack - (CLOSES_THAT_MEAN_OLD if self.protocol is None else 0)
        return Attempt(
            broker=self.brokers[self._index],
            protocol=memory.protocol,
            # After closes that no change of protocol explains, the retained Will is left out every other two tries.
            will_retained=not self._is_left_out(RETAINED, now) and (closes < 2 or closes % 4 < 2),
            wait=self._wait(now),
        )

    def failed(self, error: ConnectFailedError, now: MonotonicNs) -> None:
        """Take note that the attempt failed."""
        memory = self._current
        memory.closes_before_connack += error.failure is ConnectFailure.CLOSED
        is_old = error.failure is ConnectFailure.OLD_PROTOCOL or memory.closes_before_connack >= CLOSES_THAT_MEAN_OLD
        if is_old and self.protocol is None:
            memory.protocol = 4
        if error.failure is ConnectFailure.UNREACHABLE:
            self._quick_closes = 0  # it was away: that explains them
        if error.reason == RETAIN_NOT_SUPPORTED:
            memory.left_out[RETAINED] = later(now, LEFT_OUT_FOR)
        if self._outage_since is None:
            self._outage_since = now
        self._move_on()

    def connected(self, now: MonotonicNs, *, will_retained: bool) -> None:
        """Take note of a CONNACK; ``will_retained`` as in the attempt."""
        self._connected_at = now
        self._current.closes_before_connack = 0
        if not will_retained and self.may_retain(now):
            self._current.left_out[RETAINED] = later(now, LEFT_OUT_FOR)

    def closed(
        self, closing: Closing, suspects: frozenset[Suspect], now: MonotonicNs, *, unanswered: bool = False
    ) -> bool:
        """Take note of the end of a connection; return whether it tells for the first time of another client.

        Args:
            closing: how it ended.
            suspects: what was outstanding then.
            now: when it ended.
            unanswered: whether records were sent, and none or not the suspected one was answered: that may be why.
        """
        assert self._connected_at is not None, "a connection was made"
        life, known = elapsed(self._connected_at, now), self.taken_over(now)
        self._connected_at = None
        blamed = closing.by is ClosedBy.PEER and closing.reason != SESSION_TAKEN_OVER and self._blame(suspects, now)
        self._watch_for_takeover(closing, life, blamed=blamed or unanswered)
        if life >= ESTABLISHED_AFTER or self._outage_since is None:
            self._tries = 0
        if life >= QUICK_CLOSE or self._outage_since is None:
            self._outage_since = now  # a new one: its first minutes have the short cap, as those of every outage
        if life >= ESTABLISHED_AFTER:
            self._index = 0
        elif not blamed:
            self._move_on()
        return self._taken_over and not known

    # -- what may be asked of the broker in use

    def batches(self, filters: Sequence[str], now: MonotonicNs) -> list[tuple[str, ...]]:
        """Return the filters to subscribe to, a tuple for each SUBSCRIBE, without those that are left out."""
        wanted = [f for f in filters if not self._is_left_out(Suspect("filter", f), now)]
        size = 1 if self._current.one_filter_at_a_time else MAX_FILTERS_PER_SUBSCRIBE
        return [tuple(wanted[i : i + size]) for i in range(0, len(wanted), size)]

    def may_retain(self, now: MonotonicNs) -> bool:
        """Return whether retained messages may be sent."""
        return not self._is_left_out(RETAINED, now)

    def may_publish(self, topic: str, now: MonotonicNs) -> bool:
        """Return whether anything may be sent to the topic."""
        return not self._is_left_out(Suspect("topic", topic), now)

    def accepted(self, suspect: Suspect) -> None:
        """Take note that the broker accepted what was suspected."""
        self._current.struck.discard(suspect)
        self._current.retains = self._current.retains or suspect.kind == "retained"

    # -- what to tell

    def reasons(self, now: MonotonicNs) -> list[str]:
        """Return why the connection is less than it should be, as stable words; empty when all is well."""
        found = ["client_id_taken_over"] if self.taken_over(now) else []
        left_out = [suspect for suspect, until in self._current.left_out.items() if until > now]
        return found + [f"{suspect.kind}_refused: {suspect.name}" for suspect in left_out]

    def taken_over(self, now: MonotonicNs) -> bool:
        """Return whether another client uses this client id, as far as is known."""
        if self._connected_at is not None and elapsed(self._connected_at, now) >= TAKEOVER_FORGOTTEN_AFTER:
            self._taken_over = False
        return self._taken_over

    def next_review(self, now: MonotonicNs) -> MonotonicNs | None:
        """Return when the answers above change by themselves; ``None`` when they will not."""
        instants = [until for until in self._current.left_out.values() if until > now]
        if self.taken_over(now) and self._connected_at is not None:
            instants.append(later(self._connected_at, TAKEOVER_FORGOTTEN_AFTER))
        return min(instants, default=None)

    @property
    def on_first_broker(self) -> bool:
        """Whether the broker in use is the preferred one."""
        return self._index == 0

    # -- inside

    @property
    def _current(self) -> _BrokerMemory:
        return self._memory[self._index]

    def _move_on(self) -> None:
        self._index = (self._index + 1) % len(self.brokers)
        self._tries += self._index == 0

    def _wait(self, now: MonotonicNs) -> DurationNs:
        if self._outage_since is None:
            return seconds(0)
        early = elapsed(self._outage_since, now) < EARLY_OUTAGE
        cap = min(EARLY_CAP, self.reconnect_max) if early else self.reconnect_max
        wait = full_jitter(self._tries, base=FIRST_WAIT, cap=cap, uniform=self.uniform)
        return DurationNs(wait + TAKEOVER_WAIT) if self._taken_over else wait

    def _watch_for_takeover(self, closing: Closing, life: DurationNs, *, blamed: bool) -> None:
        if closing.reason == SESSION_TAKEN_OVER:
            self._taken_over = True
        elif closing.by is ClosedBy.PEER and life < QUICK_CLOSE and not blamed:
            self._quick_closes += 1
            self._taken_over = self._taken_over or self._quick_closes >= QUICK_CLOSES_THAT_MEAN_TAKEOVER
        else:
            self._quick_closes = 0

    def _blame(self, suspects: frozenset[Suspect], now: MonotonicNs) -> bool:
        """Act on what was outstanding; return whether that explains the close."""
        filters = [suspect for suspect in suspects if suspect.kind == "filter"]
        if len(filters) > 1:
            self._current.one_filter_at_a_time = True
            return True
        if filters:
            self._current.left_out[filters[0]] = later(now, LEFT_OUT_FOR)
            return True
        if len(suspects) != 1:  # many topics in flight: any of them, or none
            return False
        (suspect,) = suspects
        if suspect not in self._current.struck:
            self._current.struck.add(suspect)
            return False
        self._current.struck.remove(suspect)
        if suspect.kind == "retained":
            suspect = Suspect("topic", suspect.name) if self._current.retains else RETAINED
        self._current.left_out[suspect] = later(now, LEFT_OUT_FOR)
        return True

    def _is_left_out(self, suspect: Suspect, now: MonotonicNs) -> bool:
        return self._current.left_out.get(suspect, now) > now
