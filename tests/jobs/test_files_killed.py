"""``kill -9`` in the middle of a spool and of a tail: the consumer has every file and every line, once."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

import pytest

from edge_agent.errors import JobError
from edge_agent.jobs.tail import WINDOW
from edge_agent.jobs.tail_cursor import load
from tests.support.job_worker import consumed, for_ever, once, own_folder
from tests.support.killing import finished, kills

SPOOL = json.dumps({"settle": "0s", "format": "json"})
TAIL = json.dumps({"mode": "tail", "pattern": "app.log"})


@pytest.mark.timeout_s(900)
@pytest.mark.parametrize(
    ("files", "loops"), [pytest.param(1500, 5, id="short"), pytest.param(5000, 50, id="long", marks=pytest.mark.slow)]
)
async def test_a_spool_loses_and_doubles_no_file(tmp_path: Path, files: int, loops: int) -> None:
    """However often it is killed; files come in all the time."""
    folder, numbers = tmp_path / "in", iter(range(1 << 30))
    folder.mkdir()

    def drop(count: int) -> None:
        for number in (next(numbers) for _ in range(count)):
            (folder / f".{number}").write_text(json.dumps({"n": number}))
            (folder / f".{number}").rename(folder / f"{number:08}.json")

    drop(files)
    at_work = 0
    for _ in kills(for_ever, tmp_path, SPOOL, loops=loops, rng=random.Random(1), up_to_s=0.1):  # noqa: S311
        left = len(list(folder.glob("*.json")))
        at_work += left > 0
        drop(200)
    finished(once, tmp_path, SPOOL, within_s=300)
    assert list(folder.iterdir()) == []
    assert at_work, "no kill came while there was something to do"
    assert [data["n"] for data in await consumed(tmp_path)] == list(range(next(numbers)))


class Writer:
    """A program that logs and rotates its log, by renaming it or by copying and truncating it, once it was seen."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "in" / "app.log"
        self.log.parent.mkdir()
        self.own = own_folder(folder)
        self.written = self.rotations = 0

    def is_seen(self) -> bool:
        """Return whether the tail has begun to read this file; one that comes and goes between runs it cannot know."""
        with suppress(FileNotFoundError, JobError):
            inode, content = self.log.stat().st_ino, self.log.read_bytes()
            for place in load(self.own).places:
                mark = blake2b(content[: place.end][-WINDOW:], digest_size=16).hexdigest()
                if place.inode == inode and 0 < place.end <= len(content) and place.mark == mark:
                    return True
        return False

    def rotate(self) -> None:
        """Rotate the log; the seven last are kept."""
        for number in range(7, 0, -1):
            with suppress(FileNotFoundError):
                (self.log.parent / f"app.log.{number}").rename(self.log.parent / f"app.log.{number + 1}")
        if self.rotations % 2:
            self.log.rename(self.log.parent / "app.log.1")
        else:
            shutil.copy(self.log, self.log.parent / "app.log.1")
            os.truncate(self.log, 0)
        self.rotations += 1

    def write(self, rng: random.Random) -> None:
        """Write some lines, some of them in two halves."""
        with self.log.open("a", buffering=1) as file:
            for _ in range(rng.randrange(1, 40)):
                file.write(f"{self.written}:")
                file.write("x" * rng.choice((0, 10, 100, 3000)) + "\n")
                self.written += 1

    @contextmanager
    def at_work(self, rng: random.Random) -> Iterator[None]:
        """Write and rotate until the block ends."""
        stop = threading.Event()

        def work() -> None:
            while not stop.wait(0.01):
                self.write(rng)
                if rng.random() < 0.3 and self.is_seen():
                    self.rotate()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@pytest.mark.timeout_s(900)
@pytest.mark.parametrize("loops", [pytest.param(5, id="short"), pytest.param(50, id="long", marks=pytest.mark.slow)])
async def test_a_tail_loses_and_doubles_no_line(tmp_path: Path, loops: int) -> None:
    """However often it is killed, while the file grows and is rotated."""
    writer = Writer(tmp_path)
    with writer.at_work(random.Random(2)):  # noqa: S311
        rng = random.Random(3)  # noqa: S311
        for done, _ in enumerate(kills(for_ever, tmp_path, TAIL, loops=5 * loops, rng=rng, up_to_s=0.5), start=1):
            if done >= loops and writer.rotations >= loops / 5:  # a busy machine takes more kills for that
                break
            time.sleep(0.01)
    finished(once, tmp_path, TAIL, within_s=300)
    assert writer.rotations >= loops / 5
    lines = [line for data in await consumed(tmp_path) for line in data["lines"]]
    assert [int(line.partition(":")[0]) for line in lines] == list(range(writer.written))
