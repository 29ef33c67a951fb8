"""Reading the store of an agent that does not run."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from edge_agent.adapters.store import Store
from edge_agent.adapters.store_copy import opened_copy
from edge_agent.core.batch import Batch
from edge_agent.core.records import Priority, Record, pack
from edge_agent.core.timebase import UtcNs
from edge_agent.errors import EdgeAgentError, StoreError


def record(seq: int) -> Record:
    """Return a record."""
    return Record(pack(Priority.NORMAL, seq), "data/x", b'{"n": 1}', seq, UtcNs(10**18))


def test_what_is_only_in_the_log_is_seen_too_and_nothing_changes(tmp_path: Path) -> None:
    """As a killed agent leaves it: the records stand in the WAL; the original's bytes stay as they are."""
    store = Store(tmp_path / "outbox.db", max_bytes=1 << 20, name="abc")
    store.commit(Batch(records=[record(1), record(2)]))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert before["outbox.db-wal"]
    with opened_copy(tmp_path) as copy:
        assert copy.facts.name == "abc"
        assert [one.seq for one in copy.peek(0, rows=10)[0]] == [1, 2]
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    store.close()


def test_a_folder_without_a_store_is_an_error_with_the_fix(tmp_path: Path) -> None:
    """It names the file."""
    with pytest.raises(EdgeAgentError, match=r"outbox\.db cannot be read.*state\.dir"), opened_copy(tmp_path):
        pass


def test_a_store_beyond_reading_is_an_error(tmp_path: Path) -> None:
    """Not a traceback."""
    (tmp_path / "outbox.db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(StoreError), contextlib.ExitStack() as stack:
        stack.enter_context(opened_copy(tmp_path))
