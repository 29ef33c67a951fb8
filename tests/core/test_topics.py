"""The topic tree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.topics import Topics, fleet_filters, is_filter, parse_up

TOPICS = Topics("acme/edge", "gw-1")


def test_the_device_speaks_under_up() -> None:
    """Status, health and heartbeat are where the contract says."""
    assert TOPICS.status == "acme/edge/gw-1/up/status"
    assert TOPICS.health == "acme/edge/gw-1/up/health"
    assert TOPICS.heartbeat == "acme/edge/gw-1/up/heartbeat"


def test_the_device_listens_to_itself_to_all_and_to_its_groups() -> None:
    """Group filters are there only where groups are used."""
    own = ("acme/edge/gw-1/down/#", "acme/edge/gw-1/up/status", "acme/edge/_all/down/cmd/#")
    assert TOPICS.filters(()) == own
    assert TOPICS.filters(("p7",)) == (*own, "acme/edge/_group/p7/down/cmd/#")


def test_an_operator_sees_every_device() -> None:
    """One filter a kind."""
    assert fleet_filters("edge") == ("edge/+/up/status", "edge/+/up/health", "edge/+/up/heartbeat")


def test_a_topic_is_split_into_device_and_kind() -> None:
    """Also when the kind has levels of its own."""
    assert parse_up("acme/edge/gw-1/up/status", "acme/edge") == ("gw-1", "status")
    assert parse_up("acme/edge/gw-1/up/data/job", "acme/edge") == ("gw-1", "data/job")


@pytest.mark.parametrize("text", ["#", "+", "a", "/", "a/+/#", "+/b/", "$share/g/a", "ä b"])
def test_what_can_be_subscribed_to(text: str) -> None:
    """Wildcards are whole levels."""
    assert is_filter(text)


@pytest.mark.parametrize("text", ["", "a/#/b", "a#", "a+/b", "##", "a\0", "\udcff", "ä" * 40_000])
def test_what_cannot(text: str) -> None:
    """Whatever a command line may hold."""
    assert not is_filter(text)


@given(st.text() | st.sampled_from(["edge/", "edge/x", "edge/x/up", "edge/x/up/", "edge//up/a", "edgex/a/up/b"]))
def test_other_topics_are_nobody_s(topic: str) -> None:
    """Whatever arrives, the answer is a device and a kind, both non-empty, or nothing."""
    parsed = parse_up(topic, "edge")
    assert parsed is None or all(parsed)


def test_the_tree_of_another_prefix_is_not_ours() -> None:
    """A prefix is a whole level."""
    assert parse_up("edge2/a/up/status", "edge") is None
    assert parse_up("edge/a/down/cmd", "edge") is None
