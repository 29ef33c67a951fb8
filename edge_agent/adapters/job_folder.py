"""Removes what a job has kept in the folder of its own, when it is deleted."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from edge_agent.adapters.threads import in_daemon_thread

log = logging.getLogger(__name__)


async def remove_folder(folder: Path) -> None:
    """Remove a job's folder; it is gone at once, and a job that gets the name has an empty one.

    What cannot be removed is logged.
    """
    gone = folder.with_name(f".{folder.name}")  # no job has such a name
    await in_daemon_thread(lambda: _remove(folder, gone), name="job-folder", late=lambda: None)


def _remove(folder: Path, gone: Path) -> None:
    import shutil  # noqa: PLC0415  # 0.3 MiB that few need

    try:
        with suppress(FileNotFoundError):
            shutil.rmtree(gone)  # what a crash has left
        with suppress(FileNotFoundError):
            folder.rename(gone)
            shutil.rmtree(gone)
    except OSError as error:
        log.warning("job_folder_left", extra={"folder": str(folder), "error": error.strerror})
