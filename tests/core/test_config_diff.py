"""The difference between two configurations."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.config import HostFacts, parse
from edge_agent.core.config_diff import MAX_TOLD, MAX_VALUE, MISSING, Change, Missing, apply, diff, dump, shown
from edge_agent.core.config_document import Source, Table, dotted
from edge_agent.core.config_models import Config
from tests.support.configurations import documents

FACTS = HostFacts(machine_id="0123456789abcdef0123456789abcdef")
KEYS = st.sampled_from(["a", "b", "c"])
TREES = st.dictionaries(
    KEYS,
    st.recursive(
        st.sampled_from([0, 1, 1.0, True, False, "1", [], [1], [True], [{"a": 1}], [{}]]),
        lambda inner: st.dictionaries(KEYS, inner, max_size=3),
        max_leaves=8,
    ),
)


def exact(table: Any) -> str:  # noqa: ANN401
    """Return a table with its types, whatever the order of its keys."""
    return repr({key: exact(table[key]) for key in sorted(table)}) if isinstance(table, dict) else repr(table)


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ({"a": 1}, {"a": 2}, [(("a",), 1, 2)]),
        ({"a": 1}, {"a": True}, [(("a",), 1, True)]),
        ({"a": [1, 2]}, {"a": [2, 1]}, [(("a",), [1, 2], [2, 1])]),
        ({"z": 1}, {"t": {"b": 2, "a": 1}}, [(("t", "a"), MISSING, 1), (("t", "b"), MISSING, 2), (("z",), 1, MISSING)]),
        ({"t": {"a": {"b": 1}}}, {"t": {"a": {}}}, [(("t", "a"), MISSING, {}), (("t", "a", "b"), 1, MISSING)]),
        ({"t": {"a": {"b": 1}}}, {}, [(("t", "a", "b"), 1, MISSING)]),
        ({"t": {}}, {"t": 5}, [(("t",), {}, 5)]),
        ({"t": {"a": 1}}, {"t": 5}, [(("t",), MISSING, 5), (("t", "a"), 1, MISSING)]),
    ],
)
def test_each_leaf_that_differs_is_a_change(
    before: Table, after: Table, changes: list[tuple[tuple[str, ...], object | Missing, object | Missing]]
) -> None:
    """In the order of the paths, tables key by key, everything else whole."""
    assert [(change.path, change.before, change.after) for change in diff(before, after)] == changes


@given(TREES, TREES)
def test_a_difference_leads_from_one_to_the_other(before: Table, after: Table) -> None:
    """Both ways, to the very types, and what was given is left as it is."""
    kept = copy.deepcopy(before)
    changes = diff(before, after)
    assert exact(apply(before, changes)) == exact(after)
    back = [Change(change.path, change.after, change.before) for change in changes]
    assert exact(apply(after, back)) == exact(before)
    assert exact(before) == exact(kept)
    assert diff(before, copy.deepcopy(before)) == []
    assert changes == sorted(changes, key=lambda change: change.path)


@given(TREES, TREES, TREES)
def test_changes_hold_wherever_they_are_applied(before: Table, after: Table, other: Table) -> None:
    """Applied to a third table they set what they set, and doing so twice is doing so once."""
    changes = diff(before, after)
    once = apply(other, changes)
    assert exact(apply(once, changes)) == exact(once)


def test_a_changed_table_is_another_one() -> None:
    """Who changes the result changes neither what it came from nor the changes."""
    before: Table = {"t": {"a": 1}}
    changes = diff(before, {"t": {"a": 1, "b": {}}})
    changed = apply(before, changes)
    changed["t"]["b"]["c"] = 2
    assert before == {"t": {"a": 1}}
    assert changes == [Change(("t", "b"), MISSING, {})]


def test_a_dump_is_what_a_file_would_say() -> None:
    """Durations and sizes in words, defaults included, and nothing that is left open."""
    table = dump(Config.model_validate({"jobs": {"j": {"kind": "exec", "every": "90s", "options": {"x": [1]}}}}))
    assert (table["heartbeat"], table["outbox"]["max_bytes"]) == ({"every": "1m"}, "64MiB")
    assert table["jobs"]["j"]["every"] == "1m30s"
    assert table["jobs"]["j"]["options"] == {"x": [1]}
    assert "cron" not in table["jobs"]["j"]
    assert "None" not in repr(table)


@given(documents())
def test_a_dump_is_read_back_to_the_same_configuration(document: Table) -> None:
    """As the text of a file, for whatever the models take."""
    loaded = parse([Source("a.toml", tomli_w.dumps(document).encode())], FACTS)
    again = parse([Source("b.toml", tomli_w.dumps(dump(loaded.config)).encode())], FACTS)
    assert again.config == loaded.config
    assert again.digest == loaded.digest
    assert diff(dump(loaded.config), dump(again.config)) == []


# ---------------------------------------------------------------- what may be told
def config_of(**sections: Any) -> Config:  # noqa: ANN401  # as the file has them
    """Return a configuration."""
    return Config.model_validate(sections)


def test_a_change_is_shown_with_its_values_as_a_file_would_say_them() -> None:
    """``None`` where there is none; nothing where nothing differs."""
    job = {"kind": "system", "every": "90s"}
    changes = shown(config_of(heartbeat={"every": "60s"}), config_of(heartbeat={"every": "1m30s"}, jobs={"j": job}))
    assert {"key": "heartbeat.every", "before": "1m", "after": "1m30s"} in changes
    assert {"key": "jobs.j.every", "before": None, "after": "1m30s"} in changes
    assert shown(config_of(), config_of()) == []


def test_that_a_secret_has_changed_is_shown_and_not_the_secret() -> None:
    """Neither the old one nor the new one, whatever it is in."""

    def secrets(word: str) -> Config:
        return config_of(
            programs={"p": {"argv": ["/bin/x", word], "env": {"A": word}}},
            endpoints={"e": {"url": f"https://h/path?key={word}"}},
            jobs={"j": {"kind": "x", "every": "1m", "options": {"api_key": word, "deep": {"token": [word]}}}},
            mqtt={"username": "u", "password_file": word},
        )

    changes = shown(secrets("hunter2one"), secrets("hunter2two"))
    assert {change["key"] for change in changes} == {
        *("programs.p.argv", "programs.p.env.A", "endpoints.e.url", "mqtt.password_file"),
        *("jobs.j.options.api_key", "jobs.j.options.deep.token"),
    }
    assert "hunter2" not in repr(changes)


def test_of_a_long_value_its_length_is_shown_and_of_many_changes_their_number() -> None:
    """What is told has a bound."""
    short, long = "x" * (MAX_VALUE - 2), "x" * (MAX_VALUE - 1)
    for text, told in ((short, short), (long, f"{MAX_VALUE + 1} characters")):
        loaded = config_of(jobs={"j": {"kind": "x", "every": "1m", "options": {"a": text}}})
        changes = shown(config_of(jobs={"j": {"kind": "x", "every": "1m"}}), loaded)
        assert {"key": "jobs.j.options.a", "before": None, "after": told} in changes
    many = config_of(device={"labels": {}}, programs={f"p{n}": {"argv": ["/bin/x"]} for n in range(100)})
    changes = shown(config_of(), many)
    more = len(diff(dump(config_of()), dump(many))) - 1 - MAX_TOLD  # that there were no programs goes without saying
    assert (len(changes), changes[-1]) == (MAX_TOLD + 1, {"key": f"{more} more", "before": None, "after": None})


@given(documents(), documents())
def test_what_is_shown_is_json_of_a_bounded_size(before: Table, after: Table) -> None:
    """For whatever the models take; every change is one that there is."""
    configs = [
        parse([Source("a.toml", tomli_w.dumps(document).encode())], FACTS).config for document in (before, after)
    ]
    changes = shown(configs[0], configs[1])
    real = {dotted(change.path) for change in diff(dump(configs[0]), dump(configs[1]))}
    assert {change["key"] for change in changes[:MAX_TOLD]} <= real
    assert len(json.dumps(changes)) < 200_000
