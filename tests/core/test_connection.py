"""Whom to connect to, how, and when."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.config_types import BrokerUrl
from edge_agent.core.connection import (
    Attempt,
    ClosedBy,
    Closing,
    ConnectionPolicy,
    ProtocolVersion,
    Suspect,
)
from edge_agent.core.timebase import MonotonicNs, later, seconds, to_seconds
from edge_agent.errors import ConnectFailedError, ConnectFailure

A, B = BrokerUrl("mqtt", "a.example", 1883), BrokerUrl("mqtt", "b.example", 1883)
NOTHING: frozenset[Suspect] = frozenset()
PEER = Closing(ClosedBy.PEER)
NETWORK = Closing(ClosedBy.NETWORK)
REFUSED = ConnectFailedError(ConnectFailure.UNREACHABLE, "refused")
CLOSED = ConnectFailedError(ConnectFailure.CLOSED, "closed")


def policy_of(
    *brokers: BrokerUrl, protocol: ProtocolVersion | None = None, uniform: Callable[[], float] = lambda: 0.999_999
) -> ConnectionPolicy:
    """Return a policy whose waits are as long as they can be."""
    return ConnectionPolicy(brokers or (A,), protocol=protocol, reconnect_max=seconds(60), uniform=uniform)


class Life:
    """Drives a policy through time, as the link does."""

    def __init__(self, policy: ConnectionPolicy) -> None:
        self.policy = policy
        self.now = MonotonicNs(seconds(5000))
        self.waits: list[float] = []

    def attempt(self) -> Attempt:
        """Take the next attempt and wait as it says."""
        attempt = self.policy.next_attempt(self.now)
        self.waits.append(to_seconds(attempt.wait))
        self.now = later(self.now, attempt.wait)
        return attempt

    def fail(self, error: ConnectFailedError = REFUSED) -> Attempt:
        """Make an attempt that fails."""
        attempt = self.attempt()
        self.policy.failed(error, self.now)
        return attempt

    def live(self, life_s: float, closing: Closing = PEER, suspects: frozenset[Suspect] = NOTHING) -> Attempt:
        """Make an attempt that succeeds, and lose the connection after a while."""
        attempt = self.attempt()
        self.policy.connected(self.now, will_retained=attempt.will_retained)
        self.now = later(self.now, seconds(life_s))
        self.policy.closed(closing, suspects, self.now)
        return attempt


def test_the_first_attempt_is_at_once_with_mqtt_5() -> None:
    """Nothing is known, so nothing is waited for."""
    assert policy_of().next_attempt(MonotonicNs(0)) == Attempt(A, 5, will_retained=True, wait=seconds(0))


def test_waits_stay_under_4_s_for_2_minutes_then_grow_to_the_maximum() -> None:
    """Broker restarts are short, so early tries are close together; a long outage must not cost battery."""
    life = Life(policy_of())
    life.live(100)
    lost = life.now
    while life.now < later(lost, seconds(120)):
        life.fail()
    assert max(life.waits) <= 4
    for _ in range(10):
        life.fail()
    assert 4 < max(life.waits) <= 60


def test_the_waits_are_full_jitter() -> None:
    """A draw of nothing is no wait at all."""
    life = Life(policy_of(uniform=lambda: 0.0))
    life.live(100)
    for _ in range(5):
        life.fail()
    assert set(life.waits) == {0}


def test_30_s_of_life_end_an_outage() -> None:
    """After that, waits start over."""
    life = Life(policy_of())
    life.live(100)
    for _ in range(60):
        life.fail()
    life.live(30)
    life.waits.clear()
    life.fail()
    assert life.waits[0] <= 1


def test_less_than_30_s_of_life_do_not_end_an_outage() -> None:
    """A broker that accepts and drops at once is not tried for ever at the pace of a fresh outage."""
    life = Life(policy_of())
    life.live(100)
    for _ in range(60):
        life.live(1, NETWORK)
    assert max(life.waits) > 4


def test_a_failure_moves_on_to_the_next_broker_and_a_loss_back_to_the_first() -> None:
    """In order of preference."""
    life = Life(policy_of(A, B))
    assert life.fail().broker == A
    assert life.live(100).broker == B
    assert life.attempt().broker == A


def test_a_broker_that_does_not_hold_is_passed_over() -> None:
    """One that accepts and drops within 30 s counts as a failure."""
    life = Life(policy_of(A, B))
    assert life.live(6).broker == A
    assert life.live(6).broker == B


@pytest.mark.parametrize("failure", [ConnectFailure.OLD_PROTOCOL])
def test_a_broker_without_mqtt_5_is_spoken_to_in_3_1_1_until_restart(failure: ConnectFailure) -> None:
    """It is remembered per broker, and never tried again with 5."""
    life = Life(policy_of(A, B))
    life.fail(ConnectFailedError(failure, "no"))
    assert life.live(100).protocol == 5
    for _ in range(3):
        attempt = life.live(100)
        assert (attempt.broker, attempt.protocol) == (A, 4)


def test_two_closes_without_a_connack_lead_to_3_1_1() -> None:
    """Some old brokers say nothing at all."""
    life = Life(policy_of())
    assert [life.fail(CLOSED).protocol for _ in range(3)] == [5, 5, 4]


def test_a_configured_protocol_is_never_left() -> None:
    """``protocol = 5`` means 5."""
    life = Life(policy_of(protocol=5))
    life.fail(ConnectFailedError(ConnectFailure.OLD_PROTOCOL, "no"))
    assert [life.fail(CLOSED).protocol for _ in range(4)] == [5] * 4


def test_a_refused_retained_will_is_left_out() -> None:
    """CONNACK 0x9A says so; AWS IoT Core just closes, which every other two tries find out."""
    life = Life(policy_of())
    life.fail(ConnectFailedError(ConnectFailure.REFUSED, "retain", reason=0x9A))
    assert not life.attempt().will_retained
    silent = Life(policy_of())
    tries = [silent.fail(CLOSED) for _ in range(6)]
    assert [attempt.will_retained for attempt in tries] == [True] * 4 + [False] * 2


def test_what_worked_without_a_retained_will_stays_so_for_an_hour() -> None:
    """Else each reconnect would begin with the same refusals."""
    life = Life(policy_of())
    for _ in range(4):
        life.fail(CLOSED)
    assert not life.live(100).will_retained
    assert not life.live(100).will_retained
    assert life.policy.reasons(life.now) == ["retained_refused: messages"]
    life.now = later(life.now, seconds(3600))
    assert life.attempt().will_retained


def filters(*names: str) -> frozenset[Suspect]:
    """Return the suspects of a SUBSCRIBE."""
    return frozenset(Suspect("filter", name) for name in names)


def test_a_filter_that_closes_the_connection_is_found_and_left_out_for_an_hour() -> None:
    """After a close on a SUBSCRIBE of many, they go one by one; the one that closes again is left out."""
    life = Life(policy_of())
    wanted = ("a/#", "b/#", "c/#")
    assert life.policy.batches(wanted, life.now) == [wanted]
    life.live(0.1, PEER, filters(*wanted))
    assert life.policy.batches(wanted, life.now) == [("a/#",), ("b/#",), ("c/#",)]
    life.live(0.1, PEER, filters("b/#"))
    assert life.policy.batches(wanted, life.now) == [("a/#",), ("c/#",)]
    assert life.policy.reasons(life.now) == ["filter_refused: b/#"]
    review = life.policy.next_review(life.now)
    assert review == later(life.now, seconds(3600))
    assert life.policy.batches(wanted, later(life.now, seconds(3600))) == [("a/#",), ("b/#",), ("c/#",)]


def test_at_most_eight_filters_go_in_one_packet() -> None:
    """AWS IoT Core closes on more."""
    policy = policy_of()
    batches = policy.batches([f"f{n}" for n in range(20)], MonotonicNs(0))
    assert [len(batch) for batch in batches] == [8, 8, 4]


def test_a_retained_publish_that_closes_the_connection_twice_goes_unretained() -> None:
    """Once may be chance: brokers restart."""
    life = Life(policy_of())
    suspects = frozenset({Suspect("retained", "t")})
    life.live(1, PEER, suspects)
    assert life.policy.may_retain(life.now)
    life.live(1, PEER, suspects)
    assert not life.policy.may_retain(life.now)
    assert not life.attempt().will_retained
    assert life.policy.may_publish("t", life.now)
    assert not life.policy.taken_over(life.now)


def test_a_topic_that_closes_the_connection_twice_is_left_out_for_an_hour() -> None:
    """The rest goes on."""
    life = Life(policy_of())
    suspects = frozenset({Suspect("topic", "t")})
    life.live(1, PEER, suspects)
    life.live(1, PEER, suspects)
    assert not life.policy.may_publish("t", life.now)
    assert life.policy.may_publish("u", life.now)
    assert life.policy.may_publish("t", later(life.now, seconds(3600)))


def test_a_broker_that_retains_has_something_against_the_topic() -> None:
    """Where another retained message was accepted, two closes after one speak of its topic."""
    life = Life(policy_of())
    suspects = frozenset({Suspect("retained", "health")})
    for _ in range(2):
        life.policy.accepted(Suspect("retained", "status"))
        life.live(1, PEER, suspects)
    assert life.policy.may_retain(life.now)
    assert not life.policy.may_publish("health", life.now)


def test_an_acceptance_in_between_clears_the_suspicion() -> None:
    """Two closes by chance, weeks apart, must not silence a topic."""
    life = Life(policy_of())
    suspect = Suspect("topic", "t")
    life.live(1, PEER, frozenset({suspect}))
    life.policy.accepted(suspect)
    life.live(1, PEER, frozenset({suspect}))
    assert life.policy.may_publish("t", life.now)


@pytest.mark.parametrize("closing", [NETWORK, Closing(ClosedBy.SILENCE), Closing(ClosedBy.US)])
def test_only_the_peer_s_close_is_held_against_what_was_outstanding(closing: Closing) -> None:
    """A lost network says nothing about filters or topics."""
    life = Life(policy_of())
    for _ in range(3):
        life.live(1, closing, filters("a/#"))
    assert life.policy.batches(("a/#",), life.now) == [("a/#",)]


def test_a_client_id_taken_over_slows_the_tries_to_a_minute() -> None:
    """0x8E says it plainly; it is an alarm until a connection has lived for 5 minutes."""
    life = Life(policy_of())
    life.live(100, Closing(ClosedBy.PEER, 0x8E))
    assert life.policy.taken_over(life.now)
    assert life.policy.reasons(life.now) == ["client_id_taken_over"]
    life.live(299)
    assert life.waits[-1] >= 60
    life.live(301)
    assert life.waits[-1] >= 60
    assert not life.policy.taken_over(life.now)
    life.live(100)
    assert life.waits[-1] <= 1


def test_the_alarm_ends_while_the_connection_lives() -> None:
    """The review comes 5 minutes after the CONNACK."""
    life = Life(policy_of())
    life.live(100, Closing(ClosedBy.PEER, 0x8E))
    attempt = life.attempt()
    life.policy.connected(life.now, will_retained=attempt.will_retained)
    review = life.policy.next_review(life.now)
    assert review == later(life.now, seconds(300))
    assert life.policy.reasons(review) == []
    assert life.policy.next_review(review) is None


def test_three_quick_closes_mean_a_takeover_on_any_protocol() -> None:
    """MQTT 3.1.1 has no reason codes, so it is inferred."""
    life = Life(policy_of(protocol=4))
    life.live(4)
    life.live(4)
    assert not life.policy.taken_over(life.now)
    life.live(4)
    assert life.policy.taken_over(life.now)


def test_quick_closes_with_a_longer_life_between_are_no_takeover() -> None:
    """They must be in a row."""
    life = Life(policy_of())
    for life_s in (4, 4, 20, 4, 4):
        life.live(life_s)
    assert not life.policy.taken_over(life.now)


@given(st.data())
def test_whatever_happens_the_tries_never_stop_and_never_storm(data: st.DataObject) -> None:
    """Any history: the next wait is at most maximum + takeover, and a broker and a protocol are always named."""
    life = Life(policy_of(A, B, uniform=lambda: 0.5))
    suspects = st.sampled_from([NOTHING, filters("a/#"), filters("a/#", "b/#"), frozenset({Suspect("topic", "t")})])
    for _ in range(data.draw(st.integers(1, 40))):
        if data.draw(st.booleans()):
            failure = data.draw(st.sampled_from(ConnectFailure))
            life.fail(ConnectFailedError(failure, "x", reason=data.draw(st.none() | st.integers(1, 255))))
        else:
            by = data.draw(st.sampled_from(ClosedBy))
            closing = Closing(by, data.draw(st.none() | st.just(0x8E)) if by is ClosedBy.PEER else None)
            life.live(data.draw(st.floats(0, 1000)), closing, data.draw(suspects))
        assert 0 <= life.policy.next_attempt(life.now).wait <= seconds(120)
        assert len(life.policy.reasons(life.now)) <= 10


def test_a_broker_that_restarts_again_and_again_is_waited_for_only_shortly() -> None:
    """Each connection of 5 s or more ends the outage: 10 min of restarts later the cap is still 4 s."""
    policy = ConnectionPolicy(
        (BrokerUrl("mqtt", "a", 1883),), protocol=None, reconnect_max=seconds(60), uniform=lambda: 0.999
    )
    now = MonotonicNs(0)
    for _ in range(60):
        attempt = policy.next_attempt(now)
        assert attempt.wait < seconds(4)
        policy.connected(now, will_retained=True)
        now = later(now, seconds(10))
        policy.closed(Closing(ClosedBy.PEER), frozenset(), now)
    assert not policy.taken_over(now)


def test_a_broker_that_was_away_between_quick_closes_is_no_takeover() -> None:
    """Nobody listened: so it was the broker that went, and not another client that came."""
    policy = ConnectionPolicy(
        (BrokerUrl("mqtt", "a", 1883),), protocol=None, reconnect_max=seconds(60), uniform=lambda: 0
    )
    now = MonotonicNs(0)
    for _ in range(6):
        policy.connected(now, will_retained=True)
        now = later(now, seconds(1))
        policy.closed(Closing(ClosedBy.PEER), frozenset(), now)
        policy.failed(ConnectFailedError(ConnectFailure.UNREACHABLE, "refused"), now)
    assert not policy.taken_over(now)
