"""What configuration from the cloud may say."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.config import HostFacts, Loaded, parse
from edge_agent.core.config_document import Source, Table
from edge_agent.core.config_remote import MAX_DESIRED_BYTES, MAX_VERSION, Desired, admit, parse_desired, parse_payload
from edge_agent.core.config_types import NAME_PATTERN
from edge_agent.core.timebase import seconds
from edge_agent.errors import ConfigError
from edge_agent.jobs import kinds
from tests.support.configurations import documents, tables

FACTS: Final = HostFacts(machine_id="0123456789abcdef0123456789abcdef")
KINDS: Final = kinds()
SECTIONS: Final = ("heartbeat", "jobs", "log", "metrics", "mqtt", "outbox", "runner", "time")
LOCAL: Final = """
device.id = "dev-1"
config.remote = ["heartbeat", "jobs", "log", "metrics", "mqtt", "outbox", "runner", "time"]
mqtt = {brokers = ["mqtts://broker"], username = "u", password_file = "/pw", tls = {ca = "/ca.pem"}}
metrics.listen = "/run/metrics.sock"
programs.sync.argv = ["/bin/true"]
folders.spool = {path = "/spool", may = ["read", "delete"]}
folders.kept = {path = "/kept"}
endpoints.near.url = "http://192.0.2.1/"
jobs.tail = {kind = "files", every = "1m", options = {folder = "/var/log"}}
jobs.grow = {kind = "files", every = "1m", options = {folder = "kept", mode = "tail"}}
jobs.spool = {kind = "files", every = "1m", options = {folder = "spool"}}
jobs.ask = {kind = "http", every = "1m", options = {endpoint = "http://192.0.2.2/?key=s3cret"}}
"""
OPENED: Final = 'config.remote = ["heartbeat", "jobs", "log", "outbox"]'


def under(said: dict[str, Any], local: str = LOCAL) -> Loaded:
    """Return the configuration with what the cloud says over the files."""
    return parse([Source("a.toml", local.encode())], FACTS, kinds=KINDS, desired=Desired(3, said))


def refused(said: dict[str, Any], local: str = LOCAL) -> dict[str, str]:
    """Return why the cloud may not say that, by key."""
    with pytest.raises(ConfigError) as bad:
        under(said, local)
    assert {problem.file for problem in bad.value.problems} <= {"cloud version 3", "a.toml"}
    assert "s3cret" not in str(bad.value)
    return {problem.key: problem.reason for problem in bad.value.problems}


# ---------------------------------------------------------------- what arrives
@pytest.mark.parametrize(
    ("said", "key"),
    [
        ({}, "version"),
        ({"version": 0, "config": {}}, "version"),
        ({"version": -1, "config": {}}, "version"),
        ({"version": True, "config": {}}, "version"),
        ({"version": 1.0, "config": {}}, "version"),
        ({"version": "1", "config": {}}, "version"),
        ({"version": MAX_VERSION + 1, "config": {}}, "version"),
        ({"version": 1}, "config"),
        ({"version": 1, "config": None}, "config"),
        ({"version": 1, "config": []}, "config"),
        ({"version": 1, "config": {"a": {"b": [1 << 63]}}}, "a.b[0]"),
        ({"version": 1, "config": {"x": [1e15] * (1 << 14)}}, "config"),
    ],
)
def test_a_configuration_has_a_version_and_a_table(said: dict[str, Any], key: str) -> None:
    """Numbers that not every parser takes are none; what would not be read again from disk is not taken."""
    with pytest.raises(ConfigError) as bad:
        parse_desired(said)
    assert [problem.key for problem in bad.value.problems] == [key]


def test_what_else_is_said_beside_it_does_not_matter() -> None:
    """A newer fleet tool may say more."""
    assert parse_desired({"version": MAX_VERSION, "config": {}, "note": 1}) == Desired(MAX_VERSION, {})


@pytest.mark.parametrize(
    "payload",
    [b"", b"[", b"[]", b"null", b"5", b'"x"', b"\xff", b"{" * 5000, b"[" * 5000, b'{"a":1} {}', b"NaN", b'{"a":1e999}'],
)
def test_what_is_no_object_is_refused(payload: bytes) -> None:
    """With a reason in plain words."""
    with pytest.raises(ValueError, match=r"^(no JSON: |an object like)"):
        parse_payload(payload)


def test_size_is_judged_before_anything_is_read() -> None:
    """One byte more than a file may have."""
    whole = b'{"x":"' + b"x" * (MAX_DESIRED_BYTES - 8) + b'"}'
    assert len(whole) == MAX_DESIRED_BYTES
    assert parse_payload(whole)
    with pytest.raises(ValueError, match="bytes; 131072 are allowed"):
        parse_payload(whole + b" ")


@given(
    st.binary()
    | st.text().map(str.encode)
    | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(repr).map(str.encode)
)
def test_whatever_arrives_nothing_but_a_reason_comes_out(payload: bytes) -> None:
    """One of two kinds of error, or a configuration."""
    try:
        parse_desired(parse_payload(payload))
    except (ValueError, ConfigError) as error:
        said = str(error)
    else:
        said = "taken"
    assert said.isprintable()


def test_depth_and_repeated_keys_are_judged() -> None:
    """16 levels are worked with; of a key that is said twice the last counts."""
    deep: Any = 1
    for _ in range(15):
        deep = {"a": deep}
    assert parse_desired({"version": 1, "config": {"a": deep}}).version == 1
    with pytest.raises(ConfigError, match="levels are allowed"):
        parse_desired({"version": 1, "config": {"a": {"a": deep}}})
    twice = parse_payload(b'{"version": 1, "config": {"heartbeat": {"every": "1s"}, "heartbeat": {"every": "2s"}}}')
    assert parse_desired(twice).config == {"heartbeat": {"every": "2s"}}


# ---------------------------------------------------------------- what is taken
def test_it_lies_over_the_files_key_by_key() -> None:
    """What it does not say stays; what it unsets is as if the files did not say it."""
    loaded = under({"jobs": {"spool": {"every": "5m"}, "new": {"kind": "system", "every": "1h"}}, "metrics": None})
    assert (loaded.version, loaded.ignored) == (3, ())
    assert loaded.cloud_jobs == {"spool", "new"}
    spool = loaded.config.jobs["spool"]
    assert (spool.every, spool.options) == (seconds(300), {"folder": "spool"})
    assert loaded.config.metrics.listen is None
    assert loaded.origins["jobs", "spool", "every"] == "cloud version 3"
    assert loaded.origins["jobs", "spool", "kind"] == "a.toml"


def test_null_unsets_whatever_stands_below_it() -> None:
    """A key, a job, all the options of one, a section; also where nothing stands, and however deep it is said."""
    assert "tail" not in under({"jobs": {"tail": None}}).config.jobs
    assert under({"jobs": {"tail": None}}).cloud_jobs == {"tail"}
    assert under({"jobs": None}).config.jobs == {}
    assert under({"heartbeat": None, "log": {"level": None}}).config == under({}).config
    nothing = {"x": None, "spool": {"breaker": None, "retry": {"attempts": None}}}
    assert under({"jobs": nothing}).config == under({}).config
    pruned = {"kind": "prune", "options": {"folder": "spool", "mode": None, "max_files": 9}}
    assert under({"jobs": {"grow": pruned}}).config.jobs["grow"].options == {"folder": "spool", "max_files": 9}
    unset = refused({"jobs": {"spool": {"options": None}}})
    assert list(unset) == ["jobs.spool.options.folder"]
    assert refused({"jobs": {"spool": {"kind": None}}}).keys() == {"jobs.spool.kind"}


def test_keys_that_are_not_known_are_left_out_and_named() -> None:
    """At any depth, also options of a kind that is known; where keys are free, all are taken."""
    said = {
        "moon": {"x": 1},
        "heartbeat": {"every": "2s", "colour": None},
        "jobs": {"spool": {"retry": {"jitter": 1}, "breaker": {"x": {}}, "options": {"folder": "spool", "hue": [1]}}},
        "outbox": {"max_bytes": "1GiB", "": 5},
    }
    loaded = under(said)
    assert set(loaded.ignored) == {
        *("moon", "heartbeat.colour", 'outbox.""', "jobs.spool.retry.jitter", "jobs.spool.breaker.x"),
        "jobs.spool.options.hue",
    }
    assert loaded.config.jobs["spool"].options == {"folder": "spool"}


def test_options_of_an_unknown_kind_are_no_reason_to_fail_before_the_kind() -> None:
    """The kind is what is wrong."""
    assert refused({"jobs": {"j": {"kind": "moon", "every": "1m", "options": {"x": 1}}}}).keys() == {"jobs.j.kind"}
    assert refused({"jobs": {"j": {"kind": 5, "every": "1m", "options": {"x": 1}}}}).keys() == {"jobs.j.kind"}
    assert refused({"jobs": {"j": 5}, "heartbeat": [], "runner": 1}).keys() == {"jobs.j", "heartbeat", "runner"}


# ---------------------------------------------------------------- what is the local files' alone
@pytest.mark.parametrize(
    "section", ["programs", "folders", "endpoints", "commands", "control", "config", "state", "api", "operator"]
)
def test_what_no_file_can_open_is_never_taken(section: str) -> None:
    """Whatever is said of it."""
    for said in ({}, None, 5, {"x": {"argv": ["/bin/sh"], "path": "/", "url": "http://x"}}):
        assert "not open to the cloud" in refused({section: said})[section]


@pytest.mark.parametrize("said", [{"version": 1}, {"profile": "metered"}, {"profile": None}, {"device": {"id": "x"}}])
def test_who_the_device_is_and_its_profile_are_not_taken(said: dict[str, Any]) -> None:
    """Nor the version of the form."""
    assert "not open" in refused(said)[next(iter(said))]


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_is_open_where_a_file_opens_it(section: str) -> None:
    """Four are by default; an empty list closes all."""
    admitted = admit(Desired(1, {section: {}}), {}, KINDS)
    assert (admitted.wrong == []) == (section in ("heartbeat", "jobs", "log", "outbox"))
    assert admit(Desired(1, {section: {}}), {"config": {"remote": [section]}}, KINDS).wrong == []
    for nothing in ([], "heartbeat", 5, [5]):
        wrong = admit(Desired(1, {section: {}}), {"config": {"remote": nothing}}, KINDS).wrong
        assert wrong == [((section,), "not open to the cloud; config.remote opens nothing")]


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ({"username": "x"}, "mqtt.username"),
        ({"username": None}, "mqtt.username"),
        ({"password_file": "/etc/shadow"}, "mqtt.password_file"),
        ({"tls": {"ca": None}}, "mqtt.tls"),
        ({"tls": None}, "mqtt.tls"),
        (None, "mqtt"),
        ([], "mqtt"),
    ],
)
def test_of_an_open_section_the_secrets_stay_local(said: object, key: str) -> None:
    """They are neither set nor unset, not even with all that is beside them."""
    assert "only local files may say" in refused({"mqtt": said})[key]


def test_a_path_of_a_socket_is_local_and_an_address_is_not() -> None:
    """Prometheus may be served where the cloud says, but not on a file of its choice."""
    assert under({"metrics": {"listen": "127.0.0.1:9464"}}).config.metrics.listen == "127.0.0.1:9464"
    assert "only local" in refused({"metrics": {"listen": "/etc/cron.d/x"}})["metrics.listen"]


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ({"tail": {"kind": "prune", "options": {"max_files": 0}}}, "jobs.tail.options.folder"),
        ({"tail": {"kind": "prune", "options": {"max_files": 0, "pattern": None}}}, "jobs.tail.options.folder"),
        ({"tail": {"options": {"mode": "spool"}}}, "jobs.tail.options.folder"),
        ({"tail": {"kind": "files"}}, "jobs.tail.options.folder"),
        ({"tail": {"options": {}}}, "jobs.tail.options.folder"),
        ({"ask": {"options": {"max_bytes": "1B"}}}, "jobs.ask.options.endpoint"),
        ({"x": {"kind": "prune", "every": "1m", "options": {"folder": "/", "max_files": 0}}}, "jobs.x.options.folder"),
        ({"x": {"kind": "http", "every": "1m", "options": {"endpoint": "http://x"}}}, "jobs.x.options.endpoint"),
        ({"x": {"kind": "exec", "every": "1m", "options": {"program": "/bin/sh"}}}, "jobs.x.options.program"),
        ({"x": {"kind": "exec", "every": "1m", "options": {"program": "sh"}}}, "jobs.x.options.program"),
        (
            {"x": {"kind": "prune", "every": "1m", "options": {"folder": "kept", "max_files": 0}}},
            "jobs.x.options.folder",
        ),
    ],
)
def test_a_path_or_url_in_a_job_never_comes_from_afar(said: dict[str, Any], key: str) -> None:
    """Least of all one that a file has said for something else: read logs must not become deleted ones."""
    assert key in refused({"jobs": said})


def test_when_a_local_job_runs_may_come_from_afar() -> None:
    """As long as nothing is said of what it does, it keeps its path."""
    loaded = under({"jobs": {"tail": {"every": "5m", "enabled": False}}})
    assert loaded.config.jobs["tail"].options["folder"] == "/var/log"
    assert loaded.cloud_jobs == {"tail"}


# ---------------------------------------------------------------- whatever it says
LITERALS: Final = st.sampled_from(["/", "/var/log", "http://x/", "spool", "near", "sync", "kept", 5, None, "a/b"])
OPTIONS: Final = st.dictionaries(
    st.sampled_from(["folder", "endpoint", "program", "mode", "max_files", "x"]), LITERALS, max_size=3
)
JOBS: Final = st.dictionaries(
    st.sampled_from(["tail", "spool", "ask", "new"]),
    st.none()
    | st.fixed_dictionaries(
        {},
        optional={
            "kind": st.sampled_from(["files", "prune", "exec", "http", "system", None]),
            "every": st.sampled_from(["1m", None]),
            "options": OPTIONS | st.none(),
        },
    ),
    max_size=3,
)
OPEN: Final = st.lists(st.sampled_from(SECTIONS), unique=True)


def with_nulls(table: Table, draw: st.DrawFn) -> Table:
    """Return a table in which some values are null."""
    return {
        key: None if draw(st.integers(0, 9)) == 0 else with_nulls(value, draw) if isinstance(value, dict) else value
        for key, value in table.items()
    }


@st.composite
def said(draw: st.DrawFn) -> Table:
    """Return what the cloud may say: anything that a file may, with nulls in it, and jobs of which some are bad."""
    whole = draw(st.just({}) | documents())
    chosen = draw(st.sets(st.sampled_from(sorted(whole)))) if whole else set()
    document = with_nulls({key: whole[key] for key in chosen}, draw)
    return document | ({"jobs": draw(JOBS)} if draw(st.booleans()) else {})


@given(said(), OPEN)
def test_whatever_it_says_what_is_taken_lies_in_what_the_files_open(document: Table, opened: list[str]) -> None:
    """And holds nothing that is theirs alone; what is not taken is wrong, or named as not known."""
    admitted = admit(Desired(1, document), {"config": {"remote": opened}}, KINDS)
    if admitted.wrong:
        return
    assert set(admitted.layer.table) <= set(opened)
    mqtt = admitted.layer.table.get("mqtt", {})
    assert not {"username", "password_file", "tls"} & mqtt.keys()
    assert set(document) <= set(admitted.layer.table) | {path[0] for path in admitted.ignored}
    json.dumps(admitted.layer.table)


@given(said())
def test_whatever_it_says_local_things_stay_as_they_are(document: Table) -> None:
    """Where all is open that can be, and the whole of it is valid; no job that it has defined has a path or a URL."""
    try:
        loaded = under(document)
    except ConfigError:
        return
    local, config = under({}).config, loaded.config
    for section in ("device", "programs", "folders", "endpoints", "commands", "control", "config", "state", "api"):
        assert getattr(config, section) == getattr(local, section)
    for key in ("username", "password_file", "tls"):
        assert getattr(config.mqtt, key) == getattr(local.mqtt, key)
    assert config.metrics.listen == local.metrics.listen or not str(config.metrics.listen).startswith("/")
    for name, job in config.jobs.items():
        by_cloud = (document.get("jobs") or {}).get(name) or {}
        options = job.options
        if "kind" in by_cloud or "options" in by_cloud:
            named = [options[key] for key in ("folder", "endpoint", "program") if key in options]
            assert job.kind == "system" or all(re.fullmatch(NAME_PATTERN, str(one)) for one in named)
        elif name in local.jobs:
            assert (job.kind, options) == (local.jobs[name].kind, local.jobs[name].options)


@given(tables(type(under({}).config.heartbeat)), st.sampled_from(["", OPENED]))
def test_what_a_file_may_say_the_cloud_may_say_of_an_open_section(heartbeat: Table, local: str) -> None:
    """To the same effect as in a later file."""
    over = under({"heartbeat": heartbeat}, local).config
    files = [Source("a.toml", local.encode()), Source("b.toml", tomli_w.dumps({"heartbeat": heartbeat}).encode())]
    assert over == parse(files, FACTS, kinds=KINDS).config
