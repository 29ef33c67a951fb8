"""Which answers are taken for the time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.ntp import MAX_DISTANCE, Rejection, Reply, judge
from edge_agent.core.sample import Sample
from edge_agent.core.timebase import BUILD_EPOCH, RawNs, UtcNs

COOKIE: Final = b"\x01\x02\x03\x04\x05\x06\x07\x08"
MS: Final = 1_000_000
S: Final = 1000 * MS
T1: Final = RawNs(7 * S)
SERVER: Final = UtcNs(BUILD_EPOCH + 86_400 * S)
SOUND: Final = Reply(
    leap=0,
    version=4,
    mode=4,
    stratum=2,
    precision=-20,
    root_delay_ns=4 * MS,
    root_dispersion_ns=MS,
    reference=b"\x0a\x00\x00\x01",
    cookie=COOKIE,
    t2=SERVER,
    t3=UtcNs(SERVER + MS),
)


def judged(reply: Reply, *, round_trip: int = 11 * MS) -> Sample | Rejection:
    """Judge a reply that came after some time."""
    return judge(reply, cookie=COOKIE, source="ntp.example", t1=T1, t4=RawNs(T1 + round_trip))


def test_a_sound_reply_gives_a_sample() -> None:
    """Middle against middle, the delay without the server's hold, and the server's own bound."""
    assert judged(SOUND) == Sample(
        source="ntp.example",
        raw=RawNs(T1 + 5 * MS + MS // 2),
        utc=UtcNs(SERVER + MS // 2),
        delay_ns=10 * MS,
        root_ns=2 * MS + MS + S // 2**20,
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"cookie": bytes(8)}, Rejection.STRAY),
        ({"cookie": COOKIE[:-1] + b"\x09"}, Rejection.STRAY),
        ({"cookie": bytes(8), "stratum": 0, "reference": b"DENY"}, Rejection.STRAY),
        ({"mode": 3}, Rejection.NOT_A_SERVER),
        ({"mode": 5}, Rejection.NOT_A_SERVER),
        ({"version": 2}, Rejection.WRONG_VERSION),
        ({"version": 5}, Rejection.WRONG_VERSION),
        ({"leap": 3}, Rejection.UNSYNCHRONISED),
        ({"stratum": 16}, Rejection.UNSYNCHRONISED),
        ({"stratum": 255}, Rejection.UNSYNCHRONISED),
        ({"t2": None}, Rejection.NO_TIME),
        ({"t3": None}, Rejection.NO_TIME),
        ({"t3": SERVER - 1}, Rejection.SLOW_SERVER),
        ({"t3": SERVER + 4 * S + 1}, Rejection.SLOW_SERVER),
        ({"t2": BUILD_EPOCH - S, "t3": BUILD_EPOCH - S}, Rejection.BEFORE_BUILD),
        ({"t3": SERVER + 12 * MS}, Rejection.NEGATIVE_DELAY),
        ({"root_delay_ns": 3 * S}, Rejection.TOO_FAR),
        ({"root_dispersion_ns": MAX_DISTANCE}, Rejection.TOO_FAR),
        ({"precision": 1}, Rejection.TOO_FAR),
        ({"precision": 127}, Rejection.TOO_FAR),
        ({"stratum": 0, "reference": b"RATE", "leap": 3, "t2": None, "t3": None}, Rejection.KISS_RATE),
        ({"stratum": 0, "reference": b"DENY"}, Rejection.KISS_DENY),
        ({"stratum": 0, "reference": b"RSTR"}, Rejection.KISS_RSTR),
        ({"stratum": 0, "reference": b"INIT"}, Rejection.KISS_OTHER),
        ({"stratum": 0, "reference": bytes(4)}, Rejection.KISS_OTHER),
    ],
)
def test_an_unsound_reply_gives_the_reason_instead(change: dict[str, Any], why: Rejection) -> None:
    """One thing wrong suffices; a kiss counts only with the cookie, or anybody could silence a server."""
    assert judged(replace(SOUND, **change)) is why


def test_an_answer_after_more_than_three_seconds_is_too_far() -> None:
    """Half the delay counts as error."""
    assert isinstance(judged(SOUND, round_trip=2 * S), Sample)
    assert judged(SOUND, round_trip=3 * S + MS) is Rejection.TOO_FAR


def test_a_delay_below_zero_by_no_more_than_the_servers_resolution_is_taken_for_zero() -> None:
    """A server that counts milliseconds may say that it held the request for longer than the whole exchange took."""
    sample = judged(replace(SOUND, precision=-10), round_trip=MS // 2)
    assert isinstance(sample, Sample)
    assert sample.delay_ns == 0


def test_the_words_are_all_different() -> None:
    """They are what logs, reports and tests go by."""
    assert len({why.value for why in Rejection}) == len(Rejection)


@given(
    bits=st.tuples(*[st.integers(0, 7)] * 3, st.integers(0, 255), st.integers(-128, 127)),
    roots=st.tuples(st.integers(0, 2**16 * S), st.integers(0, 2**16 * S)),
    times=st.tuples(*[st.none() | st.integers(SERVER - 5 * S, SERVER + 5 * S).map(UtcNs)] * 2),
    round_trip=st.integers(0, 10 * S),
)
def test_what_is_taken_is_within_its_bounds_whatever_the_reply(
    bits: tuple[int, int, int, int, int],
    roots: tuple[int, int],
    times: tuple[UtcNs | None, UtcNs | None],
    round_trip: int,
) -> None:
    """Nothing makes it fail, and a sample has a delay and an error that make sense."""
    leap, version, mode, stratum, precision = bits
    reply = Reply(leap % 4, version, mode, stratum, precision, *roots, b"RATE", COOKIE, *times)
    sample = judged(reply, round_trip=round_trip)
    if isinstance(sample, Sample):
        assert 0 <= sample.delay_ns <= round_trip
        assert sample.delay_ns // 2 <= sample.max_error_ns <= MAX_DISTANCE
        assert T1 <= sample.raw <= T1 + round_trip
    else:
        assert sample is not Rejection.STRAY
