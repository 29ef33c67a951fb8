"""Sees, delays and fails what a child process does to the files of one folder: a shim in C that the child preloads."""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.brokers import require


@functools.cache
def shim(source: Path) -> Path:
    """Build a shim, once per run, and return the library; skips the running test where there is no compiler."""
    compiler = require("gcc", "gcc libc6-dev")
    directory = Path(tempfile.mkdtemp(prefix=f"{source.stem}-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    library = directory / f"{source.stem}.so"
    subprocess.run(
        [compiler, "-O2", "-Wall", "-U_FORTIFY_SOURCE", "-shared", "-fPIC", "-o", library, source, "-ldl", "-lpthread"],
        check=True,
        timeout=120,
    )
    return library


@dataclass(frozen=True, slots=True)
class Iotrace:
    """The files below one folder.

    Attributes:
        directory: the folder; what is logged starts with it being empty.
    """

    directory: Path

    def environ(
        self,
        *,
        log: Path | None = None,
        sync_us: int = 0,
        stats: Path | None = None,
        write_fail: Path | None = None,
        sync_fail: Path | None = None,
    ) -> dict[str, str]:
        """Return what to add to the environment of a child.

        The child has to name the folder as ``directory.resolve()`` does: symbolic links in a path are not followed.

        Args:
            log: where every change and sync is logged, for ``power_cut``; a new file for each run.
            sync_us: microseconds that each fsync and fdatasync takes longer.
            stats: where the child leaves its counts when it ends: writes, bytes, syncs, changes (of names and sizes).
            write_fail: a switch for ``failing``: writes and allocations fail while it is on.
            sync_fail: a switch for ``failing``: fsync and fdatasync fail while it is on.
        """
        given = {"LOG": log, "STATS": stats, "WRITE_FAIL": write_fail, "SYNC_FAIL": sync_fail}
        return {
            "LD_PRELOAD": str(shim(Path(__file__).with_suffix(".c"))),
            "IOTRACE_DIR": str(self.directory.resolve()),
            "IOTRACE_SYNC_US": str(sync_us),
            **{f"IOTRACE_{name}": str(path.absolute()) for name, path in given.items() if path is not None},
        }


@contextlib.contextmanager
def failing(switch: Path, code: int = errno.EIO) -> Iterator[None]:
    """Make calls fail with an errno while the block runs.

    Args:
        switch: what ``environ`` was given as ``write_fail`` or ``sync_fail``.
        code: the errno.
    """
    switch.symlink_to(str(code))  # one system call: nobody sees a switch without its errno
    try:
        yield
    finally:
        switch.unlink()
