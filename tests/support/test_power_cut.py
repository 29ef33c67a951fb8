"""States after a power cut: what a sync has promised is in each of them, and what none has promised is not in some."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.iotrace import Iotrace, failing
from tests.support.killing import Report, finished
from tests.support.power_cut import PowerCut, marker

ROWS = 60
Work = Callable[[Path], None]


def inserting(_report: Report, folder: str, *pragmas: str) -> None:
    """Insert rows one by one, and mark each that SQLite has promised."""
    mark = marker(Path(folder))
    with closing(_database(Path(folder), *pragmas)) as database:
        for row in range(ROWS):
            database.execute("INSERT INTO t VALUES(?, ?)", (row, bytes(1000)))
            mark(b"%d" % row)


def _database(folder: Path, *pragmas: str) -> sqlite3.Connection:
    database = sqlite3.connect(folder / "db", isolation_level=None)
    for pragma in pragmas:
        database.execute(f"PRAGMA {pragma}")
    database.execute("CREATE TABLE IF NOT EXISTS t(n INTEGER PRIMARY KEY, body BLOB)")
    return database


def _rows(folder: Path) -> set[int] | None:
    """Return the rows that are there; None for a database that cannot be read."""
    try:
        with closing(_database(folder)) as database:
            if database.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                return None
            return {row[0] for row in database.execute("SELECT n FROM t")}
    except sqlite3.DatabaseError:
        return None


def _losses(tmp_path: Path, states: int, *pragmas: str) -> tuple[int, int]:
    """Return how many of some states have lost a promised row or the database, and how many have an unpromised row."""
    folder, state, log = tmp_path / "traced", tmp_path / "state", tmp_path / "log"
    folder.mkdir()
    finished(inserting, folder, *pragmas, environ=Iotrace(folder).environ(log=log))
    cut = PowerCut.load(log)
    rng = random.Random(1)  # noqa: S311  # reproducible
    lost = extra = 0
    for at in cut.cuts(states, rng):
        cut.build(at, rng, state)
        promised = {int(mark) for mark in cut.marks_before(at)}
        found = _rows(state)
        lost += found is None or not promised <= found
        extra += found is not None and not found <= promised
    return lost, extra


@pytest.mark.parametrize(
    "pragmas",
    [
        ("journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=20"),
        ("journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=20", "locking_mode=EXCLUSIVE"),
        ("journal_mode=DELETE", "synchronous=EXTRA"),
        ("journal_mode=TRUNCATE", "synchronous=FULL"),
    ],
    ids=" ".join,
)
def test_sqlite_that_syncs_loses_nothing(tmp_path: Path, pragmas: tuple[str, ...]) -> None:
    """Each row that was promised before the cut is there, whatever else is; some were not promised yet."""
    lost, extra = _losses(tmp_path, 300, *pragmas)
    assert lost == 0
    assert extra > 0


@pytest.mark.parametrize(
    "pragmas",
    [
        ("journal_mode=WAL", "synchronous=OFF", "wal_autocheckpoint=20"),
        ("journal_mode=WAL", "synchronous=NORMAL", "wal_autocheckpoint=20"),
        ("journal_mode=DELETE", "synchronous=OFF"),
    ],
    ids=" ".join,
)
def test_sqlite_that_does_not_sync_loses_rows(tmp_path: Path, pragmas: tuple[str, ...]) -> None:
    """The states are harsh enough to show it."""
    lost, _ = _losses(tmp_path, 100, *pragmas)
    assert lost > 10


# ---------------------------------------------------------------- the model
def _write(
    path: Path, data: bytes, *, offset: int = 0, flags: int = 0, sync: Callable[[int], None] | None = None
) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | flags)
    os.pwrite(descriptor, data, offset)
    if sync is not None:
        sync(descriptor)
    os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def unsynced(folder: Path) -> None:
    """Create and write, no more."""
    _write(folder / "a", b"x" * 600)


def synced(folder: Path) -> None:
    """A write that is synced, by itself or by its descriptor."""
    _write(folder / "a", b"x" * 600, sync=os.fsync)
    _write(folder / "b", b"y", flags=os.O_DSYNC)


def rewritten(folder: Path) -> None:
    """Two blocks over synced ones."""
    _write(folder / "a", b"x" * 1024, sync=os.fdatasync)
    _write(folder / "a", b"y" * 1024)


def replaced(folder: Path) -> None:
    """A new version takes the place of the old one, as it should be done."""
    _write(folder / "a", b"old", sync=os.fsync)
    _write(folder / "a.new", b"new", sync=os.fsync)
    (folder / "a.new").rename(folder / "a")


def replaced_and_synced(folder: Path) -> None:
    """The same, with the last step that makes it certain."""
    replaced(folder)
    _sync_folder(folder)


def overwritten_elsewhere(folder: Path) -> None:
    """A name is removed, and then only a file that has not grown is synced: the journal need not be written."""
    _write(folder / "a", b"x", sync=os.fsync)
    _write(folder / "b", b"y", sync=os.fsync)
    (folder / "a").unlink()
    _write(folder / "b", b"z", sync=os.fdatasync)


def made_again(folder: Path) -> None:
    """A file is removed and made again: the new content is never under the old file's name and size."""
    _write(folder / "a", b"old old", sync=os.fsync)
    (folder / "a").unlink()
    _write(folder / "a", b"new")


def truncated(folder: Path) -> None:
    """Cut short and written again."""
    _write(folder / "a", b"xxxx", sync=os.fsync)
    os.truncate(folder / "a", 1)
    _write(folder / "a", b"yy", offset=1)


def moved(folder: Path) -> None:
    """A folder with a file in it gets another name."""
    (folder / "d").mkdir()
    _write(folder / "d" / "a", b"x", sync=os.fsync)
    (folder / "d").rename(folder / "e")


def failed_sync(folder: Path) -> None:
    """A sync fails, the next one succeeds: that vouches only for what was written in between."""
    _write(folder / "a", b"", sync=os.fsync)
    with failing(folder.parent / "switch"):
        try:
            _write(folder / "a", b"x", sync=os.fsync)
        except OSError:
            _write(folder / "a", b"y", offset=1)
    _write(folder / "a", b"z", offset=2, sync=os.fsync)


def working(_report: Report, work: str, folder: str) -> None:
    """Carry out one of the above."""
    globals()[work](Path(folder))


def _sortable(state: dict[str, bytes]) -> list[tuple[str, bytes]]:
    return sorted(state.items())


X, Y, NONE = b"x" * 512, b"y" * 512, bytes(512)


@pytest.mark.parametrize(
    ("work", "states"),
    [
        (
            unsynced,
            [
                {},
                {"a": b""},
                {"a": X},
                {"a": NONE + b"x" * 88},
                {"a": X + b"x" * 88},
            ],
        ),
        (synced, [{"a": b"x" * 600, "b": b"y"}]),
        (rewritten, [{"a": X + X}, {"a": X + Y}, {"a": Y + X}, {"a": Y + Y}]),
        (replaced, [{"a": b"new"}, {"a": b"old", "a.new": b"new"}]),
        (replaced_and_synced, [{"a": b"new"}]),
        (overwritten_elsewhere, [{"b": b"z"}, {"a": b"x", "b": b"z"}]),
        (made_again, [{}, {"a": b"old old"}, {"a": b""}, {"a": b"new"}]),
        (truncated, [{"a": b"xxxx"}, {"a": b"xyyx"}, {"a": b"x"}, {"a": b"xyy"}]),
        (moved, [{"d/a": b"x"}, {"e/a": b"x"}]),
        (failed_sync, [{"a": b"xyz"}, {"a": b"\0yz"}]),
    ],
)
def test_each_state_that_is_possible_is_built_and_no_other(
    work: Work, states: list[dict[str, bytes]], tmp_path: Path
) -> None:
    """At the end of what was done, over many draws."""
    folder, state, log = tmp_path / "traced", tmp_path / "state", tmp_path / "log"
    folder.mkdir()
    environ = Iotrace(folder).environ(log=log, sync_fail=tmp_path / "switch")
    finished(working, work.__name__, folder, environ=environ)
    cut = PowerCut.load(log)
    found: list[dict[str, bytes]] = []
    for seed in range(200):
        cut.build(len(cut.ops), random.Random(seed), state)  # noqa: S311  # reproducible
        files = {str(path.relative_to(state)): path.read_bytes() for path in state.rglob("*") if path.is_file()}
        if files not in found:
            found.append(files)
    assert sorted(found, key=_sortable) == sorted(states, key=_sortable)


def test_a_cut_is_the_same_in_any_order(tmp_path: Path) -> None:
    """Going back replays the log: the same draw gives the same state."""
    folder, state, log = tmp_path / "traced", tmp_path / "state", tmp_path / "log"
    folder.mkdir()
    finished(inserting, folder, "journal_mode=WAL", environ=Iotrace(folder).environ(log=log))
    cut = PowerCut.load(log)

    def content(at: int) -> dict[str, bytes]:
        cut.build(at, random.Random(at), state)  # noqa: S311  # reproducible
        return {path.name: path.read_bytes() for path in state.iterdir()}

    cuts = range(0, len(cut.ops) + 1, 10)
    assert [content(at) for at in cuts] == [content(at) for at in reversed(cuts)][::-1]
    assert content(0) == {}
    assert cut.marks_before(0) == []
    assert cut.marks_before(len(cut.ops)) == [b"%d" % row for row in range(ROWS)]
