"""Small filesystems of our own, that can be full, read-only or broken; all need root and are gone afterwards."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.support.brokers import missing, require

_SECTOR: Final = 512  # unit of the kernel's block statistics, whatever the device
_SECTORS_WRITTEN: Final = 6  # field of the kernel's block statistics
_BLOCK: Final = 4096


@contextlib.contextmanager
def tmpfs(path: Path, size: int) -> Iterator[Path]:
    """Mount an empty tmpfs of so many bytes on a new folder."""
    with _mounted(path, "-t", "tmpfs", "-o", f"size={size}", "none"):
        yield path


@contextlib.contextmanager
def ext4_loop(path: Path, size: int) -> Iterator[Path]:
    """Mount an empty ext4 of so many bytes on a new folder; its image lies beside it.

    Blocks are 4 KiB as on a real device, and nothing is reserved for root. Below 8 MiB ext4 has no journal.
    """
    mkfs = require("mkfs.ext4", "e2fsprogs")
    image = path.with_name(f"{path.name}.img")
    try:
        with image.open("xb") as file:
            file.truncate(size)
        now = "lazy_itable_init=0,lazy_journal_init=0"  # or the kernel goes on writing in the background
        _run(mkfs, "-q", "-F", "-m", "0", "-b", str(_BLOCK), "-E", now, str(image))
        with _mounted(path, "-t", "ext4", "-o", "loop,errors=remount-ro", str(image)):
            yield path
    finally:
        image.unlink(missing_ok=True)


@contextlib.contextmanager
def read_only(path: Path) -> Iterator[None]:
    """Remount a filesystem read-only while the block runs; no file may be open for writing."""
    _run("mount", "-o", "remount,ro", str(path))
    try:
        yield
    finally:
        _run("mount", "-o", "remount,rw", str(path))


def fail(path: Path) -> None:
    """Let the kernel find an ``ext4_loop`` damaged: read-only from now on, also for files that are open."""
    Path(f"/sys/fs/ext4/{_device(path).name}/trigger_fs_error").write_text("1")


@contextlib.contextmanager
def fill(path: Path, *, leave: int = 0) -> Iterator[Path]:
    """Be another program that takes all of a disk but so many bytes (whole blocks), while the block runs."""
    hog = path / "hog"
    try:
        with hog.open("xb", buffering=0) as file:
            full_at = -1
            while full_at < (full_at := file.tell()):  # a sync may free what the filesystem had kept for itself
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(_BLOCK))
                os.fsync(file.fileno())
            file.truncate(max(0, file.tell() - leave))
            os.fsync(file.fileno())
        yield hog
    finally:
        hog.unlink(missing_ok=True)


def free_bytes(path: Path) -> int:
    """Return how many bytes a disk has left."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def written_bytes(path: Path) -> int:
    """Return how many bytes have been written to the device below an ``ext4_loop``, after a sync of it."""
    _run("sync", "-f", str(path))
    return int((_device(path) / "stat").read_text().split()[_SECTORS_WRITTEN]) * _SECTOR


def _device(path: Path) -> Path:
    """Return where the kernel describes the device below a filesystem."""
    number = path.stat().st_dev
    return Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()


@contextlib.contextmanager
def _mounted(path: Path, *arguments: str) -> Iterator[None]:
    require("mount", "mount")
    if os.geteuid() != 0:
        missing("mounting needs root")
    path.mkdir()
    try:
        try:
            _run("mount", *arguments, str(path))
        except RuntimeError as error:  # root of a container, or no loop device
            missing(f"this machine does not mount: {error}")
        try:
            yield
        finally:
            _unmount(path)
    finally:
        path.rmdir()


def _unmount(path: Path) -> None:
    """Unmount; a filesystem that is still in use is taken away all the same, and reported."""
    try:
        _run("umount", str(path))
    except RuntimeError:
        _run("umount", "--lazy", str(path))
        raise


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
