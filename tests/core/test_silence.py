"""When a silent connection is probed and given up."""

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.silence import ANSWER_WITHIN, Do, SilenceWatch
from edge_agent.core.timebase import MonotonicNs, later, seconds

KEEPALIVE = seconds(60)
START = MonotonicNs(seconds(1000))


def at(second: float) -> MonotonicNs:
    """Return an instant so many seconds after the start."""
    return later(START, seconds(second))


def test_an_idle_connection_is_probed_after_the_keepalive() -> None:
    """Not before 60 s without anything sent, and at 60 s."""
    watch = SilenceWatch(KEEPALIVE, last_out=START)
    assert watch.decide(at(59.9)) is Do.NOTHING
    assert watch.decide(at(60)) is Do.PING
    assert watch.next_look() == at(60)


def test_an_unanswered_probe_ends_it_after_20_s() -> None:
    """A dead idle link is thus noticed within keepalive + 20 s."""
    watch = SilenceWatch(KEEPALIVE, last_out=at(60), ping_sent=at(60))
    assert watch.decide(at(79.9)) is Do.NOTHING
    assert watch.decide(at(80)) is Do.GIVE_UP
    assert watch.next_look() == at(80)


def test_acknowledgements_that_do_not_come_end_it_after_20_s() -> None:
    """A link that dies with a publish in flight is noticed without waiting for the keepalive."""
    watch = SilenceWatch(KEEPALIVE, last_out=at(1), owed_since=at(1))
    assert watch.decide(at(20.9)) is Do.NOTHING
    assert watch.decide(at(21)) is Do.GIVE_UP


def test_each_acknowledgement_gives_the_rest_new_time() -> None:
    """A slow broker is not a dead one: the time counts from the last answer."""
    watch = SilenceWatch(KEEPALIVE, last_out=at(1), owed_since=at(1))
    watch.owed_since = at(15)
    assert watch.decide(at(30)) is Do.NOTHING
    assert watch.decide(at(35)) is Do.GIVE_UP


def test_a_broker_that_takes_all_and_says_nothing_is_probed_too() -> None:
    """Without QoS 1 nothing is owed: what goes out says nothing about what comes in."""
    watch = SilenceWatch(KEEPALIVE, last_out=at(59), last_in=START)
    assert watch.decide(at(60)) is Do.PING


def test_one_probe_at_a_time() -> None:
    """While a probe is out no second one is due, however short the keepalive."""
    watch = SilenceWatch(seconds(5), last_out=START, ping_sent=at(5))
    assert watch.decide(at(12)) is Do.NOTHING


optional_second = st.none() | st.floats(0, 100).map(at)


@given(last_out=st.floats(0, 100).map(at), ping=optional_second, owed=optional_second, early=st.integers(1, 10**12))
def test_nothing_is_due_before_the_next_look_and_something_is_then(
    last_out: MonotonicNs, ping: MonotonicNs | None, owed: MonotonicNs | None, early: int
) -> None:
    """``next_look`` names the first instant at which there is something to do, so no wake-up is in vain."""
    watch = SilenceWatch(KEEPALIVE, last_out=last_out, ping_sent=ping, owed_since=owed)
    look = watch.next_look()
    assert watch.decide(look) is not Do.NOTHING
    assert watch.decide(MonotonicNs(look - early)) is Do.NOTHING


def test_the_patience_is_what_the_readme_promises() -> None:
    """20 s, so that a dead link is noticed within 25 s."""
    assert seconds(20) == ANSWER_WITHIN
