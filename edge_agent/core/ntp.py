"""Which answer of an NTP server is taken for the time, and why another is not (RFC 5905 §8)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from edge_agent.core.sample import Sample
from edge_agent.core.timebase import BUILD_EPOCH, NANOSECONDS_PER_SECOND, RawNs, UtcNs, seconds

SERVER_MODE: Final = 4
VERSIONS: Final = (3, 4)
NOT_SYNCHRONISED: Final = 3
KISS_OF_DEATH: Final = 0
LAST_STRATUM: Final = 15
LONGEST_HOLD: Final = seconds(4.0)
"""A server that takes longer to answer was asleep, or its clock stepped in between."""

MAX_DISTANCE: Final = seconds(1.5)
"""The largest error of a sample, RFC 5905 §11.2's root distance, that is worth having."""


class Rejection(Enum):
    """Why there is no sample; the values are stable words."""

    # the exchange
    UNRESOLVED = "unresolved"  # the name has no address, or not in time
    UNREACHABLE = "unreachable"  # nothing can be sent there
    REFUSED = "refused"  # no server on that port
    NO_ANSWER = "no_answer"
    # the answer
    STRAY = "stray"  # not to our request: the true one may still come
    NOT_A_SERVER = "not_a_server"
    WRONG_VERSION = "wrong_version"
    UNSYNCHRONISED = "unsynchronised"
    NO_TIME = "no_time"
    SLOW_SERVER = "slow_server"  # it sent before it received, or held the request for too long
    BEFORE_BUILD = "before_build"  # its time is earlier than this program
    NEGATIVE_DELAY = "negative_delay"
    TOO_FAR = "too_far"  # its time could be off by more than ``MAX_DISTANCE``
    # Kiss-o'-Death (RFC 5905 §7.4)
    KISS_RATE = "kiss_rate"  # it is asked too often
    KISS_DENY = "kiss_deny"
    KISS_RSTR = "kiss_rstr"
    KISS_OTHER = "kiss_other"


_KISSES: Final = {b"RATE": Rejection.KISS_RATE, b"DENY": Rejection.KISS_DENY, b"RSTR": Rejection.KISS_RSTR}


@dataclass(frozen=True, slots=True)
class Reply:
    """What an NTP packet says (RFC 5905 §7.3), in integers.

    Attributes:
        leap: 0 to 3; 3 = the server's clock is not synchronised.
        version: 0 to 7.
        mode: 0 to 7; 4 = server.
        stratum: 0 to 255; 0 = Kiss-o'-Death.
        precision: log2 of seconds.
        root_delay_ns: the server's round trip to its source.
        root_dispersion_ns: the server's own bound of its error.
        reference: identifies the server's source; with stratum 0 it is the kiss code.
        cookie: what we sent as transmit timestamp.
        t2: when the server received our request; ``None`` = it does not say.
        t3: when it sent this; ``None`` = it does not say.
    """

    leap: int
    version: int
    mode: int
    stratum: int
    precision: int
    root_delay_ns: int
    root_dispersion_ns: int
    reference: bytes
    cookie: bytes
    t2: UtcNs | None
    t3: UtcNs | None

    @property
    def precision_ns(self) -> int:
        """The resolution of the server's clock."""
        exponent = self.precision
        return NANOSECONDS_PER_SECOND << exponent if exponent >= 0 else NANOSECONDS_PER_SECOND >> -exponent


def judge(reply: Reply, *, cookie: bytes, source: str, t1: RawNs, t4: RawNs) -> Sample | Rejection:
    """Return what a reply says of the time, or why nothing can be made of it.

    Args:
        reply: what arrived.
        cookie: what the request had as transmit timestamp.
        source: the server.
        t1: when the request was sent.
        t4: when the reply was received.

    Returns:
        ``Rejection.STRAY`` is the only one after which it makes sense to wait on for the reply.
    """
    if fault := _fault(reply, cookie):
        return fault
    if reply.t2 is None or reply.t3 is None:
        return Rejection.NO_TIME
    hold = reply.t3 - reply.t2
    delay = t4 - t1 - hold
    root = reply.root_delay_ns // 2 + reply.root_dispersion_ns + reply.precision_ns
    sample = Sample(source, RawNs((t1 + t4) // 2), UtcNs((reply.t2 + reply.t3) // 2), max(delay, 0), root)
    if not 0 <= hold <= LONGEST_HOLD:
        return Rejection.SLOW_SERVER
    if sample.utc < BUILD_EPOCH:
        return Rejection.BEFORE_BUILD
    if delay < -reply.precision_ns:
        return Rejection.NEGATIVE_DELAY
    return sample if sample.max_error_ns <= MAX_DISTANCE else Rejection.TOO_FAR


def _fault(reply: Reply, cookie: bytes) -> Rejection | None:
    """Return what is wrong with all but the times."""
    if reply.cookie != cookie:
        return Rejection.STRAY
    if reply.mode != SERVER_MODE:
        return Rejection.NOT_A_SERVER
    if reply.version not in VERSIONS:
        return Rejection.WRONG_VERSION
    if reply.stratum == KISS_OF_DEATH:
        return _KISSES.get(reply.reference, Rejection.KISS_OTHER)
    is_synchronised = reply.leap != NOT_SYNCHRONISED and reply.stratum <= LAST_STRATUM
    return None if is_synchronised else Rejection.UNSYNCHRONISED
