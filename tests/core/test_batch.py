"""What a batch says of itself."""

from __future__ import annotations

import pytest

from edge_agent.core.batch import Batch, Dropped
from edge_agent.core.records import Gap, Record
from edge_agent.core.timebase import UtcNs

RECORD = Record(1, "data/x", b"{}", 0, UtcNs(0))


@pytest.mark.parametrize(
    ("batch", "empty", "durable"),
    [
        (Batch(), True, False),
        (Batch(shed=True, keep={}), True, False),
        (Batch(deletes=[(1, 2)]), False, False),
        (Batch(gone=[1]), False, False),
        (Batch(records=[RECORD]), False, True),
        (Batch(meta={"age": 1}), False, True),
        (Batch(doomed={"expired": [1]}), False, True),
        (Batch(gaps=[Gap("a-bulk", 1, 1, 1, "full")]), False, True),
        (Batch(seen=[(b"k", "a-bulk.1")]), False, True),
    ],
)
def test_only_deletions_need_not_reach_the_disk_at_once(batch: Batch, empty: bool, durable: bool) -> None:  # noqa: FBT001
    """After a power cut they are repeated; everything else was promised."""
    assert batch.is_empty() is empty
    assert batch.is_durable() is durable


def test_a_range_counts_both_its_ends() -> None:
    """One key is one record."""
    assert Dropped(5, 5, "full").count == 1
    assert Dropped(5, 9, "full").count == 5
