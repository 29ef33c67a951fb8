"""Killing workers."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.killing import Report, finished, killed, kills


def counting(report: Report, path: str) -> None:
    """Count for ever: each number is reported after it was written to a file."""
    with Path(path).open("wb", buffering=0) as file:
        for number in itertools.count():
            file.write(b"%d\n" % number)
            report(b"wrote %d" % number)


def greeting(report: Report, *names: str) -> None:
    """End by itself."""
    for name in names:
        report(f"{name} {os.environ.get('GREETING', '')}".encode())


def dying(report: Report) -> None:
    """Be killed by somebody else."""
    report(b"alive")
    os.kill(os.getpid(), signal.SIGKILL)


def silent(_report: Report) -> None:
    """Never report anything."""
    time.sleep(60)


def test_marks_survive_the_kill(tmp_path: Path) -> None:
    """Each mark is whole and in order, and what it says was done is done; at most one thing more is."""
    path = tmp_path / "numbers"
    lengths: set[int] = set()
    for marks in kills(counting, path, loops=5, rng=random.Random(1), up_to_s=0.05):  # noqa: S311  # reproducible
        assert marks == [b"wrote %d" % number for number in range(len(marks))]
        assert path.read_bytes().count(b"\n") in (len(marks), len(marks) + 1)
        lengths.add(len(marks))
    assert len(lengths) > 1


def test_the_moment_may_be_a_mark(tmp_path: Path) -> None:
    """The clock starts at the mark that is asked for."""
    marks = killed(counting, tmp_path / "numbers", at=b"wrote 5000", after_s=0)
    assert b"wrote 5000" in marks


def test_a_worker_may_run_to_its_end() -> None:
    """All its marks are there, its arguments and environment too."""
    assert finished(greeting, "a", "b", environ={"GREETING": "hello"}) == [b"a hello", b"b hello"]


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (lambda: killed(greeting, "a", after_s=10), "ended by itself: exit code 0"),
        (lambda: killed(greeting, after_s=10), "no mark"),
        (lambda: killed(greeting, "a", at=b"b", after_s=10), "no mark b'b' from greeting: b'a "),
        (lambda: finished(dying), "exit code -9"),
        (lambda: finished(silent, within_s=0.1), r"takes longer than 0\.1 s"),
        (lambda: finished(lambda _report: None), "not at the top"),
    ],
    ids=["ends", "silent", "other mark", "dies", "hangs", "lambda"],
)
def test_what_cannot_have_been_a_kill_is_an_error(run: Callable[[], object], why: str) -> None:
    """A worker that ends, fails or hangs by itself fails the test, with the reason."""
    with pytest.raises(AssertionError, match=why):
        run()
