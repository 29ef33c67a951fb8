"""The models: defaults, ranges and what belongs together."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from edge_agent.core.config_models import Config
from edge_agent.core.config_types import BrokerUrl
from edge_agent.core.timebase import seconds
from edge_agent.core.units import parse_duration


def first_reason(data: dict[str, Any]) -> str:
    """Return what is said about the first thing wrong."""
    with pytest.raises(ValidationError) as bad:
        Config.model_validate(data)
    return bad.value.errors()[0]["msg"].removeprefix("Value error, ")


def test_every_default_of_the_contract_holds() -> None:
    """An empty configuration is the one that the contract describes."""
    config = Config.model_validate({})
    assert config == Config()
    assert config.mqtt.brokers == (BrokerUrl("mqtt", "localhost", 1883),)
    assert (config.mqtt.prefix, config.mqtt.client_id, config.mqtt.protocol) == ("edge", "{id}", "auto")
    assert (config.mqtt.keepalive, config.mqtt.reconnect_max) == (seconds(60), seconds(60))
    assert (config.mqtt.session_expiry, config.mqtt.will_delay) == (seconds(86_400), seconds(10))
    assert (config.time.servers, config.time.host, config.time.alarm_offset) == (None, "auto", seconds(0.05))
    assert (config.time.poll_min, config.time.poll_max, config.time.first_sync_wait) == (
        seconds(64), seconds(1024), seconds(600),
    )  # fmt: skip
    assert (config.outbox.max_bytes, config.outbox.max_age, config.outbox.max_record) == (
        64 << 20, seconds(604_800), 120 << 10,
    )  # fmt: skip
    assert (config.outbox.when_full, config.outbox.rate, config.outbox.commit, config.outbox.batch) == (
        "drop_oldest", 80, seconds(1), 1,
    )  # fmt: skip
    assert config.heartbeat.every == seconds(60)
    assert config.commands.allow == ("ping", "*-status", "*-list", "*-get", "queue-stat", "job-run")
    assert (config.config.remote, config.config.confirm_timeout) == (
        ("heartbeat", "jobs", "log", "outbox"), seconds(120),
    )  # fmt: skip
    assert (config.metrics.listen, config.api.listen, config.log.level, config.log.format) == (None, None, "info", None)


@pytest.mark.parametrize(
    ("section", "key", "least", "most", "below", "above"),
    [
        ("heartbeat", "every", "100ms", "1d", "99ms", "24h1s"),
        ("mqtt", "keepalive", "5s", "18h", "4s", "18h1s"),
        ("mqtt", "reconnect_max", "1s", "1d", "999ms", "24h1s"),
        ("time", "poll_min", "16s", "1024s", "15s", "37h"),
        ("outbox", "max_age", "1m", "3650d", "59s", "3651d"),
    ],
)
def test_durations_have_bounds(section: str, key: str, least: str, most: str, below: str, above: str) -> None:
    """The bounds are inclusive, and named when they are passed."""
    for good in (least, most):
        value = getattr(getattr(Config.model_validate({section: {key: good}}), section), key)
        assert value == parse_duration(good)
    for bad in (below, above):
        assert "is allowed" in first_reason({section: {key: bad}})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"mqtt": {"keepalive": "5s1ms"}}, "whole multiples of 1s"),
        ({"mqtt": {"tls": {"cert": "/c"}}}, "cert and key go together"),
        ({"mqtt": {"tls": {"key": "/k"}}}, "cert and key go together"),
        ({"operator": {"tls": {"key": "/k"}}}, "cert and key go together"),
        ({"mqtt": {"password_file": "/p"}}, "password_file needs username"),
        ({"time": {"poll_min": "20m"}}, 'poll_min "20m" is above poll_max "17m4s"'),
        ({"outbox": {"max_bytes": "64KiB"}}, 'max_record "120KiB" is above max_bytes "64KiB"'),
        ({"commands": {"keys": {"k": {"public": "c2VjcmV0"}}}}, "32 bytes in base64url"),
        ({"commands": {"keys": {"k": {"public": "!" * 43}}}}, "32 bytes in base64url"),
    ],
)
def test_what_belongs_together_is_checked(data: dict[str, Any], words: str) -> None:
    """One key alone can be right and still not fit the others."""
    assert words in first_reason(data)


def test_what_fits_together_is_taken() -> None:
    """Certificates with plain brokers, a password without a name in MQTT 5, and keys in whatever spelling."""
    key = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    config = Config.model_validate(
        {
            "mqtt": {"tls": {"cert": "/c", "key": "/k", "alpn": ["mqtt"]}, "password_file": "p", "protocol": 5},
            "commands": {"keys": {"a": {"public": key}, "b": {"public": key + "="}, "c": {"public": key[:-1] + "p"}}},
        }
    )
    assert [entry.public for entry in config.commands.keys.values()] == [key] * 3
    assert (config.mqtt.protocol, config.mqtt.tls.alpn) == (5, ("mqtt",))


def test_nothing_can_be_changed() -> None:
    """Models are values."""
    with pytest.raises(ValidationError):
        Config().heartbeat.every = seconds(1)  # type: ignore[misc]


def test_a_dump_is_what_a_file_would_say() -> None:
    """Durations, sizes and brokers are written as people write them, and read back to the same configuration."""
    config = Config.model_validate({"device": {"id": "a"}, "mqtt": {"brokers": ["wss://h/x"]}})
    dump = config.model_dump(mode="json", exclude_none=True)
    assert (dump["heartbeat"]["every"], dump["outbox"]["max_bytes"]) == ("1m", "64MiB")
    assert dump["mqtt"]["brokers"] == ["wss://h:443/x"]
    assert Config.model_validate(dump) == config


def test_every_field_is_described() -> None:
    """One line each, for the schema and the reference."""
    waiting: list[Any] = [Config]
    while waiting:
        model = waiting.pop()
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
            waiting += [
                kind for kind in (field.annotation,) if isinstance(kind, type) and hasattr(kind, "model_fields")
            ]
