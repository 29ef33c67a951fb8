"""Small disks."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.support.small_disk import ext4_loop, fail, fill, free_bytes, read_only, tmpfs, written_bytes

pytestmark = pytest.mark.root

MIB = 1 << 20
Disk = Callable[[Path, int], AbstractContextManager[Path]]


def _mounts() -> str:
    return Path("/proc/self/mounts").read_text()


def _write(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@pytest.mark.parametrize("disk", [tmpfs, ext4_loop])
def test_a_disk_is_empty_small_and_gone_afterwards(disk: Disk, tmp_path: Path) -> None:
    """It takes about what it was made for, then says ENOSPC, and leaves neither mount nor image."""
    with disk(tmp_path / "disk", 16 * MIB) as path:
        assert str(path) in _mounts()
        with pytest.raises(OSError, match="No space left") as caught:
            _write(path / "file", bytes(17 * MIB))
        assert caught.value.errno == errno.ENOSPC
        assert (path / "file").stat().st_size >= 10 * MIB
    assert str(tmp_path) not in _mounts()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("disk", [tmpfs, ext4_loop])
def test_another_program_fills_the_disk(disk: Disk, tmp_path: Path) -> None:
    """What it leaves is there and nothing more; afterwards the space is back."""
    with disk(tmp_path / "disk", 16 * MIB) as path:
        with fill(path, leave=256 * 1024):
            assert 256 * 1024 <= free_bytes(path) < 300 * 1024
            _write(path / "fits", bytes(200 * 1024))
            with pytest.raises(OSError, match="No space left"):
                _write(path / "too much", bytes(200 * 1024))
        _write(path / "again", bytes(MIB))
        with fill(path):
            assert free_bytes(path) <= 16 * 1024


@pytest.mark.parametrize("disk", [tmpfs, ext4_loop])
def test_a_disk_is_read_only_for_a_while(disk: Disk, tmp_path: Path) -> None:
    """Nothing can be opened for writing or removed, reading works; then all works again."""
    with disk(tmp_path / "disk", 16 * MIB) as path:
        _write(path / "file", b"before")
        with read_only(path):
            with pytest.raises(OSError, match="Read-only file system"):
                _write(path / "file", b"x")
            with pytest.raises(OSError, match="Read-only file system"):
                (path / "file").unlink()
            assert (path / "file").read_bytes() == b"before"
        _write(path / "file", b", after")
        assert (path / "file").read_bytes() == b"before, after"


def test_a_disk_fails_under_an_open_file(tmp_path: Path) -> None:
    """What was written before can be read; what is written now cannot be synced."""
    with ext4_loop(tmp_path / "disk", 16 * MIB) as path, (path / "file").open("wb", buffering=0) as file:
        file.write(b"before")
        os.fsync(file.fileno())
        fail(path)
        with pytest.raises(OSError, match="Read-only file system"):
            file.write(b"x")
        assert (path / "file").read_bytes().startswith(b"before")
    assert str(tmp_path) not in _mounts()


def test_written_bytes_are_those_of_the_device(tmp_path: Path) -> None:
    """They grow by what is synced, as often as it is, and a little for the filesystem."""
    with ext4_loop(tmp_path / "disk", 32 * MIB) as path:
        _write(path / "file", bytes(4096))
        begun = written_bytes(path)
        assert written_bytes(path) - begun <= 64 * 1024
        for _ in range(10):
            with (path / "file").open("r+b") as file:
                file.write(os.urandom(MIB))
                file.flush()
                os.fsync(file.fileno())
        assert 10 * MIB <= written_bytes(path) - begun < 11 * MIB


@pytest.mark.parametrize("disk", [tmpfs, ext4_loop])
def test_a_failure_leaves_no_disk(disk: Disk, tmp_path: Path) -> None:
    """An exception in the block, or a file that is still open, does not keep the mount."""
    with pytest.raises(ZeroDivisionError), disk(tmp_path / "disk", 16 * MIB):
        raise ZeroDivisionError
    assert str(tmp_path) not in _mounts()
    with pytest.raises(RuntimeError, match="busy"), disk(tmp_path / "disk", 16 * MIB) as path:
        left_open = (path / "file").open("wb")
    left_open.close()
    assert str(tmp_path) not in _mounts()


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without root, the right to mount or the programs the test is skipped, with the reason."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(pytest.skip.Exception, match="root"), tmpfs(tmp_path / "disk", MIB):
        pass
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(pytest.skip.Exception, match="does not mount"), tmpfs(tmp_path / "disk", -1):
        pass
    monkeypatch.setattr("shutil.which", lambda *_args, **_kwargs: None)
    with pytest.raises(pytest.skip.Exception, match="apt-get install e2fsprogs"), ext4_loop(tmp_path / "disk", MIB):
        pass
    assert list(tmp_path.iterdir()) == []
