"""What becomes of configuration from the cloud."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.cloud_config import MAX_STARTS, CloudConfig, content, read
from edge_agent.core.config_remote import Desired
from edge_agent.core.timebase import RawNs, seconds
from edge_agent.errors import ConfigError

WHY = (("mqtt.brokers", "why"),)
ONE, TWO, THREE = (Desired(version, {"heartbeat": {"every": f"{version}s"}}) for version in (1, 2, 3))
WITHIN = seconds(120)


def at(s: float) -> RawNs:
    """Return an instant of the counter."""
    return RawNs(seconds(s))


def tried(desired: Desired | None, cloud: CloudConfig | None = None, *, s: float = 0) -> CloudConfig:
    """Return what is known once a change is on trial."""
    return (cloud or CloudConfig()).begin(desired, boot="b", raw=at(s), within=WITHIN)


def lived_with(desired: Desired) -> CloudConfig:
    """Return what is known of a version that is there to stay."""
    return tried(desired).confirm().settle()


def test_at_first_there_is_nothing_and_that_is_applied() -> None:
    """The cloud has said nothing, and any version is new."""
    assert CloudConfig().verdict() == (None, "applied", ())
    assert CloudConfig().judge(ONE) == "new"


def test_a_change_is_pending_until_it_is_confirmed() -> None:
    """Confirmed, it may still be taken back, and is so no more once the agent has lived with it."""
    pending = tried(ONE)
    assert (pending.is_pending, pending.verdict()) == (True, (1, "pending_confirm", ()))
    confirmed = pending.confirm()
    assert (confirmed.is_pending, confirmed.verdict()) == (False, (1, "applied", ()))
    assert confirmed.trial is not None
    assert confirmed.settle() == replace(confirmed, trial=None)
    assert CloudConfig().confirm() == CloudConfig().stop() == CloudConfig()


def test_a_version_is_begun_once() -> None:
    """It is known then, whatever became of it; the order of its keys does not make it another."""
    turned = Desired(2, {"b": {"x": 1, "y": 2}, "a": {}})
    same = Desired(2, {"a": {}, "b": {"y": 2, "x": 1}})
    assert content(turned) == content(same)
    for known in (tried(turned), lived_with(turned), tried(turned).give_up(WHY), tried(turned).confirm()):
        assert known.judge(same) == "known"
        assert known.judge(replace(same, config={"a": {}})) == "other"
        assert known.judge(ONE) == "old"
        assert known.judge(THREE) == "new"


def test_what_was_dropped_does_not_come_back() -> None:
    """Nor while the drop is on trial; a larger version does."""
    for dropped in (tried(None, lived_with(TWO)), lived_with(TWO).take(None)):
        assert (dropped.judge(TWO), dropped.judge(ONE), dropped.judge(THREE)) == ("dropped", "old", "new")
        assert dropped.layer is None
    assert lived_with(TWO).take(None).verdict() == (None, "applied", ())


def test_what_is_taken_back_leads_to_what_was_confirmed_last() -> None:
    """However many changes were begun meanwhile; the reasons are told of the newest one."""
    cloud = tried(THREE, tried(TWO, lived_with(ONE)))
    back = cloud.give_up(WHY)
    assert (back.layer, back.trial) == (ONE, None)
    assert back.verdict() == (3, "rolled_back", WHY)
    confirmed = tried(THREE, tried(TWO, lived_with(ONE)).confirm()).give_up(WHY)
    assert confirmed.layer == TWO
    assert tried(ONE).give_up(WHY).layer is None
    drop = tried(None, lived_with(ONE)).give_up(WHY)
    assert (drop.layer, drop.verdict()) == (ONE, (1, "rolled_back", WHY))


def test_what_changes_nothing_needs_no_trial_and_ends_none() -> None:
    """It is applied at once; where one is under way, it goes on."""
    assert CloudConfig().take(ONE).verdict() == (1, "applied", ())
    assert tried(ONE).give_up(WHY).take(TWO).verdict() == (2, "applied", ())
    assert tried(ONE).take(TWO).trial == tried(ONE).trial
    assert tried(TWO, lived_with(ONE)).take(THREE).give_up(WHY).layer == ONE


def test_a_hand_goes_back_to_whatever_it_wants() -> None:
    """Of the version that it goes back from is said so; the newest one is applied, also if it was taken back before."""
    back = lived_with(TWO).go_back(ONE, WHY)
    assert (back.layer, back.verdict()) == (ONE, (2, "rolled_back", WHY))
    assert back.go_back(TWO, WHY).verdict() == (2, "applied", ())
    assert tried(TWO).go_back(None, WHY).verdict() == (2, "rolled_back", WHY)
    assert CloudConfig().go_back(TWO, WHY).judge(TWO) == "known"


def test_within_a_boot_the_deadline_stays() -> None:
    """However often the agent starts; after a reboot the whole time begins anew."""
    begun = tried(ONE, s=50)
    again = begun.start(boot="b", raw=at(90))
    assert again.trial is not None
    assert again.trial.until == at(170)
    rebooted = begun.start(boot="c", raw=at(5))
    assert rebooted.trial is not None
    assert (rebooted.trial.until, rebooted.trial.boot) == (at(125), "c")
    assert CloudConfig().start(boot="b", raw=at(0)) == CloudConfig()


def test_a_deadline_is_never_further_away_than_at_the_beginning() -> None:
    """Where the boot is not known, the counter of another one says nothing."""
    unknown = tried(ONE, s=1_000_000).start(boot="b", raw=at(5))
    assert unknown.trial is not None
    assert unknown.trial.until == at(125)


@pytest.mark.parametrize(("confirmed", "words"), [(False, "was not confirmed"), (True, "was confirmed")])
def test_with_what_ends_the_agent_it_starts_twice(*, confirmed: bool, words: str) -> None:
    """The third start goes back, and says why; a stop that somebody wanted begins the count anew."""
    cloud = tried(TWO, lived_with(ONE))
    cloud = cloud.confirm() if confirmed else cloud
    for _ in range(MAX_STARTS - 1):
        cloud = cloud.start(boot="b", raw=at(1))
        assert cloud.layer == TWO
    assert cloud.stop().start(boot="b", raw=at(1)).layer == TWO
    back = cloud.start(boot="b", raw=at(1))
    assert (back.layer, back.trial, back.verdict()[:2]) == (ONE, None, (2, "rolled_back"))
    assert words in back.verdict()[2][0][1]


# ---------------------------------------------------------------- whatever happens
DESIRED = st.builds(Desired, st.integers(1, 4), st.sampled_from([{}, {"log": {}}, {"heartbeat": {"every": "1s"}}]))
STEPS = st.lists(
    st.tuples(st.just("desire"), DESIRED | st.none(), st.booleans())
    | st.tuples(st.sampled_from(["confirm", "settle", "stop", "give_up", "start", "reboot"])),
    max_size=20,
)


def after(cloud: CloudConfig, step: tuple[Any, ...], s: float) -> CloudConfig:
    """Return what is known after a step, as the agent takes it."""
    match step:
        case ("desire", desired, changes) if desired is None or cloud.judge(desired) == "new":
            return tried(desired, cloud, s=s) if changes else cloud.take(desired)
        case ("give_up",) if cloud.trial is not None:
            return cloud.give_up(WHY)
        case ("start" | "reboot" as how,):
            return cloud.start(boot=how, raw=at(s))
        case ("confirm" | "settle" | "stop" as name,):
            changed: CloudConfig = getattr(cloud, name)()
            return changed
        case _:
            return cloud


@given(STEPS)
def test_whatever_happens_no_version_is_begun_twice_and_all_is_read_back(steps: list[tuple[Any, ...]]) -> None:
    """What is written down says all that is known, and a version that was seen is new never again."""
    cloud, seen = CloudConfig(), set[int]()
    for number, step in enumerate(steps):
        if step[0] == "desire" and step[1] is not None and cloud.judge(step[1]) == "new":
            assert step[1].version not in seen
            seen.add(step[1].version)
        cloud = after(cloud, step, number)
        assert cloud.version == max(seen, default=0)
        assert read(orjson.loads(orjson.dumps(cloud.document()))) == cloud
        version, state, why = cloud.verdict()
        assert (state == "rolled_back") == (cloud.given_up is not None) == bool(why)
        assert version is None or version in seen


# ---------------------------------------------------------------- damage
GOOD = tried(TWO, lived_with(ONE)).document() | {"given_up": [["a", "b"]]}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@given(st.sampled_from([(key,) for key in GOOD] + [("trial", key) for key in GOOD["trial"]]), JSON)
def test_what_is_damaged_is_refused_or_can_be_worked_with(path: tuple[str, ...], value: object) -> None:
    """Whatever stands in the place of any value: nothing but two kinds of error comes out, then or later."""
    document = orjson.loads(orjson.dumps(GOOD))
    place = document if len(path) == 1 else document[path[0]]
    place[path[-1]] = value
    try:
        found = read(document)
    except (ValueError, ConfigError):
        return
    started = found.start(boot="b", raw=at(5))
    assert read(orjson.loads(orjson.dumps(started.document()))) == started
    assert started.trial is None or started.trial.until <= at(5) + started.trial.within


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("given_up", [5]),
        ("given_up", ["ab"]),
        ("given_up", [["a", "b", "c"]]),
        ("version", -1),
        ("version", 1 << 60),
        ("layer", {"version": 0, "config": {}}),
        ("trial", {}),
        ("trial", GOOD["trial"] | {"until": 1 << 63}),
        ("trial", GOOD["trial"] | {"within": -1}),
        ("content", None),
    ],
)
def test_what_was_never_written_is_not_read(key: str, value: object) -> None:
    """A value of another kind, or beyond what can be."""
    with pytest.raises((ValueError, ConfigError)):
        read(GOOD | {key: value})
