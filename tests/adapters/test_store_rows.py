"""Records as rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.adapters.store import Store
from edge_agent.adapters.store_rows import from_row, to_row
from edge_agent.core.records import Record
from edge_agent.core.timebase import UtcNs
from edge_agent.errors import StoreError, StoreFault

RECORD = Record(7, "data/x", b'{"a":1}', 5, UtcNs(6), 1, 250, latest=True, extra='"subject":"y"')


def test_a_record_comes_back_as_it_was() -> None:
    """All that is stored of it."""
    found = from_row(to_row(RECORD))
    assert found is not None
    assert to_row(found) == to_row(RECORD)


@given(st.integers(0, 9), st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.text(), st.binary(), st.floats()))
def test_a_column_that_has_changed_is_noticed(column: int, value: object) -> None:
    """Whatever damage makes of it, the type, too."""
    row = list(to_row(RECORD))
    unchanged = type(row[column]) is type(value) and row[column] == value
    row[column] = value
    assert from_row(row) is None or unchanged or value == to_row(RECORD)[column]


def test_what_is_no_database_is_damage(tmp_path: Path) -> None:
    """It is told apart from a disk that fails."""
    (tmp_path / "outbox.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="file is not a database") as raised:
        Store(tmp_path / "outbox.db", max_bytes=1 << 20, name="a")
    assert raised.value.fault is StoreFault.DAMAGED
