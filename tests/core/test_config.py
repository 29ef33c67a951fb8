"""From bytes to a configuration, or to everything that is wrong."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge_agent.core.config import (
    CommonName,
    HostFacts,
    Loaded,
    derived_id,
    parse,
    stated_dir,
    stated_socket,
)
from edge_agent.core.config_document import Source
from edge_agent.core.config_models import Config
from edge_agent.core.config_remote import Desired
from edge_agent.core.timebase import seconds
from edge_agent.errors import ConfigError, ConfigProblem

FACTS = HostFacts(
    machine_id="0123456789abcdef0123456789abcdef", serial="S-7", mac="02:00:00:00:00:01", hostname="gw.local"
)


def load(*texts: str, facts: HostFacts = FACTS, common_name: CommonName | None = None) -> Loaded:
    """Parse texts as the files a.toml, b.toml and so on."""
    sources = [Source(f"{chr(97 + index)}.toml", text.encode()) for index, text in enumerate(texts)]
    return parse(sources, facts, common_name=common_name)


def test_what_is_needed_of_bad_files_is_taken_from_those_that_say_it() -> None:
    """Valid or not, the last counts; a file that is no TOML says nothing."""
    texts = ('[state]\ndir = "/a"\n[x]\n', "[", '[state]\ndir = "/b"\n[control]\nsocket = "s"\n')
    sources = [Source(str(number), text.encode()) for number, text in enumerate(texts)]
    assert stated_dir(sources) == "/b"
    assert stated_socket(sources) is None
    assert stated_dir([]) is stated_dir(ConfigError([ConfigProblem("x", "", "gone")])) is None


def problems_of(*texts: str, facts: HostFacts = FACTS) -> list[ConfigProblem]:
    """Return what is wrong with texts."""
    with pytest.raises(ConfigError) as bad:
        load(*texts, facts=facts)
    return bad.value.problems


JOB = '[jobs.j]\nkind = "system"\nevery = "1m"\n'

BAD = [
    ("hartbeat = 1", "hartbeat", "unknown key 'hartbeat'; did you mean 'heartbeat'?"),
    ('[heartbeat]\nevry = "5m"', "heartbeat.evry", "did you mean 'every'?"),
    ("[heartbeat]\nx = 1", "heartbeat.x", "unknown key 'x'; known here: every"),
    ("[mqtt.tls]\ncafile = 1", "mqtt.tls.cafile", "known here: ca, cert, key, alpn"),
    (JOB + "evry = 1", "jobs.j.evry", "did you mean 'every'?"),
    (JOB + "[jobs.j.breaker]\nfailure = 1", "jobs.j.breaker.failure", "did you mean 'failures'?"),
    ('"a\\nb" = 1', '"a\\nb"', "unknown key 'a\\nb'"),
    ("[programs.p]\nargs = []", "programs.p.argv", "this key is needed: an array of 1 to 256 entries, each a text"),
    ('[heartbeat]\nevery = "5x"', "heartbeat.every", 'found "5x"; a duration like "250ms", "30s", "5m", "1h30m" or'),
    ("[heartbeat]\nevery = 60", "heartbeat.every", 'found a number; a duration like "30s" in quotes is needed'),
    ('[heartbeat]\nevery = "1.5m"', "heartbeat.every", "no decimals"),
    ('[heartbeat]\nevery = "50ms"', "heartbeat.every", 'found "50ms"; 100ms to 1d is allowed'),
    ('[heartbeat]\nevery = "2d"', "heartbeat.every", "100ms to 1d is allowed"),
    ("heartbeat = 5", "heartbeat", "found a number; a table is needed"),
    ("[[heartbeat]]", "heartbeat", "found an array; a table is needed"),
    ("jobs = []", "jobs", "found an array; a table is needed"),
    ("version = 2", "version", "found 2; 1 is allowed"),
    ('version = "1"', "version", 'found "1"; 1 is allowed'),
    ('profile = "meterd"', "profile", 'found "meterd"; "metered" is allowed'),
    ('[mqtt]\nkeepalive = "1s"', "mqtt.keepalive", "5s to 18h is allowed"),
    ('[mqtt]\nkeepalive = "5500ms"', "mqtt.keepalive", "whole multiples of 1s"),
    ("[mqtt]\nbrokers = []", "mqtt.brokers", "found 0 entries; 1 to 16 are allowed"),
    ('[mqtt]\nbrokers = "mqtt://h"', "mqtt.brokers", "found a string; an array is needed"),
    ('[mqtt]\nbrokers = ["mqtt://h", "tcp://h"]', "mqtt.brokers[1]", 'found "tcp://h"; a URL like'),
    ('[mqtt]\nbrokers = ["mqtt://h:70000"]', "mqtt.brokers[0]", "port 1 to 65535"),
    ('[mqtt]\nbrokers = ["mqtt://u:hunter2@h"]', "mqtt.brokers[0]", "use username and password_file"),
    ('[mqtt]\nprotocol = "5"', "mqtt.protocol", 'found "5"; "auto", 5 or 4 is allowed'),
    ("[mqtt]\nprotocol = 2026-01-01", "mqtt.protocol", "found a date or time"),
    ('[mqtt]\nprefix = "/a"', "mqtt.prefix", 'found "/a"; a path of topic levels'),
    ('[mqtt]\nprefix = "a/#"', "mqtt.prefix", "topic levels"),
    ('[mqtt]\nprefix = "a/{name}"', "mqtt.prefix", '"{name}" is no placeholder; available: {id}'),
    ('[mqtt]\nusername = "{hostname}"', "mqtt.username", "available: {id}"),
    ('[device]\nid = "d"\n[mqtt]\nusername = "{{id}}"', "mqtt.username", '"{d}" is no placeholder; available: {id}'),
    ('[mqtt]\nclient_id = ""', "mqtt.client_id", "found 0 characters"),
    ('[mqtt]\npassword_file = "a/b"', "mqtt.password_file", "an absolute path or the name of a systemd credential"),
    ('[mqtt]\npassword_file = "p"', "mqtt", "password_file needs username"),
    ('[mqtt.tls]\ncert = "/c"', "mqtt.tls", "cert and key go together"),
    ('[mqtt.tls]\nca = "ca.pem"', "mqtt.tls.ca", "an absolute path"),
    ('[device]\nid = "_x"', "device.id", "no _ first"),
    ('[device]\nid = "a/b"', "device.id", 'found "a/b"; a name of 1 to 64 of A-Z a-z 0-9'),
    ('[device]\nid = "{hostname}"', "device.id", 'found "gw.local"; a name of 1 to 64 of'),
    ('[device]\nid = "{cert_cn}"', "device.id", '"{cert_cn}" is not known on this device; available: {machine_id}'),
    ('[device]\nid = "{uuid}"', "device.id", '"{uuid}" is no placeholder'),
    ("[device]\nid = 5", "device.id", "found a number; a name of 1 to 64 of A-Z a-z 0-9 _ : - (no _ first)"),
    ('[device]\ngroups = ["a b"]', "device.groups[0]", 'found "a b"; a name of 1 to 64'),
    ("[device.labels]\nsite = 5", "device.labels.site", "found a number; a text"),
    ("[device]\ngroups = " + str(["g"] * 33), "device.groups", "found 33 entries; at most 32 are allowed"),
    ("[outbox]\nrate = -1", "outbox.rate", "found -1; 0 to 100000 is allowed"),
    ("[outbox]\nbatch = 1001", "outbox.batch", "found 1001; 1 to 1000 is allowed"),
    ("[outbox]\nbatch = true", "outbox.batch", "found a boolean; a whole number is needed"),
    ("[outbox]\nbatch = 1.0", "outbox.batch", "found a decimal number; a whole number is needed"),
    ('[outbox]\nmax_bytes = "64MB"', "outbox.max_bytes", "no KB, MB"),
    ('[outbox]\nmax_bytes = "1KiB"', "outbox.max_bytes", 'found "1KiB"; 64KiB to 1024GiB is allowed'),
    ("[outbox]\nmax_bytes = 5", "outbox.max_bytes", 'a size like "64MiB" in quotes is needed'),
    ('[log]\nlevel = "inof"', "log.level", '"debug", "info", "warning" or "error" is allowed'),
    ('[time]\npoll_min = "20m"', "time", "above poll_max"),
    ('[time]\nservers = ["a b"]', "time.servers[0]", "a host or host:port"),
    ('[jobs."a b"]\nkind = "x"\nevery = "1m"', 'jobs."a b"', "a name of 1 to 64"),
    ('[jobs.j]\nkind = "x"', "jobs.j", "exactly one of every, cron, at, after is needed; found none"),
    (JOB + "at = 2026-12-01T00:00:00Z", "jobs.j.at", "found a date or time; a time like"),
    (JOB + 'cron = "* *"', "jobs.j.cron", "5 fields are needed"),
    (JOB + 'enabled = "yes"', "jobs.j.enabled", "found a string; true or false is needed"),
    (JOB + 'fallback = "k"\n[jobs.j.breaker]', "jobs.j.fallback", 'found "k"; the name of another job is needed'),
    (JOB + 'fallback = "j"\n[jobs.j.breaker]', "jobs.j.fallback", "another job"),
    ('[config]\nremote = ["programs"]', "config.remote[0]", 'found "programs"'),
    ('[metrics]\nlisten = "9464"', "metrics.listen", "host:port"),
    ('[endpoints.e]\nurl = "http://h/ x?token=hunter2"', "endpoints.e.url", "a URL like"),
    ('[commands.keys.k]\npublic = "hunter2"', "commands.keys.k.public", "32 bytes in base64url"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "key", "words"), BAD, ids=[f"{number:02}" for number in range(len(BAD))])
def test_a_bad_file_is_answered_with_file_key_and_reason(text: str, key: str, words: str) -> None:
    """The key is the one that is wrong, in the file that set it; no secret is repeated."""
    first = problems_of("", text)[0] if "argv" not in key else next(p for p in problems_of("", text) if p.key == key)
    assert (first.file, first.key) == ("b.toml", key)
    assert words in first.reason
    assert str(first).isprintable()
    assert "hunter2" not in str(first)


def test_every_problem_is_found_at_once_in_file_order() -> None:
    """Whoever repairs a file repairs it once."""
    found = problems_of(
        '[device]\nid = "{serial}{x}"\n[mqtt]\nprefix = "{y}"',
        '[log]\nlevel = 5\n[heartbeat]\nevry = "1m"',
        '[outbox]\nrate = -1\n[log]\nformat = "xml"',
    )
    assert [(problem.file, problem.key) for problem in found] == [
        ("a.toml", "device.id"),
        ("a.toml", "mqtt.prefix"),
        ("b.toml", "heartbeat.evry"),
        ("b.toml", "log.level"),
        ("c.toml", "outbox.rate"),
        ("c.toml", "log.format"),
    ]


def test_an_entry_of_a_list_is_complained_about_once() -> None:
    """A list whose only entry is wrong is not called too short as well."""
    assert [problem.key for problem in problems_of('[mqtt]\nbrokers = ["x"]')] == ["mqtt.brokers[0]"]


def test_a_later_file_wins_and_is_blamed() -> None:
    """Single keys replace, tables merge."""
    assert load('[heartbeat]\nevery = "1s"', '[heartbeat]\nevery = "2s"').config.heartbeat.every == seconds(2)
    assert problems_of('[heartbeat]\nevery = "1s"', '[heartbeat]\nevery = "x"')[0].file == "b.toml"


def test_what_no_file_set_is_blamed_on_the_main_file() -> None:
    """A host that knows nothing about itself needs an id from a person."""
    (problem,) = problems_of("", facts=HostFacts())
    assert (problem.file, problem.key) == ("a.toml", "device.id")
    assert "set device.id" in problem.reason
    with pytest.raises(ConfigError, match=r"set device\.id"):
        parse([], HostFacts())


def test_the_metered_profile_lies_under_the_single_keys() -> None:
    """It sets sparing defaults; what is written wins; nothing of it is called unused."""
    loaded = load('profile = "metered"\n[heartbeat]\nevery = "1m"')
    config = loaded.config
    assert (config.heartbeat.every, config.mqtt.keepalive, config.mqtt.will_delay) == tuple(
        map(seconds, (60, 1200, 60))
    )
    assert (config.outbox.batch, config.time.poll_min, config.time.poll_max) == (50, seconds(1024), seconds(129_600))
    assert load('profile = "metered"').config.heartbeat.every == seconds(900)
    assert loaded.unused == ()


def test_templates_are_filled_in() -> None:
    """The id from what the host knows, the rest from the id."""
    mqtt = '[mqtt]\nprefix = "p/{id}"\nusername = "u-{id}"\n'
    config = load(mqtt + '[device]\nid = "{serial}_{mac}"').config
    assert (config.device.id, config.mqtt.prefix) == ("S-7_02:00:00:00:00:01", "p/S-7_02:00:00:00:00:01")
    assert (config.mqtt.username, config.mqtt.client_id) == (f"u-{config.device.id}", config.device.id)


def test_a_certificate_is_read_only_if_the_template_asks() -> None:
    """The common name comes from the file that mqtt.tls.cert names."""
    asked: list[str] = []

    def common_name(path: str) -> str:
        asked.append(path)
        return "cn-1"

    tls = '[mqtt.tls]\ncert = "/c"\nkey = "/k"\n'
    assert load(tls, common_name=common_name).config.device.id.startswith("edge-")
    assert asked == []
    assert load(tls + '[device]\nid = "{cert_cn}"', common_name=common_name).config.device.id == "cn-1"
    assert asked == ["/c"]


def test_the_default_id_is_derived_and_not_the_machine_id() -> None:
    """It is stable, other on every host, and falls back to the MAC address."""
    assert FACTS.machine_id is not None
    first = load("").config.device.id
    assert first == derived_id(FACTS) == "edge-aa5ac73e7ce74fe9"  # a release must never change it
    assert first[5:] not in FACTS.machine_id
    by_mac = load("", facts=HostFacts(mac="02:00:00:00:00:01")).config.device.id
    assert re.fullmatch("edge-[0-9a-f]{16}", by_mac)
    assert by_mac != first


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    """It changes with a value and with nothing else."""
    one = load('[log]\nlevel = "debug"\n[device]\nid = "a"\nlabels = {x = "1", y = "2"}')
    two = load('[device]\nid = "a"\nlabels = {y = "2", x = "1"}\n', '[log]\nlevel = "debug"\n')
    assert re.fullmatch("[0-9a-f]{12}", one.digest)
    assert one.digest == two.digest != load('[device]\nid = "a"').digest
    assert one.config == two.config
    assert load(JOB + "[jobs.j.options]\nat = 2026-01-01\nx = [1.5, {y = 07:00:00}]").digest


def test_keys_whose_part_is_not_built_are_named() -> None:
    """Only those that a file sets."""
    text = JOB + '[time]\nfirst_sync_wait = "1m"\n[api]\nlisten = "127.0.0.1:8464"\n[log]\nlevel = "info"\n[runner]\n'
    assert load(text).unused == ("api.listen",)
    assert load('[device]\nid = "d"\nlabels = { a = "b" }\n[state]\ndir = "/x"\n').unused == ("device.labels",)


SECTIONS = st.sampled_from(list(Config.model_fields))
VALUES = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.floats(), st.text(), st.sampled_from(["{id}", "{x}", "1m", "64MiB"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)


def as_toml(value: Any) -> str:  # noqa: ANN401
    """Write a value as inline TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{as_toml(key)} = {as_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(char):08X}" for char in value) + '"'
    return str(value).lower()


@given(st.binary())
@example(b"a = " + b"[" * 100_000)
@example(b"a = " + b"[" * 5000)
@example(b"[" * 5000)
@example(b"a = " + b"{b = " * 5000)
@example(b"[" + b"a." * 400 + b"b]")
@example(b"a=" + b"9" * 5000)
@example(b"a" + b".a" * 5000)
def test_arbitrary_bytes_are_a_configuration_or_an_error(text: bytes) -> None:
    """No other exception comes out."""
    try:
        parse([Source("f", text)], FACTS)
    except ConfigError as bad:
        problems = bad.problems
    else:
        problems = []
    assert all(str(problem).isprintable() for problem in problems)


@given(
    st.dictionaries(SECTIONS, VALUES | st.dictionaries(st.sampled_from(["id", "prefix", "tls", "j", "every"]), VALUES))
)
def test_arbitrary_values_are_a_configuration_or_an_error(document: dict[str, Any]) -> None:
    """Whatever stands under a known key, every message is one line."""
    text = "\n".join(f"{key} = {as_toml(value)}" for key, value in document.items())
    try:
        parse([Source("f", text.encode(errors="replace"))], FACTS)
    except ConfigError as bad:
        problems = bad.problems
    else:
        problems = []
    assert all(str(problem).isprintable() for problem in problems)


# ---------------------------------------------------------------- what a restart alone changes
def edited(text: str, held: Loaded, *, desired: Desired | None = None) -> Loaded:
    """Return what a file comes to while something is in force."""
    return parse([Source("a.toml", text.encode())], FACTS, held=held.config, desired=desired)


def test_the_id_and_the_state_directory_stay_until_a_restart() -> None:
    """All else counts at once, and what follows from the id follows from the one that is held."""
    held = load('device.id = "one"\nstate.dir = "/one"')
    new = edited('device.id = "two"\nstate.dir = "/two"\nheartbeat.every = "5s"\nmqtt.prefix = "x/{id}"', held)
    assert new.pending == ("device.id", "state.dir")
    assert (new.config.device.id, new.config.state.dir) == ("one", "/one")
    assert (new.config.mqtt.client_id, new.config.mqtt.prefix) == ("one", "x/one")
    assert new.config.heartbeat.every == seconds(5)
    assert edited('device.id = "one"\nstate.dir = "/one"\n# x', new).pending == ()
    assert load('device.id = "two"').pending == ()


def test_what_is_no_longer_said_waits_for_a_restart_as_well() -> None:
    """Then the default holds, as it would have from the start."""
    gone = edited("", load('device.id = "one"\nstate.dir = "/one"'))
    assert gone.pending == ("device.id", "state.dir")
    assert (gone.config.device.id, gone.config.state.dir) == ("one", "/one")
    come = edited('state.dir = "/one"', load(""))
    assert (come.pending, come.config.state.dir) == (("state.dir",), None)
    assert edited("", load("")).pending == ()


def test_the_wait_for_time_is_of_the_start() -> None:
    """It has begun, or is over, when somebody changes it, be it the cloud."""
    held = load("")
    said = Desired(1, {"time": {"first_sync_wait": "2m", "poll_min": "32s"}})
    new = edited('config.remote = ["time"]', held, desired=said)
    assert new.pending == ("time.first_sync_wait",)
    assert new.config.time.first_sync_wait == held.config.time.first_sync_wait
    assert new.config.time.poll_min == seconds(32)


def test_only_what_waits_makes_no_other_configuration() -> None:
    """Its digest is that of what is in force."""
    held = load('device.id = "one"\nheartbeat.every = "5s"')
    new = edited('device.id = "two"\nheartbeat.every = "5s"', held)
    assert (new.digest, new.config, new.pending) == (held.digest, held.config, ("device.id",))


def test_a_bad_id_is_an_error_although_it_would_wait() -> None:
    """A restart must not find out."""
    with pytest.raises(ConfigError, match=r"device\.id"):
        edited('device.id = "_"', load('device.id = "one"'))


# ---------------------------------------------------------------- who says so
def test_each_key_has_the_layer_that_said_it_last() -> None:
    """A file, the profile, the cloud; what nobody says has none."""
    files = (
        'profile = "metered"\nheartbeat.every = "5s"\nlog.level = "debug"',
        'log = {level = "info", format = "json"}',
    )
    sources = [Source(name, text.encode()) for name, text in zip(("a.toml", "b.toml"), files, strict=True)]
    loaded = parse(sources, FACTS, desired=Desired(7, {"log": {"level": "error"}, "outbox": {"max_age": None}}))
    said = {path: loaded.origins.get(path) for path in (("heartbeat", "every"), ("log", "format"), ("log", "level"))}
    assert list(said.values()) == ["a.toml", "b.toml", "cloud version 7"]
    assert loaded.origins["mqtt", "keepalive"] == "profile metered"
    assert ("time", "host") not in loaded.origins
    problem = loaded.problem(("log", "level"), "why")
    assert (problem.file, problem.key, problem.reason) == ("cloud version 7", "log.level", "why")
    assert loaded.problem(("control", "group"), "why").file == "a.toml"


def test_what_the_cloud_says_is_blamed_on_it_after_the_files() -> None:
    """By its version; what both make wrong together, on the one that said it last."""
    desired = Desired(7, {"heartbeat": {"every": "1ms"}, "outbox": {"max_record": "1MiB"}})
    with pytest.raises(ConfigError) as bad:
        parse([Source("a.toml", b'outbox.max_bytes = "64KiB"\nx = 1')], FACTS, desired=desired)
    assert [(problem.file, problem.key) for problem in bad.value.problems] == [
        ("a.toml", "x"),
        ("cloud version 7", "outbox"),
        ("cloud version 7", "heartbeat.every"),
    ]


def test_what_the_cloud_says_is_in_what_is_loaded() -> None:
    """Its version, what was not known of it, the jobs of which it says something."""
    said = {"jobs": {"j": {"kind": "x", "every": "1m"}, "gone": None}, "moon": 1, "log": {"x": {"y": 1}}}
    loaded = parse([Source("a.toml", b"")], FACTS, desired=Desired(7, said))
    assert (loaded.version, loaded.ignored, loaded.cloud_jobs) == (7, ("moon", "log.x"), frozenset({"j", "gone"}))
    assert (load("").version, load("").ignored, load("").cloud_jobs) == (None, (), frozenset())
    assert parse([Source("a.toml", b"")], FACTS, desired=Desired(8, {})).digest == load("").digest
