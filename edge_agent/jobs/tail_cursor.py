"""How far the files of a tail were read, kept so that a crash neither loses nor doubles a line.

A pass is written down before its records are handed in. After a crash it is done again, with the same records under
the same keys, and the outbox drops those that it has. The name of the file says whether the pass is still to be ended:
renaming it ends the pass without a second flush to the disk.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson

from edge_agent.errors import JobError

MAX_BYTES: Final = 4 << 20
_BEGUN: Final = "tail-begun.json"
_ENDED: Final = "tail.json"


@dataclass(frozen=True, slots=True)
class Place:
    """How far a file was read.

    Attributes:
        serial: tells the file from all others of the job, before and after.
        inode: where it was last found.
        name: what it was called at first.
        start: bytes that were handed in before this pass.
        end: bytes that are handed in after it.
        mark: digest of what stands before ``end``, to know the file again.
    """

    serial: int
    inode: int
    name: str
    start: int = 0
    end: int = 0
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The places of all files.

    Attributes:
        places: of the files that are there.
        used: the highest serial.
        begun: whether the pass was begun, and perhaps not ended.
    """

    places: list[Place] = field(default_factory=list)
    used: int = 0
    begun: bool = False


def load(folder: Path) -> Cursor:
    """Return what was written down last; nothing, the first time.

    Raises:
        JobError: it is damaged.
    """
    for name in (_BEGUN, _ENDED):
        try:
            with (folder / name).open("rb") as file:
                saved = orjson.loads(file.read(MAX_BYTES))
            return Cursor([Place(*place) for place in saved["places"]], saved["used"], begun=name == _BEGUN)
        except FileNotFoundError:
            continue
        except (ValueError, TypeError, KeyError):
            raise JobError(
                f"{folder / name}: damaged; remove it to have the files sent again from their beginnings"
            ) from None
    return Cursor()


def begin(folder: Path, cursor: Cursor) -> None:
    """Write down a pass; when this returns, the disk has it."""
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f"{_BEGUN}~"
    with new.open("wb") as file:
        places = [[p.serial, p.inode, p.name, p.start, p.end, p.mark] for p in cursor.places]
        file.write(orjson.dumps({"used": cursor.used, "places": places}))
        file.flush()
        os.fsync(file.fileno())
    new.rename(folder / _BEGUN)
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def end(folder: Path) -> None:
    """Take note that all of the pass was handed in."""
    (folder / _BEGUN).rename(folder / _ENDED)
