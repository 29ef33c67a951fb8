"""Tests of ``core/discipline.py``; what it makes of whole days is in ``test_clock_scenarios``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.discipline import HOST, Discipline, Policy
from edge_agent.core.sample import Sample
from edge_agent.core.saved_clock import SavedClock
from edge_agent.core.timebase import BUILD_EPOCH, DurationNs, RawNs, UtcNs, WallNs, seconds

EPOCH = BUILD_EPOCH + seconds(10**6)
NOBODY = WallNs(0)


def sample(source: str, raw_s: float, *, off_s: float = 0.0, delay_ms: float = 10) -> Sample:
    """Return one of a server that is right but for ``off_s``."""
    raw = RawNs(seconds(raw_s))
    return Sample(source, raw, UtcNs(EPOCH + raw + seconds(off_s)), round(delay_ms * 1e6), 100_000)


def feed(one: Discipline, since_s: float, *names: str, count: int = 10, off_s: float = 0.0) -> list[str]:
    """Feed rounds of samples two seconds apart; return the standings."""
    return [
        one.take(sample(name, since_s + 2 * turn + 0.1 * n, off_s=off_s))
        for turn in range(count)
        for n, name in enumerate(names)
    ]


def state(one: Discipline, raw_s: float) -> str:
    """Return the state at an instant."""
    return one.at(RawNs(seconds(raw_s)), NOBODY).state


def whats(one: Discipline) -> list[str]:
    """Return what has happened, and forget it."""
    found = [happening.what for happening in one.happenings]
    one.happenings.clear()
    return found


def test_the_life_of_a_clock() -> None:
    """Unsynced, acquiring, synced, holdover, degraded, synced again; what matters is told."""
    one = Discipline(Policy(("a",)))
    assert one.at(RawNs(1), NOBODY) == (BUILD_EPOCH + 1, None, "unsynced")
    feed(one, 10, "a", count=1)
    assert state(one, 10) == "acquiring"
    feed(one, 12, "a", count=10)
    assert state(one, 32) == "synced"
    assert state(one, 10_000) == "holdover"
    assert state(one, 500_000) == "degraded"
    assert whats(one) == ["sync_gained", "sync_lost"]
    feed(one, 500_010, "a")
    assert state(one, 500_040) == "synced"
    assert "sync_gained" in whats(one)


def test_before_the_first_sync_the_operating_system_is_believed_unless_it_cannot_be_right() -> None:
    """It is never earlier than what was saved, or than the program."""
    raw = RawNs(5)
    assert Discipline(Policy(("a",))).at(raw, WallNs(EPOCH)).utc == EPOCH
    saved = SavedClock("other", RawNs(10**12), UtcNs(EPOCH + seconds(9)), 0, 0.0, 1e-6)
    one = Discipline(Policy(("a",)), saved=saved, boot="this")
    assert one.at(raw, WallNs(EPOCH)) == (EPOCH + seconds(9) + 5, None, "unsynced")
    assert one.at(raw, WallNs(EPOCH + seconds(10))).utc == EPOCH + seconds(10)


def test_a_restart_in_the_same_boot_goes_on_in_holdover() -> None:
    """The counter is the same, so the time is known all the while, with a bound that has grown."""
    first = Discipline(Policy(("a",)), boot="b")
    feed(first, 10, "a", count=20)
    assert state(first, 50) == "synced"
    saved = first.snapshot(RawNs(seconds(50)))
    again = Discipline(Policy(("a",)), saved=saved, boot="b")
    reading, known = again.at(RawNs(seconds(110)), NOBODY), first.at(RawNs(seconds(110)), NOBODY)
    assert reading.state == "holdover"
    assert abs(reading.utc - known.utc) < 10**6
    assert reading.error_ns is not None
    assert known.error_ns is not None
    assert reading.error_ns > known.error_ns / 2
    third = Discipline(Policy(("a",)), saved=again.snapshot(RawNs(seconds(110))), boot="b")
    assert third.at(RawNs(seconds(110)), NOBODY).error_ns == pytest.approx(reading.error_ns, rel=0.1)
    feed(again, 112, "a")
    assert state(again, 132) == "synced"


def test_nothing_is_worth_saving_before_the_first_sync() -> None:
    """It would be taken for knowledge."""
    one = Discipline(Policy(("a",)))
    feed(one, 1, "a", count=2)
    assert one.snapshot(RawNs(seconds(3))) is None


def test_the_first_of_several_to_answer_is_not_believed_alone() -> None:
    """It might be the liar; if the others stay silent it is in the end."""
    one = Discipline(Policy(("a", "b", "c")))
    assert one.take(sample("a", 1, off_s=3600)) == "waiting"
    assert one.take(sample("b", 1.1)) == "no_majority"
    assert one.take(sample("c", 1.2)) == "selected"
    assert one.take(sample("a", 3, off_s=3600)) == "outvoted"
    alone = Discipline(Policy(("a", "b", "c")))
    assert alone.take(sample("a", 18)) == "waiting"
    for _ in range(3):
        alone.missed("b")
        alone.missed("c")
    assert alone.take(sample("a", 20)) == "selected"


def test_the_first_to_answer_after_an_outage_is_not_believed_alone_either() -> None:
    """When all were silent it was the network: the others may be back as well, and outvote it."""
    one = Discipline(Policy(("a", "b", "c")))
    feed(one, 1, "a", "b", "c")
    for _ in range(10):
        for name in ("a", "b", "c"):
            one.missed(name)
    before = one.estimate.oscillator.offset_s
    assert one.take(sample("a", 5000, off_s=3600)) == "waiting"
    assert one.take(sample("b", 5001)) == "no_majority"
    assert one.estimate.oscillator.offset_s == before
    assert one.take(sample("c", 5002)) == "selected"
    assert one.take(sample("a", 5003, off_s=3600)) == "outvoted"


@pytest.mark.parametrize("kiss", ["kiss_rate", "kiss_deny", "kiss_rstr", "kiss_other"])
def test_a_server_that_wants_to_be_left_alone_is_not_waited_for(kiss: str) -> None:
    """It might not be asked again for a day."""
    one = Discipline(Policy(("a", "b")))
    one.missed("b", kiss)
    assert feed(one, 1, "a", count=1) == ["selected"]


def test_a_disagreement_is_over_when_one_of_two_is_gone() -> None:
    """The next one is told again."""
    one = Discipline(Policy(("a", "b")))
    feed(one, 1, "a")
    one.take(sample("b", 30, off_s=5))
    assert whats(one) == ["sources_disagree"]
    for _ in range(8):
        one.missed("b")
    assert one.take(sample("a", 600)) == "selected"
    assert whats(one)[0] == "sources_agree"


@pytest.mark.parametrize("poll_s", [64, 1024, 36 * 3600])
def test_time_is_only_held_once_three_requests_to_each_were_in_vain(poll_s: float) -> None:
    """And ten minutes went by; however rarely they are asked."""
    one = Discipline(Policy(("a", "b"), holdover_after_ns=seconds(3 * 36 * 3600), degraded_above_ns=seconds(100)))
    feed(one, 1, "a", "b")
    assert state(one, 590) == "synced"
    at = poll_s
    for _ in range(3):
        assert state(one, at) == "synced"
        at += max(poll_s, 300)
        one.missed("a")
        one.missed("b", "too_far")
    assert state(one, at) == "holdover"


def test_slow_answers_are_answers() -> None:
    """Nothing is learned from them while more is known than they can say, but nobody has gone."""
    one = Discipline(Policy(("a",), holdover_after_ns=seconds(600)))
    feed(one, 1, "a", count=30)
    for turn in range(20):
        at = 100 + 64 * turn
        assert one.take(sample("a", at, delay_ms=800)) == "gated"
        assert state(one, at) == "synced"
    assert whats(one) == ["sync_gained"]


def test_nobody_is_asked_less_often_before_time_is_known() -> None:
    """The uncertainty is a generation, not nothing."""
    assert Discipline(Policy(("a",))).uncertainty_ns > seconds(1e8)


def test_no_majority_freezes_and_is_told_once() -> None:
    """Nothing is learned until there is one again."""
    one = Discipline(Policy(("a", "b", "c", "d")))
    feed(one, 1, "a", "b", "c", "d")
    before = one.estimate.oscillator.offset_s
    whats(one)
    standings = []
    for turn in range(20):
        for name, off in (("a", 0.0), ("b", 0.0), ("c", 5.0), ("d", 5.0)):
            standings.append(one.take(sample(name, 100 + 64 * turn, off_s=off)))
    assert standings[:3] == ["selected", "selected", "outvoted"]
    assert set(standings[3:]) == {"no_majority"}, "at once, though the liars' older samples agree"
    assert one.estimate.oscillator.offset_s == pytest.approx(before, abs=0.01)
    assert whats(one).count("sources_disagree") == 1
    feed(one, 5000, "a", "b", "c", "d")
    assert "sources_agree" in whats(one)


def test_the_host_votes_beside_two_servers_and_is_not_learned_from() -> None:
    """Its word makes a majority of two that disagree with each other."""
    one = Discipline(Policy(("a", "b")))
    one.host(Sample(HOST, RawNs(seconds(1)), UtcNs(EPOCH + seconds(1)), 0, 2_000_000))
    one.take(sample("a", 1))
    assert one.take(sample("b", 1.1, off_s=100)) == "outvoted"
    assert one.take(sample("a", 3)) == "selected"
    assert HOST not in one.peers
    without = Discipline(Policy(("a", "b"), host="off"))
    without.host(Sample(HOST, RawNs(seconds(1)), UtcNs(EPOCH + seconds(1)), 0, 2_000_000))
    without.take(sample("a", 1))
    assert without.take(sample("b", 1.1, off_s=100)) == "no_majority"


def test_a_host_that_is_trusted_is_the_only_source() -> None:
    """And when nobody keeps its clock right any more, time is held."""
    one = Discipline(Policy(("a",), host="trust"))
    for turn in range(10):
        raw = RawNs(seconds(10 + 64 * turn))
        one.host(Sample(HOST, raw, UtcNs(EPOCH + raw), 0, 2_000_000))
        assert state(one, 10 + 64 * turn) == "synced"
    assert (one.source, state(one, 600)) == (HOST, "synced")
    assert one.take(sample("a", 601)) == "not_configured"
    for _ in range(8):
        one.host(None)
    assert (one.peers[HOST].standing, state(one, 600 + 4000)) == ("not_synchronised", "holdover")


def test_without_servers_the_operating_systems_clock_is_all_there_is() -> None:
    """Its state says so, and a bound comes with the kernel's word alone."""
    one = Discipline(Policy(()))
    assert one.at(RawNs(1), WallNs(77)) == (77, None, "os")
    one.host(Sample(HOST, RawNs(1), UtcNs(77), 0, 3_000_000))
    assert one.at(RawNs(2), WallNs(78)) == (78, 3_000_000, "os")
    one.host(None)
    assert one.at(RawNs(3), WallNs(79)).error_ns is None


def test_with_servers_after_all_nothing_is_known_until_the_first_sample() -> None:
    """As when DHCP names them some time after the start."""
    one = Discipline(Policy(()))
    one.host(Sample(HOST, RawNs(1), UtcNs(77), 0, 3_000_000))
    assert state(one, 1) == "os"
    one.reconfigure(Policy(("a",)))
    assert one.at(RawNs(seconds(2)), NOBODY)[1:] == (None, "unsynced")
    assert whats(one) == []


def test_without_servers_any_more_what_they_said_is_not_told() -> None:
    """Nobody would notice that it has become wrong."""
    one = Discipline(Policy(("a", "b")))
    feed(one, 1, "a", "b")
    assert state(one, 21) == "synced"
    one.reconfigure(Policy(("b",)))
    assert one.source in (None, "b")
    one.reconfigure(Policy(()))
    assert state(one, 22) == "os"
    assert (one.source, one.true_time(RawNs(seconds(22))), one.snapshot(RawNs(seconds(22)))) == (None, None, None)


def test_after_a_sleep_the_hosts_old_word_counts_no_more() -> None:
    """Its clock has been set from a real-time clock since."""
    one = Discipline(Policy(("a", "b")))
    one.host(Sample(HOST, RawNs(seconds(1)), UtcNs(EPOCH + seconds(1)), 0, 2_000_000))
    one.suspended(seconds(3600))
    one.take(sample("a", 3600, off_s=1))
    assert one.take(sample("b", 3600.1)) == "no_majority"


def step_of(by_s: float, *names: str, host_off_s: float | None = None, host: str = "auto") -> Discipline:
    """Return one whose sources all changed their minds by some seconds after a while; the host says something, too."""
    one = Discipline(Policy(names, host=host))  # type: ignore[arg-type]
    feed(one, 1, *names, count=20)
    state(one, 41)
    whats(one)
    for turn in range(30):
        if host_off_s is not None:
            raw = RawNs(seconds(99.9 + 16 * turn))
            one.host(Sample(HOST, raw, UtcNs(EPOCH + raw + seconds(host_off_s)), 0, 2_000_000))
        for n, name in enumerate(names):
            one.take(sample(name, 100 + 16 * turn + 0.1 * n, off_s=by_s))
        state(one, 100 + 16 * turn + 1)
    return one


def error_s(one: Discipline, raw_s: float) -> float:
    """Return how far the clock is behind what the servers said at first."""
    raw = RawNs(seconds(raw_s))
    return (one.at(raw, NOBODY).utc - EPOCH - raw) / 1e9


def test_an_error_below_the_limit_is_slewed() -> None:
    """Five percent at most."""
    one = step_of(5.0, "a")
    assert "time_stepped" not in whats(one)
    assert error_s(one, 600) == pytest.approx(5.0, abs=0.01)


def test_a_larger_one_is_stepped_once_it_is_confirmed() -> None:
    """And told, with its size."""
    for by_s in (100.0, -100.0):
        one = step_of(by_s, "a")
        assert "time_stepped" in whats(one)
        assert error_s(one, 600) == pytest.approx(by_s, abs=0.01)


def test_an_absurd_one_needs_three_sources() -> None:
    """Otherwise it is an alarm, and time is held with a bound that says how wrong it may be."""
    one = step_of(3600.0, "a")
    assert "panic" in whats(one)
    assert abs(error_s(one, 600)) < 1
    reading = one.at(RawNs(seconds(600)), NOBODY)
    assert reading.state == "degraded"
    assert reading.error_ns is not None
    assert reading.error_ns > seconds(3590)
    three = step_of(3600.0, "a", "b", "c")
    assert "time_stepped" in whats(three)
    assert error_s(three, 600) == pytest.approx(3600, abs=0.01)


def test_the_host_stands_for_two_of_the_three_if_it_says_the_same() -> None:
    """And for none if it says something else, or is not to be asked."""
    assert "time_stepped" in whats(step_of(3600.0, "a", host_off_s=3600.0))
    assert "time_stepped" in whats(step_of(3600.0, "a", "b", host_off_s=3600.0))
    for dissenting in (
        step_of(3600.0, "a", host_off_s=0.0),
        step_of(3600.0, "a", "b", host_off_s=0.0),
        step_of(3600.0, "a", "b", host_off_s=3600.0, host="off"),
    ):
        assert "panic" in whats(dissenting)
        assert abs(error_s(dissenting, 600)) < 1


def test_other_sources_and_limits_change_nothing_of_what_is_known() -> None:
    """The estimate goes on."""
    one = Discipline(Policy(("a",)))
    feed(one, 1, "a", count=20)
    before = one.at(RawNs(seconds(50)), NOBODY)
    one.reconfigure(Policy(("b",), slew_max_ppm=1000))
    after = one.at(RawNs(seconds(50)), NOBODY)
    assert abs(after.utc - before.utc) <= 1
    assert list(one.peers) == ["b"]
    assert one.peers["b"].standing == "new"


def test_the_face_of_a_source() -> None:
    """What is shown of one that answers, one that lies and one that is silent."""
    one = Discipline(Policy(("a", "b", "c", "d")))
    for turn in range(5):
        one.take(sample("a", 1 + 2 * turn))
        one.take(sample("d", 1.2 + 2 * turn))
        one.take(sample("b", 1.3 + 2 * turn, off_s=10))
        one.missed("c")
    a, b, c, _ = one.sources(RawNs(seconds(20)))
    assert [(face["standing"], face["used"]) for face in (a, b, c)] == [
        ("selected", True),
        ("outvoted", False),
        ("no_answer", False),
    ]
    assert a["offset_ms"] == pytest.approx(0, abs=0.1)
    assert b["offset_ms"] == pytest.approx(-10_000, abs=1)
    assert (a["delay_ms"], a["root_ms"], a["age_s"], a["reach"]) == (10, 0.1, 11.0, 0b11111)
    assert (c["reach"], c["offset_ms"], c["age_s"]) == (0, None, None)


samples = st.builds(
    Sample,
    st.sampled_from(["a", "b", "c", "x"]),
    st.integers(0, 10**16).map(RawNs),
    st.integers(0, 1 << 62).map(UtcNs),
    st.integers(1, 10**10),
    st.integers(0, 10**10),
)
steps = samples | st.sampled_from(["a", "b", "c"]) | st.integers(0, 10**16).map(DurationNs) | st.none()


@given(st.lists(steps, max_size=60), st.sampled_from(["auto", "trust", "off"]))
def test_no_history_breaks_it(history: list[Sample | str | int | None], host: str) -> None:
    """Whatever servers say, whenever: it always has a time, and what it saves can be read."""
    one = Discipline(Policy(("a", "b", "c"), host=host))  # type: ignore[arg-type]  # one of them
    last = 0
    for step in history:
        if isinstance(step, Sample):
            one.take(step)
            last = max(last, step.raw)
        elif isinstance(step, str):
            one.missed(step)
        elif step is None:
            one.host(Sample(HOST, RawNs(last), UtcNs(EPOCH), 0, 5))
        else:
            one.suspended(DurationNs(step))
        reading = one.at(RawNs(last), NOBODY)
        assert reading.error_ns is None or reading.error_ns >= 0
        one.sources(RawNs(last))
        saved = one.snapshot(RawNs(last))
        assert saved is None or saved.error_ns >= 0
