"""The tables, and the settings without which they would not be durable."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.adapters.store_schema import MIGRATIONS, PAGE_SIZE, connect, set_limit
from edge_agent.errors import StoreError


def test_a_store_is_made_with_every_migration_once(tmp_path: Path) -> None:
    """Opening it again changes nothing."""
    for _ in range(2):
        db = connect(tmp_path / "outbox.db")
        assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        names = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert names == {"meta", "q", "gap", "dead", "seen", "note"}
        db.close()


def test_a_setting_that_is_not_to_be_had_is_named() -> None:
    """A database in memory cannot have a log: it is refused rather than used without."""
    with pytest.raises(StoreError, match="journal_mode is 'memory', and 'wal' is needed"):
        connect(Path(":memory:"))


def test_the_file_grows_no_further_than_the_lower_limit(tmp_path: Path) -> None:
    """A quarter above the room for records and what is beside them, or what the disk allows."""
    db = connect(tmp_path / "outbox.db")
    for most, expected in ((1 << 40, (5 << 20) + (4 << 20)), (1 << 20, 1 << 20)):
        set_limit(db, 4 << 20, most=most)
        assert db.execute("PRAGMA max_page_count").fetchone()[0] * PAGE_SIZE == expected
    db.close()
