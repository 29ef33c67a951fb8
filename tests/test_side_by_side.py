"""What ``conftest.py`` promises of tests that run side by side, seen in a run of its own with two workers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
TESTS: Final = """
import subprocess, time
from itertools import pairwise
from pathlib import Path
import pytest

def enter(tmp_path_factory, who):
    with (tmp_path_factory.getbasetemp().parent / "log").open("a") as log:
        print(f"+{who}", file=log, flush=True)
        time.sleep(0.1)
        print(f"-{who}", file=log, flush=True)

@pytest.mark.alone
@pytest.mark.parametrize("n", range(2))
def test_alone(n, tmp_path_factory):
    enter(tmp_path_factory, f"alone{n}")

@pytest.mark.parametrize("n", range(9))
def test_together(n, tmp_path_factory):
    enter(tmp_path_factory, n)

@pytest.mark.parametrize("is_better_alone", [True, False])
def test_is_tried_again(is_better_alone, tmp_path_factory):
    mark = tmp_path_factory.getbasetemp().parent / f"tried{is_better_alone}"
    if not mark.exists() or not is_better_alone:
        with mark.open("a") as tries:
            tries.write("x")
        pytest.fail("among others")
    enter(tmp_path_factory, "alone2")

def test_skipped():
    pytest.skip("no such program")

def test_leaves_something(tmp_path):
    subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
"""


def test_workers_share_the_room_or_have_it_alone_and_keep_the_rules(tmp_path: Path) -> None:
    """Nobody comes while one is alone, the others meet; who fails is tried again alone, once, and named.

    In CI who skips has failed; a process left behind is told.
    """
    for name in ("conftest.py", "fakes.py"):
        shutil.copy(HERE / name, tmp_path)
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--maxschedchunk", "1", "--rootdir", str(tmp_path)]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "base"), str(tmp_path)],
        cwd=tmp_path,
        env=inherited | {"PYTHONPATH": str(HERE.parent), "CI": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    left = re.findall(r"processes left behind: \['(\d+) sleep 600'\]", done.stdout)
    for pid in left:
        os.kill(int(pid), signal.SIGKILL)
    log = (tmp_path / "base" / "log").read_text().split()
    pairs = list(pairwise(log))
    assert {two for two in pairs if two[0].startswith("+alone")} == {
        (f"+alone{number}", f"-alone{number}") for number in range(3)
    }
    assert any(one.startswith("+") and other.startswith("+") for one, other in pairs)
    tried = {path.name: path.read_text() for path in (tmp_path / "base").glob("tried*")}
    assert tried == {"triedTrue": "x", "triedFalse": "xx"}
    assert re.findall(r"tried_again\[(\w+)\] failed at first, and passed alone", done.stdout) == ["True"]
    assert re.search(r"^2 failed, 13 passed in ", done.stdout, re.MULTILINE), done.stdout
    assert "which CI does not allow: " in done.stdout
    assert len(left) == 1
    assert done.returncode == 1
