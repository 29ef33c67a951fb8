"""Tests of ``core/saved_clock.py``."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.saved_clock import MAX_SOURCES, SavedClock, read
from edge_agent.core.timebase import RawNs, UtcNs

SAVED = SavedClock("boot", RawNs(5), UtcNs(10**18), 1000, -3e-4, 1e-6, {"a": 5, "b": 7}, 9)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


DOCUMENT: dict[str, Any] = json.loads(SAVED.document())


def said(document: object) -> SavedClock | None:
    """Return what is read of anything that JSON can say."""
    return read(json.dumps(document).encode())


def test_what_was_saved_is_read() -> None:
    """Through JSON, exactly, in few bytes; not too many with as many sources as there may be."""
    assert read(SAVED.document()) == SAVED
    many = {f"{number:0250}": (1 << 62) - 1 for number in range(MAX_SOURCES)}
    assert len(SAVED.document()) < 300
    assert len(json.dumps(DOCUMENT | {"delays_ns": many})) < 5000


@pytest.mark.parametrize("key", list(DOCUMENT))
@given(value=JSON)
def test_a_damaged_value_makes_it_void_or_is_a_valid_one(key: str, value: Any) -> None:  # noqa: ANN401  # any JSON
    """Never an error, never something absurd."""
    found = said(DOCUMENT | {key: value})
    if found is not None:
        assert read(found.document()) == found
        assert abs(found.rate) <= 0.1
        assert found.raw >= 0


@pytest.mark.parametrize("key", ["boot", "raw", "utc", "error_ns", "rate", "rate_sigma"])
def test_a_missing_value_makes_it_void(key: str) -> None:
    """As does another version."""
    assert said({name: value for name, value in DOCUMENT.items() if name != key}) is None
    assert said(DOCUMENT | {"version": 2}) is None


@given(JSON)
def test_anything_else_is_void(value: Any) -> None:  # noqa: ANN401  # any JSON
    """Whatever it is."""
    assert said(value) is None


@pytest.mark.parametrize(
    "change",
    [
        {"rate": float("nan")},
        {"rate": 0.2},
        {"error_ns": -1},
        {"slept_ns": -1},
        {"raw": 1 << 63},
        {"delays_ns": {"a": -1}},
    ],
)
def test_absurd_values_make_it_void(change: dict[str, object]) -> None:
    """They cannot have been saved."""
    assert said(DOCUMENT | change) is None
