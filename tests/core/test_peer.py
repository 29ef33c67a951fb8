"""Tests of ``core/peer.py``."""

from __future__ import annotations

import random

import pytest

from edge_agent.core.peer import DELAYS, GATE_AFTER, HOUR_NS, RECENT, Peer
from edge_agent.core.sample import Sample
from edge_agent.core.timebase import RawNs, UtcNs


def sample(raw: int, delay_ms: float, root_ns: int = 0) -> Sample:
    """Return one at a reading of the counter."""
    return Sample("a", RawNs(raw), UtcNs(10**18 + raw), round(delay_ms * 1e6), root_ns)


def seasoned(delay_ms: float = 20, jitter_ms: float = 5, count: int = 100) -> Peer:
    """Return one with many samples a minute apart."""
    peer, rng = Peer("a"), random.Random(1)  # noqa: S311  # reproducible
    for number in range(count):
        peer.add(sample(number * 64 * 10**9, delay_ms + rng.expovariate(1 / jitter_ms)))
    return peer


def test_it_remembers_whether_it_answered_the_last_eight_times() -> None:
    """The newest in the lowest bit; when it never did, its samples no longer count."""
    peer = Peer("a")
    for answers in (True, False, True):
        if answers:
            peer.add(sample(1, 5))
        else:
            peer.missed("no_answer")
    assert (peer.reach, peer.asked, peer.is_voting) == (0b101, 3, True)
    for _ in range(8):
        peer.missed("refused")
    assert (peer.reach, list(peer.recent), peer.is_voting, peer.standing) == (0, [], False, "refused")


def test_who_was_hardly_asked_yet_counts_as_a_voter() -> None:
    """Otherwise the first to answer would be the majority."""
    peer = Peer("a")
    votes = []
    for _ in range(4):
        votes.append(peer.is_voting)
        peer.missed("no_answer")
    assert votes == [True, True, True, False]


def test_the_shortest_delay_is_that_of_a_day() -> None:
    """A route that has become longer for good is known as such the day after."""
    peer = Peer("a")
    peer.add(sample(0, 5))
    for hour in range(1, 24):
        peer.add(sample(hour * HOUR_NS, 30))
    assert peer.delay_min_ns == 5_000_000
    peer.add(sample(24 * HOUR_NS, 30))
    assert peer.delay_min_ns == 30_000_000


def test_a_saved_shortest_delay_counts_at_once() -> None:
    """Until there are samples of a day."""
    peer = Peer("a", delay_min_ns=1_000_000)
    peer.add(sample(5, 30))
    assert peer.delay_min_ns == 1_000_000


def test_the_best_sample_is_quick_and_not_too_old() -> None:
    """A millisecond of delay is worth about half a minute."""
    peer = Peer("a")
    for raw_s, delay in ((0, 10), (60, 11), (120, 50)):
        peer.add(sample(raw_s * 10**9, delay))
    assert peer.best(RawNs(120 * 10**9)).delay_ns == 11_000_000


def test_a_slow_sample_is_noisier() -> None:
    """By more than half of what it took longer."""
    peer = seasoned()
    quick, slow = sample(10**13, 21), sample(10**13, 121)
    assert 0.055 < peer.noise_s(slow) - peer.noise_s(quick) < 0.065


def test_the_first_samples_are_noisy() -> None:
    """Nothing is known of the path yet."""
    peer = Peer("a")
    peer.add(first := sample(0, 40))
    assert peer.noise_s(first) > 0.01


def test_a_slow_sample_is_gated_while_the_estimate_is_better() -> None:
    """And taken once the estimate is so uncertain that it tells something."""
    peer = seasoned()
    slow = sample(10**13, 121)
    assert peer.is_gated(slow, 0.001)
    assert not peer.is_gated(slow, 0.05)
    assert not peer.is_gated(sample(10**13, 21), 0.001)
    young = seasoned(count=GATE_AFTER)
    assert not young.is_gated(slow, 0.001)


def test_the_hosts_own_word_is_as_noisy_as_it_says() -> None:
    """There is no delay to judge it by."""
    peer = Peer("host")
    word = Sample("host", RawNs(1), UtcNs(10**18), 0, 4_000_000)
    peer.add(word)
    assert peer.noise_s(word) == pytest.approx(0.001)


def test_what_it_may_hide_follows_its_way() -> None:
    """A detour may be all asymmetry, however short the way was before: once no recent sample came the old way."""
    peer = seasoned(delay_ms=20)
    assert 10e6 <= peer.bound_ns() <= 12e6
    for number in range(RECENT):
        peer.add(sample((200 + number) * 64 * 10**9, 100, root_ns=1_000_000))
    assert peer.bound_ns() == 51e6


def test_memory_is_bounded() -> None:
    """However many samples there are."""
    peer = seasoned(count=DELAYS * 3)
    assert len(peer._delays) == len(peer._order) == DELAYS
    assert peer._delays == sorted(peer._order)
