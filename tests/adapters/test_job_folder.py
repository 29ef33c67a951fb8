"""A deleted job's folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edge_agent.adapters.job_folder import remove_folder


async def test_it_is_gone_with_all_that_is_in_it(tmp_path: Path) -> None:
    """Also what a crash has left of an earlier one; where there is nothing, nothing happens."""
    for name in ("j", ".j", "other"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").write_text("x")
    await remove_folder(tmp_path / "j")
    await remove_folder(tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


async def test_what_cannot_be_removed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And is out of the way of the next job of that name."""
    (tmp_path / "j").mkdir()

    def fails(path: Path) -> None:
        if path.exists():
            raise OSError(30, "Read-only file system")

    monkeypatch.setattr(shutil, "rmtree", fails)
    await remove_folder(tmp_path / "j")
    assert not (tmp_path / "j").exists()
    assert [record.getMessage() for record in caplog.records] == ["job_folder_left"]
