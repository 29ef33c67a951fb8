"""The kind ``prune``: keeps a folder within age, number and size by removing its oldest files.

Age is all that needs a clock, and files have the time of the operating system's, which may have been wrong when they
were written or be wrong now. So nothing is removed for its age while true time is not known, or when it lies in the
future, or when it was written before a clock that was never set would have been put right. Number and size need only
the order.
"""

from __future__ import annotations

import heapq
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Self

import orjson
from pydantic import Field, model_validator

from edge_agent.core.config_kinds import FolderName, Reference
from edge_agent.core.config_types import FileGlob, Section, duration, size
from edge_agent.core.timebase import DurationNs, utc_from_datetime
from edge_agent.errors import JobError
from edge_agent.job_ports import Context, Kind
from edge_agent.jobs.off_loop import off_loop
from edge_agent.ports import Clock

MAX_REMOVED: Final = 10_000
"""In one run: so many are in memory at once."""

MAX_NAMED: Final = 20
NEVER_SET: Final = utc_from_datetime(datetime(2010, 1, 1, tzinfo=UTC))
"""A clock that was never set is before this: it begins in 1970, 1980 or 2000."""


class Options(Section):
    """What is kept, and where."""

    folder: Annotated[FolderName, Reference("folders", lambda _options: ("delete",))] = Field(
        description="Name of a table below [folders] that allows to delete, or a path; its own folders are left alone."
    )
    pattern: FileGlob = Field("*", description="Names of the files; hidden ones only if it begins with a dot.")
    max_age: DurationNs | None = duration(None, "1m", "3650d", "Older files are removed")
    max_files: int | None = Field(None, ge=0, description="How many files are kept.")
    max_bytes: int | None = size(None, "0B", "1024GiB", "How much they may have together")
    dry_run: bool = Field(default=False, description="Only say what would be removed.")

    @model_validator(mode="after")
    def _limited(self) -> Self:
        if self.max_age is None and self.max_files is None and self.max_bytes is None:
            raise ValueError("one of max_age, max_files, max_bytes is needed")
        return self


@dataclass
class _Result:
    """What was removed, what is left of how many bytes, and what would not go."""

    dry_run: bool
    age_known: bool
    files: int = 0
    bytes: int = 0
    removed: int = 0
    removed_bytes: int = 0
    names: list[str] = field(default_factory=list)
    failed: int = 0


async def run(ctx: Context, options: Options) -> Mapping[str, object]:
    """Remove what is too much; publish it, if there was anything."""
    path = ctx.locals.folder(options.folder, "delete")
    oldest = None if options.max_age is None else _known(ctx.clock)
    if oldest is not None and options.max_age is not None:
        oldest -= options.max_age
    result, why = await off_loop(ctx, partial(_prune, path, options, oldest))
    if result.removed:
        await ctx.publish(orjson.dumps(result))
    if why:
        raise JobError(f"{result.failed} files cannot be removed: {why}; let the agent's user write in {path}")
    return asdict(result)


def _known(clock: Clock) -> int | None:
    """Return the earlier of true time and the operating system's; ``None`` while true time is not known."""
    stamp = clock.now()
    return min(stamp.time, clock.wall()) if stamp.state in ("synced", "holdover") else None


def _prune(path: Path, options: Options, oldest: int | None) -> tuple[_Result, str]:
    """Remove the oldest files until the rest is within the limits, and all that are older than ``oldest``.

    Returns:
        also why some could not be removed; empty = all could.
    """
    why = ""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        result = _Result(options.dry_run, age_known=options.max_age is None or oldest is not None)
        for modified, name, inode in _oldest(directory, options.pattern, result):
            too_old = oldest is not None and NEVER_SET <= modified < oldest
            too_many = options.max_files is not None and result.files > options.max_files
            too_much = options.max_bytes is not None and result.bytes > options.max_bytes
            if too_old or too_many or too_much:
                try:
                    _remove(directory, name, (modified, inode), result)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    result.failed += 1
                    why = why or f"{name}: {error.strerror}"
        return result, why
    finally:
        os.close(directory)


def _oldest(directory: int, pattern: str, result: _Result) -> list[tuple[int, str, int]]:
    """Return the oldest files: when each was modified, its name and inode; all of them are counted."""

    def files() -> Iterator[tuple[int, str, int]]:
        with os.scandir(directory) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    hidden = entry.name.startswith(".") and not pattern.startswith(".")
                    if stat.S_ISREG(status.st_mode) and fnmatchcase(entry.name, pattern) and not hidden:
                        result.files += 1
                        result.bytes += status.st_size
                        yield status.st_mtime_ns, entry.name, status.st_ino

    return heapq.nsmallest(MAX_REMOVED, files())


def _remove(directory: int, name: str, identity: tuple[int, int], result: _Result) -> None:
    status = os.lstat(name, dir_fd=directory)
    if (status.st_mtime_ns, status.st_ino) != identity:
        return
    if not result.dry_run:
        os.unlink(name, dir_fd=directory)
    result.removed += 1
    result.removed_bytes += status.st_size
    result.files -= 1
    result.bytes -= status.st_size
    if len(result.names) < MAX_NAMED:
        result.names.append(os.fsencode(name).decode(errors="backslashreplace"))


KIND: Final = Kind("prune", Options, run)
