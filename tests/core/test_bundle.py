"""What is too large is made to fit, and says what it has lost."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.bundle import fitted


def test_what_fits_is_left_as_it_is() -> None:
    """With nothing to say."""
    assert fitted({"a": [1, 2], "b": {"c": 3}}, 100) == {"a": [1, 2], "b": {"c": 3}, "cut": {}}


def test_the_largest_list_loses_its_oldest_entries() -> None:
    """Half of them at a time; nothing that was handed in is changed."""
    bundle = {"log": [f"line {n}" for n in range(100)], "tasks": ["task"] * 10}
    found = fitted(bundle, 700)
    assert found == {"log": bundle["log"][50:], "tasks": bundle["tasks"], "cut": {"log": "the first 50 of 100 entries"}}
    assert fitted(bundle, 400)["cut"] == {"log": "the first 75 of 100 entries"}
    assert len(bundle["log"]) == 100


def test_a_section_that_cannot_be_shortened_goes_as_a_whole() -> None:
    """The largest first."""
    found = fitted({"config": {"x": "y" * 1000}, "versions": {"a": "1"}}, 200)
    assert found == {"versions": {"a": "1"}, "cut": {"config": "all of it"}}


SECTIONS = st.one_of(
    st.lists(st.text(max_size=50), max_size=30),
    st.dictionaries(st.text(max_size=3), st.one_of(st.integers(0, 99), st.lists(st.text(max_size=30))), max_size=4),
    st.text(max_size=100),
)


@given(st.dictionaries(st.text(st.characters(codec="ascii"), min_size=1, max_size=8), SECTIONS, max_size=5))
def test_it_always_fits(bundle: dict[str, Any]) -> None:
    """However little room there is, what is said of the cuts aside."""
    bundle.pop("cut", None)
    found = fitted(bundle, 600)
    assert len(orjson.dumps(found)) <= 600
    assert set(bundle) == set(found) - {"cut"} | set(found["cut"]) | {n for n, part in bundle.items() if n in found}
