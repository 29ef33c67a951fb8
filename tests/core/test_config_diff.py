"""The difference between two configurations."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.config import HostFacts, parse
from edge_agent.core.config_diff import MISSING, Change, Missing, apply, diff, dump
from edge_agent.core.config_document import Source, Table
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
