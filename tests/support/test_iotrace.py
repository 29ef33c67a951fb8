"""The shim below a child's files."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from typing_extensions import override

from tests.support import iotrace
from tests.support.iotrace import Iotrace, failing
from tests.support.killing import Report, Worker, finished
from tests.support.power_cut import PowerCut, marker

SYNCS = 5


def every_call(_report: Report, path: str) -> None:
    """Change files in each way that the standard library knows."""
    folder = Path(path)
    (folder / "a").write_bytes(b"longer")
    (folder / "a").write_bytes(b"x")
    (folder / "a").rename(folder / "b")
    (folder / "b").replace(folder / "c")
    descriptor = os.open(folder / "c", os.O_RDWR)
    os.posix_fallocate(descriptor, 0, 8192)
    os.truncate(folder / "c", 5)
    os.ftruncate(descriptor, 3)
    os.pwrite(descriptor, b"pwrite", 10)
    os.writev(descriptor, [b"wri", b"tev"])
    os.pwritev(descriptor, [b"pwritev"], 20, os.RWF_DSYNC)
    os.fdatasync(descriptor)
    os.fsync(descriptor)
    os.close(descriptor)
    shutil.copyfile(folder / "c", folder / "d")
    (folder / "sub").mkdir()
    (folder / "sub" / "e").touch()
    shutil.rmtree(folder / "sub")
    with (folder / "d").open("ab") as file:
        file.write(b"appended")
    os.chdir(folder)
    Path("d").rename("f")
    with tempfile.TemporaryFile(dir=folder) as nameless:
        nameless.write(b"not traced")
    with pytest.raises(OSError, match="cross-device"):
        Path("f").rename(folder.parent / "outside")
    (folder.parent / "beside").write_bytes(b"not traced")
    Path("c").unlink()


def left_open(_report: Report, path: str) -> None:
    """Use SQLite and do not clean up: a database, its WAL after some checkpoints, and a vacuum."""
    database = sqlite3.connect(f"{path}/db", isolation_level=None)
    for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=20"):
        database.execute(f"PRAGMA {pragma}")
    database.execute("CREATE TABLE t(n INTEGER PRIMARY KEY, body BLOB)")
    for row in range(100):
        database.execute("INSERT INTO t VALUES(?, ?)", (row, os.urandom(2000)))
    database.execute("DELETE FROM t WHERE n < 50")
    database.execute("VACUUM")
    database.execute("INSERT INTO t VALUES(1000, 'last')")
    os._exit(0)


def syncing(report: Report, path: str) -> None:
    """Sync some times, and report how long each took."""
    with Path(path).open("wb", buffering=0) as file:
        for sync in (os.fsync, os.fdatasync) * SYNCS:
            file.write(b"x")
            begun = time.monotonic()
            sync(file.fileno())
            report(b"%f" % (time.monotonic() - begun))


def switching(report: Report, folder: str, write_fail: str, sync_fail: str) -> None:
    """Write and sync, plain and with SQLite, while calls fail and while they do not."""
    mark = marker(Path(folder))
    descriptor = os.open(f"{folder}/file", os.O_CREAT | os.O_WRONLY)
    database = sqlite3.connect(f"{folder}/db", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE t(a)")

    def attempt() -> None:
        mark(b"marks are written all the same")
        for call in (
            lambda: os.write(descriptor, b"x"),
            lambda: os.posix_fallocate(descriptor, 0, 100),
            lambda: os.fsync(descriptor),
            lambda: os.fdatasync(descriptor),
            lambda: database.execute("INSERT INTO t VALUES(1)"),
        ):
            try:
                call()
                report(b"ok")
            except OSError as error:
                report(errno.errorcode[error.errno or 0].encode())
            except sqlite3.OperationalError as error:
                report(error.sqlite_errorname.encode())

    attempt()
    for switch, code in ((write_fail, errno.ENOSPC), (write_fail, errno.EIO), (sync_fail, errno.EIO)):
        with failing(Path(switch), code):
            attempt()
        attempt()


def writing_threads(_report: Report, path: str) -> None:
    """Append to one file and sync it, from several threads at once."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def write() -> None:
        for _ in range(200):
            os.write(descriptor, b"%08d" % threading.get_native_id())
            os.fsync(descriptor)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "traced"
    folder.mkdir()
    return folder


def test_every_way_to_change_a_file_is_logged(folder: Path, tmp_path: Path) -> None:
    """Each is there once, nothing of other folders is, and the counts fit."""
    log, stats = tmp_path / "log", tmp_path / "stats"
    finished(every_call, folder, environ=Iotrace(folder).environ(log=log, stats=stats))
    cut = PowerCut.load(log)
    kinds = Counter(op.kind for op in cut.ops)
    assert kinds == {"C": 3, "M": 1, "R": 3, "T": 4, "W": 6, "Y": 1, "S": 1, "D": 1, "U": 3}
    counted = json.loads(stats.read_text())
    assert counted["writes"] == kinds["W"] + kinds["Y"]
    assert counted["bytes"] == sum(len(op.data) for op in cut.ops if op.kind in "WY")
    assert counted["syncs"] == kinds["S"] + kinds["D"] + kinds["Y"]
    assert counted["changes"] == sum(kinds[kind] for kind in "CMRTU")


class _Everything(random.Random):
    """Draws that let everything survive a cut."""

    @override
    def random(self) -> float:
        return 0.0

    @override
    def randint(self, a: int, b: int) -> int:
        return b


@pytest.mark.parametrize("worker", [every_call, left_open])
def test_the_log_replays_to_what_is_in_the_folder(worker: Worker, folder: Path, tmp_path: Path) -> None:
    """Byte by byte: nothing that the standard library or SQLite does goes past the shim."""
    finished(worker, folder, environ=Iotrace(folder).environ(log=tmp_path / "log"))
    cut = PowerCut.load(tmp_path / "log")
    cut.build(len(cut.ops), _Everything(), tmp_path / "state")
    there, replayed = ({path.name: path.read_bytes() for path in at.iterdir()} for at in (folder, tmp_path / "state"))
    assert there
    assert replayed == there


def test_each_sync_takes_longer() -> None:
    """By the time that was asked for; without it, syncs in memory take none."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder = Path(name)
        took = finished(syncing, folder / "file", environ=Iotrace(folder).environ(sync_us=20_000))
        undelayed = finished(syncing, folder / "file", environ=Iotrace(folder).environ())
    assert len(took) == 2 * SYNCS
    assert all(0.02 <= float(one) < 1 for one in took)
    assert sum(map(float, undelayed)) < 0.02 * SYNCS


def test_calls_fail_while_the_switch_is_on(folder: Path, tmp_path: Path) -> None:
    """Writes or syncs fail with the errno of the switch, and SQLite notices; then all is well again."""
    write_fail, sync_fail = tmp_path / "write fail", tmp_path / "sync fail"
    environ = Iotrace(folder).environ(log=tmp_path / "log", write_fail=write_fail, sync_fail=sync_fail)
    marks = [mark.decode() for mark in finished(switching, folder, write_fail, sync_fail, environ=environ)]
    well = ["ok"] * 5
    rounds = [marks[at : at + 5] for at in range(0, len(marks), 5)]
    assert rounds[::2] == [well] * 4
    assert rounds[1::2] == [
        ["ENOSPC", "ENOSPC", "ok", "ok", "SQLITE_FULL"],
        ["EIO", "EIO", "ok", "ok", "SQLITE_IOERR_WRITE"],
        ["ok", "ok", "EIO", "EIO", "SQLITE_IOERR_FSYNC"],
    ]
    cut = PowerCut.load(tmp_path / "log")
    assert sum(op.kind == "F" for op in cut.ops) == 3
    assert len(cut.marks) == 7


def test_the_log_is_whole_when_threads_write(folder: Path, tmp_path: Path) -> None:
    """Each write is there once, at an offset of its own."""
    finished(writing_threads, folder / "file", environ=Iotrace(folder).environ(log=tmp_path / "log"))
    ops = PowerCut.load(tmp_path / "log").ops
    written = {op.value: op.data for op in ops if op.kind == "W"}
    assert b"".join(written[offset] for offset in sorted(written)) == (folder / "file").read_bytes()
    assert len(written) == sum(op.kind == "W" for op in ops) == sum(op.kind == "S" for op in ops) == 800


def test_a_missing_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test is skipped, with the packages to install."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr("shutil.which", lambda *_args, **_kwargs: None)
    with pytest.raises(pytest.skip.Exception, match="apt-get install gcc libc6-dev"):
        iotrace.shim.__wrapped__(Path("any.c"))
