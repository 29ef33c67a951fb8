"""When a silent connection is probed and given up."""

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.silence import ANSWER_WITHIN, SilenceWatch
from edge_agent.core.timebase import MonotonicNs, later, seconds

KEEPALIVE = seconds(60)
START = MonotonicNs(seconds(1000))


def at(second: float) -> MonotonicNs:
    """Return an instant so many seconds after the start."""
    return later(START, seconds(second))


def test_an_idle_connection_is_probed_after_the_keepalive() -> None:
    """Not before 60 s without anything sent, and at 60 s."""
    watch = SilenceWatch(KEEPALIVE, START, START)
    assert watch.next_due() == (at(60), False)


def test_an_unanswered_probe_ends_it_after_20_s() -> None:
    """A dead idle link is thus noticed within keepalive + 20 s."""
    watch = SilenceWatch(KEEPALIVE, at(60), START, ping_sent=at(60))
    assert watch.next_due() == (at(80), True)


def test_acknowledgements_that_do_not_come_end_it_after_20_s() -> None:
    """A link that dies with a publish in flight is noticed without waiting for the keepalive."""
    watch = SilenceWatch(KEEPALIVE, at(1), START, owed_since=at(1))
    assert watch.next_due() == (at(21), True)


def test_each_acknowledgement_gives_the_rest_new_time() -> None:
    """A slow broker is not a dead one: the time counts from the last answer."""
    watch = SilenceWatch(KEEPALIVE, at(1), START, owed_since=at(1))
    watch.owed_since = at(15)
    assert watch.next_due() == (at(35), True)


def test_a_broker_that_takes_all_and_says_nothing_is_probed_too() -> None:
    """Without QoS 1 nothing is owed: what goes out says nothing about what comes in."""
    watch = SilenceWatch(KEEPALIVE, last_out=at(59), last_in=START)
    assert watch.next_due() == (at(60), False)


def test_one_probe_at_a_time() -> None:
    """While a probe is out no second one is due, however short the keepalive."""
    watch = SilenceWatch(seconds(5), START, START, ping_sent=at(5))
    assert watch.next_due() == (at(25), True)


optional_second = st.none() | st.floats(0, 100).map(at)
second = st.floats(0, 100).map(at)


@given(last_out=second, last_in=second, ping=optional_second, owed=optional_second)
def test_what_is_due_first_is_named(
    last_out: MonotonicNs, last_in: MonotonicNs, ping: MonotonicNs | None, owed: MonotonicNs | None
) -> None:
    """Whatever is the case, there is one thing to do next, and none of the others is due before it."""
    watch = SilenceWatch(KEEPALIVE, last_out, last_in, ping_sent=ping, owed_since=owed)
    due, gives_up = watch.next_due()
    given_up = [later(since, ANSWER_WITHIN) for since in (ping, owed) if since is not None]
    if gives_up:
        assert due == min(given_up)
    else:
        assert ping is None
        assert due == later(min(last_out, last_in), KEEPALIVE) <= min(given_up, default=due)


def test_the_patience_is_what_the_readme_promises() -> None:
    """20 s, so that a dead link is noticed within 25 s."""
    assert seconds(20) == ANSWER_WITHIN
