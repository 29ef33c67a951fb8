"""The clock's file: replaced as a whole, and not believed when it is damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.adapters.clock_file import MAX_BYTES, ClockFile
from edge_agent.core.saved_clock import MAX_SOURCES, SavedClock
from edge_agent.core.timebase import RawNs, UtcNs

SAVED = SavedClock("boot", RawNs(5), UtcNs(10**18), 1000, -3e-4, 1e-6, {"a": 5})


async def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    """The newest, and nothing else is left in the folder."""
    file = ClockFile(tmp_path)
    assert file.load() == (None, None)
    await file.save(SAVED)
    await file.save(newer := SavedClock("boot", RawNs(6), UtcNs(10**18 + 1), 1, 0.0, 1e-6))
    assert ClockFile(tmp_path).load() == (newer, None)
    assert [path.name for path in tmp_path.iterdir()] == ["clock.json"]


async def test_the_longest_names_of_servers_have_room(tmp_path: Path) -> None:
    """As many as may be configured."""
    most = replace(SAVED, delays_ns={f"{number:0260}": 1 << 40 for number in range(MAX_SOURCES)})
    await ClockFile(tmp_path).save(most)
    assert ClockFile(tmp_path).load() == (most, None)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[]", b'{"version": 2}', b" " * (MAX_BYTES + 1), b"\0" * 200]
)
def test_a_damaged_one_is_not_used_and_said(tmp_path: Path, content: bytes) -> None:
    """A cold start, with the file's name in the log."""
    (tmp_path / "clock.json").write_bytes(content)
    found, problem = ClockFile(tmp_path).load()
    assert found is None
    assert problem is not None
    assert "clock.json" in problem


async def test_one_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    """Here: a folder stands where the new one would be written."""
    file = ClockFile(tmp_path)
    await file.save(SAVED)
    (tmp_path / ".clock.json").mkdir()
    with pytest.raises(OSError, match=r"\.clock\.json"):
        await file.save(SavedClock("other", RawNs(6), UtcNs(10**18), 1, 0.0, 1e-6))
    assert file.load() == (SAVED, None)


def test_one_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    """Here: it is a folder."""
    (tmp_path / "clock.json").mkdir()
    found, problem = ClockFile(tmp_path).load()
    assert found is None
    assert problem is not None
