"""When a server is asked."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.ntp import Rejection
from edge_agent.core.polling import (
    BACKOFF_MAX,
    BURST,
    DENIED_FOR,
    FAR_MIN,
    NEAR_MIN,
    SPACING,
    Poll,
    host_and_port,
    is_near,
)
from edge_agent.core.sample import Sample
from edge_agent.core.timebase import MonotonicNs, RawNs, UtcNs, later, seconds

SAMPLE: Final = Sample("a", RawNs(0), UtcNs(0), delay_ns=0, root_ns=0)
START: Final = MonotonicNs(10**12)
Answer = Sample | Rejection


def plan(draw: float = 0.5, *, shortest: float = 64, longest: float = 1024, place: tuple[int, int] = (0, 1)) -> Poll:
    """Return a plan; with a draw of a half there is no jitter."""
    return Poll(START, poll_min=seconds(shortest), poll_max=seconds(longest), uniform=lambda: draw, place=place)


def asked(poll: Poll, answer: Answer, times: int = 1, *, near: bool = False, settled: bool = True) -> list[float]:
    """Ask as planned, with that answer each time; return the waits that follow, in seconds."""
    waits = []
    for _ in range(times):
        now = poll.due
        poll.heard(answer, now, near=near, settled=settled)
        waits.append((poll.due - now) / 1e9)
    return waits


def settle(poll: Poll) -> None:
    """Get beyond the first burst."""
    asked(poll, SAMPLE, BURST, settled=False)


def test_it_begins_with_eight_requests_two_seconds_apart() -> None:
    """Then it goes on with the shortest interval."""
    poll = plan()
    assert poll.due - START <= SPACING
    waits = asked(poll, SAMPLE, BURST + 1, settled=False)
    assert waits[:7] == [2.0] * 7
    assert 64 <= waits[7] < 128  # by its turn
    assert waits[8] == 64.0


def test_it_asks_less_and_less_often_while_time_is_well_known() -> None:
    """It doubles up to the longest interval, and does not while it is not."""
    poll = plan()
    settle(poll)
    assert asked(poll, SAMPLE, 3, settled=False) == [64.0] * 3
    assert asked(poll, SAMPLE, 6) == [128.0, 256.0, 512.0, 1024.0, 1024.0, 1024.0]
    assert poll.interval == seconds(1024)


def test_in_a_hurry_it_asks_twice_as_often() -> None:
    """The present wait is cut short, too."""
    poll = plan()
    settle(poll)
    asked(poll, SAMPLE, 5)
    now = later(poll.due, seconds(-1000.0))
    poll.hurry(now)
    assert poll.due == later(now, seconds(512))
    assert poll.interval == seconds(512)


def test_a_hurry_never_goes_below_the_shortest_interval() -> None:
    """However often it is called."""
    poll = plan()
    settle(poll)
    for _ in range(10):
        poll.hurry(poll.due)
    assert poll.interval == seconds(64)


@pytest.mark.parametrize(
    ("shortest", "near", "expected"), [(16, False, 64), (16, True, 16), (64, True, 64), (100, False, 100)]
)
def test_only_a_server_in_ones_own_network_is_asked_more_often_than_every_64_s(
    shortest: float, *, near: bool, expected: float
) -> None:
    """And never more often than the configuration says."""
    poll = plan(shortest=shortest)
    asked(poll, SAMPLE, BURST, near=near, settled=False)
    assert asked(poll, SAMPLE, near=near, settled=False) == [expected]


@pytest.mark.parametrize("draw", [0.0, 0.3, 0.999])
def test_waits_vary_by_a_tenth_but_not_below_the_shortest(draw: float) -> None:
    """Devices that were switched on together do not stay together."""
    poll = plan(draw)
    settle(poll)
    (at_the_limit,) = asked(poll, SAMPLE, settled=False)
    assert 64 <= at_the_limit <= 64 * 1.1
    asked(poll, SAMPLE, 4)
    (longest,) = asked(poll, SAMPLE)
    assert longest == pytest.approx(1024 * (0.9 + 0.2 * draw))


def test_several_servers_are_asked_in_turn() -> None:
    """In the burst as well as after it, four servers are not asked at once."""
    polls = [plan(place=(number, 4)) for number in range(4)]
    assert [(poll.due - START) / 1e9 for poll in polls] == [0.25, 0.75, 1.25, 1.75]
    for poll in polls:
        settle(poll)
    gaps = [(after.due - before.due) / 1e9 for before, after in pairwise(polls)]
    assert all(gap >= 16 for gap in gaps)


def test_without_an_answer_it_backs_off() -> None:
    """After the first burst and eight requests that nobody answered, exponentially up to 1024 s."""
    poll = plan()
    waits = asked(poll, Rejection.NO_ANSWER, 16)
    assert waits[:7] == [2.0] * 7
    assert waits[8:] == [128.0, 256.0, 512.0, 1024.0, 1024.0, 1024.0, 1024.0, 1024.0]


def test_after_years_offline_it_still_asks_every_1024_s() -> None:
    """The exponent is bounded."""
    assert asked(plan(), Rejection.UNRESOLVED, 30_000)[-1] == BACKOFF_MAX / 1e9


def test_a_lost_answer_is_asked_for_again_soon() -> None:
    """At the shortest interval; the long one comes back with the next answer."""
    poll = plan()
    settle(poll)
    asked(poll, SAMPLE, 5)
    assert asked(poll, Rejection.NO_ANSWER) == [64.0]
    assert asked(poll, SAMPLE) == [1024.0]


def test_a_server_that_is_back_after_a_long_silence_is_asked_as_at_the_start() -> None:
    """As the agent cannot always know that the network came up."""
    poll = plan()
    asked(poll, Rejection.NO_ANSWER, 12)
    assert asked(poll, SAMPLE, BURST)[: BURST - 1] == [2.0] * (BURST - 1)


def test_when_the_network_comes_up_eight_requests_follow_at_once() -> None:
    """Even right after the burst of the start, which nobody could answer."""
    poll = plan()
    asked(poll, Rejection.UNRESOLVED, 12)
    now = later(poll.due, seconds(-500.0))
    poll.burst(now)
    assert 0 <= poll.due - now <= SPACING
    assert asked(poll, SAMPLE, BURST, settled=False)[: BURST - 1] == [2.0] * (BURST - 1)


def test_who_wants_a_burst_all_the_time_gets_one_request_every_16_s() -> None:
    """Two bursts, then what the credit allows: neither a flapping network nor a bug may burden a server."""
    poll = plan()
    waits = []
    for _ in range(60):
        now = poll.due
        poll.heard(SAMPLE, now, near=False, settled=False)
        poll.burst(later(now, seconds(0.1)))
        waits.append((poll.due - now) / 1e9)
    assert waits[:7] == [2.0] * 7
    assert waits[30:] == [16.0] * 30


def test_a_kiss_of_rate_ends_the_burst_and_doubles_the_interval() -> None:
    """It is at least 64 s from then on, also near by, and never shorter again."""
    poll = plan(shortest=16)
    assert asked(poll, Rejection.KISS_RATE, near=True) == [64.0]
    assert asked(poll, Rejection.KISS_RATE, near=True) == [128.0]
    assert asked(poll, SAMPLE, 2, near=True, settled=False) == [128.0, 128.0]
    poll.burst(poll.due)
    assert poll.interval == seconds(128)


def test_kisses_of_rate_without_end_lead_to_the_longest_interval() -> None:
    """Which is polite enough for any server."""
    assert asked(plan(), Rejection.KISS_RATE, 20)[-1] == 1024.0


@pytest.mark.parametrize("kiss", [Rejection.KISS_DENY, Rejection.KISS_RSTR])
@pytest.mark.parametrize("draw", [0.0, 0.9])
def test_a_server_that_denies_is_left_alone_for_a_day(kiss: Rejection, draw: float) -> None:
    """Whatever happens meanwhile."""
    poll = plan(draw)
    now = poll.due
    poll.heard(kiss, now, near=True, settled=False)
    poll.burst(later(now, seconds(10)))
    poll.hurry(later(now, seconds(20)))
    assert poll.due >= now + DENIED_FOR


def test_after_a_kiss_of_rate_no_burst_comes_before_its_time() -> None:
    """The wait that the server was promised is kept."""
    poll = plan()
    now = poll.due
    asked(poll, Rejection.KISS_RATE)
    poll.burst(later(now, seconds(1)))
    assert poll.due >= now + seconds(128)


def test_a_server_that_has_said_rate_gets_no_burst_any_more() -> None:
    """A network that comes up is no reason to ask it seven times more often than it wants."""
    poll = plan()
    asked(poll, Rejection.KISS_RATE)
    poll.burst(poll.due)
    assert asked(poll, SAMPLE, 3, settled=False) == [128.0] * 3
    asked(poll, Rejection.NO_ANSWER, 20)
    assert asked(poll, SAMPLE, 2, settled=False) == [128.0] * 2


steps = st.one_of(
    st.sampled_from([SAMPLE, *Rejection]).map(lambda answer: ("heard", answer)),
    st.sampled_from([("burst", None), ("hurry", None)]),
)


@given(
    story=st.lists(st.tuples(steps, st.floats(0, 1)), max_size=80),
    draws=st.floats(0, 1, exclude_max=True),
    settled=st.booleans(),
    near=st.booleans(),
)
def test_whatever_happens_a_server_is_neither_burdened_nor_forgotten(
    *, story: list[tuple[tuple[str, Any], float]], draws: float, settled: bool, near: bool
) -> None:
    """Never two requests within 2 s, never 20 within its shortest interval, and always one within two days."""
    poll = plan(draws, shortest=16)
    requests: list[int] = []
    now = START
    for (what, answer), share in story:
        if what == "heard":
            now = max(now, poll.due)
            requests.append(now)
            poll.heard(answer, now, near=near, settled=settled)
        else:
            now = MonotonicNs(now + int(max(poll.due - now, 0) * share))
            getattr(poll, what)(now)
        assert now - SPACING <= poll.due <= now + seconds(90_000) * 2
    assert all(after - before >= SPACING for before, after in pairwise(requests))
    floor = NEAR_MIN if near else FAR_MIN
    for index in range(len(requests) - 20):
        assert requests[index + 20] - requests[index] >= floor


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("ntp.example", ("ntp.example", 123)),
        ("ntp.example:1123", ("ntp.example", 1123)),
        ("192.0.2.1:5", ("192.0.2.1", 5)),
        ("[2001:db8::1]", ("2001:db8::1", 123)),
        ("[2001:db8::1]:1123", ("2001:db8::1", 1123)),
        ("fe80::1%eth0", ("fe80::1%eth0", 123)),
    ],
)
def test_a_server_is_a_host_and_perhaps_a_port(server: str, expected: tuple[str, int]) -> None:
    """In every form that the configuration and the host have."""
    assert host_and_port(server) == expected


@pytest.mark.parametrize(
    ("address", "near"),
    [
        ("127.0.0.1", True),
        ("10.1.2.3", True),
        ("192.168.1.1", True),
        ("172.31.0.1", True),
        ("169.254.3.4", True),
        ("::1", True),
        ("fe80::1%eth0", True),
        ("fd00::1", True),
        ("8.8.8.8", False),
        ("100.64.0.1", False),
        ("2606:4700::1", False),
        ("ntp.example", False),
        (None, False),
    ],
)
def test_near_is_what_has_an_address_of_ones_own_network(*, address: str | None, near: bool) -> None:
    """A name that is not resolved yet counts as far."""
    assert is_near(address) is near
