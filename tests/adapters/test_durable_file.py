"""Files that are whole once they are seen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_agent.adapters.durable_file import put_file


def test_a_file_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the disk before it has its name, and its name on the disk before it is said to be safe."""
    steps: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def synced(descriptor: int) -> None:
        steps.append(f"fsync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        steps.append(f"rename {self.name} {target.name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    before = os.umask(0o077)
    try:
        put_file(tmp_path / "1.json", b"{}", mode=0o644)
    finally:
        os.umask(before)
    assert steps == ["fsync .1.json", "rename .1.json 1.json", f"fsync {tmp_path.name}"]
    (file,) = tmp_path.iterdir()
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"{}", 0o644)


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is the caller's to report."""

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "1.json").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        put_file(tmp_path / "1.json", b"new")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]
