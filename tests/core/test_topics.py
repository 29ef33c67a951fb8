"""The topic tree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.topics import Topics, fleet_filters, is_filter, matches, parse_up

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


OURS = Topics("edge", "dev-1")


def test_a_command_is_addressed_to_a_device_a_group_or_all() -> None:
    """And its name is what follows, whatever that is."""
    assert OURS.command("edge/dev-1/down/cmd/ping") == ("dev-1", "ping")
    assert OURS.command("edge/_all/down/cmd/ping") == ("_all", "ping")
    assert OURS.command("edge/_group/a/down/cmd/a/b") == ("_group/a", "a/b")
    for topic in ("edge/dev-1/down/config", "dev-1/down/cmd/ping", "edge/dev-1/up/status", "edgy/dev-1/down/cmd/x"):
        assert OURS.command(topic) is None


@pytest.mark.parametrize(
    ("topic", "goes_to"),
    [
        ("edge/dev-1/up/reply/x/y", "edge/dev-1/up/reply/x/y"),
        ("edge/dev-1/up/mine/x", "edge/dev-1/up/mine/x"),
        ("edge/dev-1/up/reply", "edge/dev-1/up/reply"),
        ("fleet/a/answers", "fleet/a/answers"),
        ("edge/dev-1/up/reply//fleet/x", "edge/dev-1/up/reply//fleet/x"),
    ],
)
def test_a_reply_goes_below_up_or_where_that_is_allowed(topic: str, goes_to: str) -> None:
    """And nowhere else, however the topic is spelt: what it is kept as leads back to it."""
    channel = OURS.channel(topic, ("fleet/+/answers",))
    assert channel is not None
    assert channel.startswith("reply/")
    assert OURS.up(channel) == goes_to


@pytest.mark.parametrize(
    "topic",
    [
        *(f"edge/dev-1/up/{taken}" for taken in ("status", "data/x", "event/x", "config", "heartbeat", "", "/x")),
        "edge/dev-1/down/cmd/restart",
        "edge/dev-2/up/reply/x",
        "fleet/a/b/answers",
        "edge/dev-1/up/reply/+",
        "edge/dev-1/up/reply/#",
        "edge/dev-1/up/reply/" + "x" * 1024,
        "",
        "a\0b",
    ],
)
def test_a_reply_goes_nowhere_else(topic: str) -> None:
    """Least of all where consumers take it for something that it is not."""
    assert OURS.channel(topic, ("fleet/+/answers",)) is None


@pytest.mark.parametrize(
    ("pattern", "topic", "fits"),
    [
        ("#", "a/b", True),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/#", "b", False),
        ("a/+", "a/b", True),
        ("a/+", "a", False),
        ("a/+", "a/", True),
        ("+", "a/b", False),
        ("+/b", "/b", True),
        ("a/b", "a/b", True),
        ("a/b", "a/c", False),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/x", True),
    ],
)
def test_a_filter_stands_for_topics(pattern: str, topic: str, *, fits: bool) -> None:
    """MQTT 5 §4.7."""
    assert matches(pattern, topic) is fits


def test_configuration_has_topics_of_its_own() -> None:
    """One to be told what is wanted, of which a device hears with its other messages; one to say what became of it."""
    assert (TOPICS.desired, TOPICS.config) == ("acme/edge/gw-1/down/config", "acme/edge/gw-1/up/config")
    assert any(matches(wanted, TOPICS.desired) for wanted in TOPICS.filters(()))
    assert TOPICS.command(TOPICS.desired) is None
    assert TOPICS.channel(TOPICS.config, ()) is None
