"""A folder kept within its limits: real files, and clocks that are right, wrong or unknown."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typing_extensions import override

from edge_agent.adapters.system_clock import SystemClock
from edge_agent.core.events import Stamp
from edge_agent.core.timebase import UtcNs, WallNs, seconds, utc_from_datetime
from edge_agent.errors import JobError
from edge_agent.jobs import prune as module
from edge_agent.jobs.prune import KIND
from tests.support.job_context import Published, context, run

NOW = utc_from_datetime(datetime(2027, 3, 1, tzinfo=UTC))
DAY = seconds(86_400)


class Known(SystemClock):
    """A clock that says what it is told."""

    def __init__(self, *, true: int = NOW, wall: int = NOW, known: bool = True) -> None:
        self.stamp = Stamp(UtcNs(true), "synced" if known else "unsynced")
        self.walls = WallNs(wall)

    @override
    def now(self) -> Stamp:
        return self.stamp

    @override
    def wall(self) -> WallNs:
        return self.walls


def put(folder: Path, name: str, *, age: int = 0, size: int = 10) -> Path:
    """Put a file in that was modified so long ago."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, ns=(NOW - age, NOW - age))
    return path


async def prune(folder: Path, clock: SystemClock | None = None, **options: Any) -> tuple[dict[str, Any], list[Any]]:  # noqa: ANN401
    """Prune a folder; return the summary, and what was published."""
    published = Published()
    tables = {"f": {"path": str(folder), "may": ["delete"]}}
    ctx = context(folder.parent, published, clock=clock or Known(), folders=tables)
    return await run(KIND, ctx, folder="f", **options), published.records


def names(folder: Path) -> list[str]:
    """Return what is left."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with five files, a day between each two, the first modified now."""
    for days in range(5):
        put(tmp_path / "f", f"{days}.log", age=days * DAY)
    return tmp_path / "f"


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({"max_files": 2}, ["0.log", "1.log"]),
        ({"max_files": 0}, []),
        ({"max_bytes": "35B"}, ["0.log", "1.log", "2.log"]),
        ({"max_age": "36h"}, ["0.log", "1.log"]),
        ({"max_age": "36h", "max_files": 1}, ["0.log"]),
        ({"max_age": "36h", "max_files": 4, "max_bytes": "1KiB"}, ["0.log", "1.log"]),
        ({"max_age": "30d", "max_files": 5, "max_bytes": "50B"}, [f"{days}.log" for days in range(5)]),
    ],
)
async def test_the_oldest_go_until_every_limit_is_kept(folder: Path, limits: dict[str, Any], kept: list[str]) -> None:
    """And it is said what went and what is left; nothing, if nothing went."""
    summary, records = await prune(folder, **limits)
    assert names(folder) == kept
    gone = 5 - len(kept)
    assert (summary["removed"], summary["removed_bytes"]) == (gone, gone * 10)
    assert (summary["files"], summary["bytes"]) == (len(kept), len(kept) * 10)
    assert summary["names"] == [f"{4 - days}.log" for days in range(gone)]
    assert records == ([summary] if gone else [])


async def test_a_dry_run_only_says_what_would_go(folder: Path) -> None:
    """In the same words."""
    summary, (record,) = await prune(folder, max_files=2, dry_run=True)
    assert len(names(folder)) == 5
    assert (summary["removed"], summary["files"], summary["dry_run"]) == (3, 2, True)
    assert record["names"] == ["4.log", "3.log", "2.log"]


async def test_only_files_that_match_count_and_go(folder: Path) -> None:
    """Hidden ones are none of them."""
    put(folder, "old.dat", age=100 * DAY)
    put(folder, ".keep", age=100 * DAY)
    await prune(folder, pattern="*.log", max_files=1)
    assert names(folder) == [".keep", "0.log", "old.dat"]
    await prune(folder, max_files=0)
    assert names(folder) == [".keep"]


async def test_nothing_outside_the_folder_is_touched(folder: Path) -> None:
    """No link is followed or removed, no folder entered."""
    precious = put(folder.parent, "precious", age=100 * DAY)
    (folder / "link").symlink_to(precious)
    (folder / "folder-link").symlink_to(folder.parent)
    put(folder / "below", "file", age=100 * DAY)
    os.mkfifo(folder / "fifo")
    await prune(folder, max_files=0, max_age="1d")
    assert names(folder) == ["below", "fifo", "folder-link", "link"]
    assert precious.exists()
    assert names(folder / "below") == ["file"]


# ---------------------------------------------------------------- clocks
@pytest.mark.parametrize(
    ("clock", "kept"),
    [
        pytest.param(Known(), 2, id="right"),
        pytest.param(Known(known=False), 5, id="unknown"),
        pytest.param(Known(true=NOW + 1000 * DAY), 2, id="true-time-ahead"),
        pytest.param(Known(wall=NOW + 1000 * DAY), 2, id="system-ahead"),
        pytest.param(Known(wall=NOW - 1000 * DAY), 5, id="system-behind"),
    ],
)
async def test_no_file_goes_for_its_age_by_a_wrong_clock(folder: Path, clock: Known, kept: int) -> None:
    """The earlier of both times counts, and only while true time is known; it is said if it is not."""
    summary, _ = await prune(folder, clock, max_age="36h")
    assert len(names(folder)) == kept
    assert summary["age_known"] == (clock.stamp.state == "synced")


async def test_other_limits_need_no_clock(folder: Path) -> None:
    """They go by the order alone."""
    await prune(folder, Known(known=False), max_age="36h", max_files=3)
    assert names(folder) == ["0.log", "1.log", "2.log"]


async def test_files_of_a_clock_that_was_never_set_are_not_old(folder: Path) -> None:
    """Nor are those from the future; those between them that are old go all the same."""
    for name, when in (("unset", 1000), ("y2k", 946_684_800_000_000_000 + 1), ("future", NOW + 1000 * DAY)):
        os.utime(put(folder, name), ns=(when, when))
    await prune(folder, max_age="36h")
    assert names(folder) == ["0.log", "1.log", "future", "unset", "y2k"]


# ---------------------------------------------------------------- trouble
async def test_a_folder_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    """It is named."""
    with pytest.raises(JobError, match=f"{tmp_path}/f: No such file or directory"):
        await prune(tmp_path / "f", max_files=1)


async def test_a_table_that_does_not_allow_it_is_a_failure(tmp_path: Path) -> None:
    """Reading alone is not enough."""
    ctx = context(tmp_path, folders={"f": {"path": str(tmp_path)}})
    with pytest.raises(JobError, match='add "delete"'):
        await run(KIND, ctx, folder="f", max_files=1)


async def test_what_cannot_be_removed_is_named_and_the_others_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that changes at the last moment, or has gone by itself, is no trouble."""
    real = os.unlink

    def unlink(name: str, *, dir_fd: int) -> None:
        if name == "3.log":
            raise PermissionError(1, "Operation not permitted")
        if name == "4.log":
            put(folder, "2.log")  # written anew
            real(folder / "1.log")
        real(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", unlink)
    with pytest.raises(JobError, match=r"1 files cannot be removed: 3.log: Operation not permitted"):
        await prune(folder, max_files=0)
    assert names(folder) == ["2.log", "3.log"]


async def test_a_run_removes_so_many_and_no_more(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest; the next one goes on."""
    monkeypatch.setattr(module, "MAX_REMOVED", 2)
    for left in (3, 1, 0):
        summary, _ = await prune(folder, max_files=0)
        assert (len(names(folder)), summary["files"]) == (left, left)


@pytest.mark.parametrize("options", [{}, {"max_files": -1}, {"max_age": "1s"}, {"max_bytes": 5}, {"pattern": "a/b"}])
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    """A limit is needed."""
    with pytest.raises(ValidationError):
        KIND.options.model_validate({"folder": "f"} | options)
