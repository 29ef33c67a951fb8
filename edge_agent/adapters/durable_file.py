"""Puts a file in its place: whole, and on the disk once it has its name."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def put_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Make a file, or replace it.

    Raises:
        OSError: it could not be written; what was there before still is.
    """
    unfinished = path.with_name(f".{path.name}")
    try:
        with unfinished.open("wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Return once a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
