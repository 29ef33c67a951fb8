"""The kinds of value of the configuration."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from edge_agent.core.config_types import (
    AbsolutePath,
    BrokerUrl,
    DeviceId,
    Glob,
    HttpUrl,
    Listen,
    Name,
    Prefix,
    SecretFile,
    Server,
    Zone,
    kind_of,
    parse_broker_url,
)


@pytest.mark.parametrize(
    ("text", "broker"),
    [
        ("mqtt://localhost", BrokerUrl("mqtt", "localhost", 1883)),
        ("mqtts://a.example", BrokerUrl("mqtts", "a.example", 8883)),
        ("mqtt://10.0.0.1:1884", BrokerUrl("mqtt", "10.0.0.1", 1884)),
        ("mqtt://[2001:db8::1]:1884", BrokerUrl("mqtt", "2001:db8::1", 1884)),
        ("mqtt://[fe80::1%eth0]", BrokerUrl("mqtt", "fe80::1%eth0", 1883)),
        ("ws://h/mqtt", BrokerUrl("ws", "h", 80, "/mqtt")),
        ("wss://h:444/a/b?c=d", BrokerUrl("wss", "h", 444, "/a/b?c=d")),
        ("wss://h", BrokerUrl("wss", "h", 443)),
        ("mqtt://h/", BrokerUrl("mqtt", "h", 1883)),
    ],
)
def test_a_broker_url_is_read_and_written(text: str, broker: BrokerUrl) -> None:
    """Ports have defaults, addresses of IPv6 stand in brackets, and the text form reads back."""
    assert parse_broker_url(text) == broker
    assert parse_broker_url(str(broker)) == broker
    assert broker.encrypted == text.startswith(("mqtts", "wss"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("localhost", "a URL like"),
        ("http://h", "mqtt, mqtts, ws, wss"),
        ("mqtt://", "a URL like"),
        ("mqtt://h:0", "port 1 to 65535"),
        ("mqtt://h:65536", "1 to 65535"),
        ("mqtt://h:x", "a URL like"),
        ("mqtt://2001:db8::1", "a URL like"),
        ("mqtt://h/path", "only ws and wss"),
        ("ws://h/a b", "a URL like"),
        ("mqtt://u:hunter2@h", "username and password_file"),
    ],
)
def test_a_bad_broker_url_is_refused(text: str, words: str) -> None:
    """The message says what is allowed and holds no password."""
    with pytest.raises(ValueError, match=words) as bad:
        parse_broker_url(text)
    assert "hunter2" not in str(bad.value)


@given(st.text())
def test_no_text_makes_a_broker_url_fail_in_another_way(text: str) -> None:
    """Whatever stands there, it is a broker or a ValueError."""
    try:
        broker = parse_broker_url("mqtt://" + text)
    except ValueError:
        return
    assert 1 <= broker.port <= 65_535


GOOD_AND_BAD: dict[str, tuple[Any, list[str], list[object]]] = {
    "Name": (Name, ["a", "A_b:c-9", "x" * 64], ["", "x" * 65, "a b", "a/b", "a.b", "ä", "a\n", 5, True, None]),
    "DeviceId": (DeviceId, ["gw-0042", "aa:bb:cc:dd:ee:ff", "a_b"], ["", "_all", "a/b", "x" * 65, 5]),
    "Glob": (Glob, ["*", "*-status", "job-?"], ["", "a/b", "[a]", 5]),
    "Prefix": (Prefix, ["edge", "a/b/c"], ["", "/a", "a/", "a//b", "a/+", "#", "$S", "a\0", "a/" * 99 + "aaa", 5]),
    "AbsolutePath": (AbsolutePath, ["/", "/a b/c"], ["", "a", "~/a", "/a\0", "/a\nb", 5]),
    "Zone": (Zone, ["UTC", "local", "America/Argentina/Ushuaia", "Etc/GMT+1"], ["", "../x", "/a", "a/", 5]),
    "SecretFile": (SecretFile, ["/run/x", "mqtt-password"], ["", "a/b", "../x", "a b", "/a\0", 5]),
    "Server": (Server, ["ntp1.example", "a:123", "[::1]:123", "10.0.0.1"], ["", "a b", "a:0", "a:99999", "::1", 5]),
    "Listen": (Listen, ["127.0.0.1:80", "[::1]:80", "/x.sock"], ["", "h", ":80", "h:0", "x.sock", "/" + "a" * 107]),
    "HttpUrl": (
        HttpUrl,
        ["http://h", "https://h:8080/a?b=c"],
        ["", "h", "ftp://h", "http://", "http://u:p@h", "http://h:99999", "http://[", "http://h/a b"],
    ),
}


@pytest.mark.parametrize("name", GOOD_AND_BAD)
def test_what_is_good_is_taken_as_it_is(name: str) -> None:
    """These texts keep their form."""
    kind, good, _ = GOOD_AND_BAD[name]
    assert [TypeAdapter(kind).validate_python(text) for text in good] == good


@pytest.mark.parametrize("name", GOOD_AND_BAD)
def test_what_is_bad_is_refused_in_one_line(name: str) -> None:
    """Each is refused by our own words."""
    kind, _, values = GOOD_AND_BAD[name]
    for value in values:
        with pytest.raises(ValidationError) as bad:
            TypeAdapter(kind).validate_python(value)
        (error,) = bad.value.errors()
        assert error["type"] == "value_error"
        assert str(error["ctx"]["error"]).isprintable()
        assert re.search(r"needed|allowed", str(error["ctx"]["error"]))


def test_a_kind_is_named_without_its_value() -> None:
    """A message about a wrong type names the type alone."""
    values: tuple[object, ...] = ("s", True, 1, 1.5, {}, [], ())
    assert [kind_of(value) for value in values] == [
        "a string", "a boolean", "a number", "a decimal number", "a table", "an array", "an array",
    ]  # fmt: skip
