"""Files that grow, are rotated, truncated, copied and removed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import JobError, OutboxError
from edge_agent.jobs import tail as module
from edge_agent.jobs.files import KIND
from tests.support.job_context import Published, context, run


class Tail:
    """A tail of ``app.log`` in a folder, and all that it has published."""

    def __init__(self, folder: Path, *, max_record: int = 120 << 10, **options: Any) -> None:  # noqa: ANN401
        self.logs = folder / "logs"
        self.logs.mkdir(exist_ok=True)
        self.log = self.logs / "app.log"
        self.published = Published(max_record)
        self.ctx = context(folder, self.published, max_record=max_record, folders={"logs": {"path": str(self.logs)}})
        self.options = {"folder": "logs", "mode": "tail", "pattern": "app.log"} | options

    def write(self, *lines: str, to: Path | None = None) -> None:
        """Append lines."""
        with (to or self.log).open("a") as file:
            file.writelines(f"{line}\n" for line in lines)

    async def run(self) -> Any:  # noqa: ANN401
        """Run once."""
        return await run(KIND, self.ctx, **self.options)

    @property
    def lines(self) -> list[Any]:
        """All lines that were published."""
        return [line for record in self.published.records for line in record["lines"]]


async def test_new_lines_are_sent_once(tmp_path: Path) -> None:
    """Many in one record, with the file's name; a run that finds none writes and publishes nothing."""
    tail = Tail(tmp_path)
    assert await tail.run() == {"records": 0, "bytes": 0}
    tail.write("one", "two")
    assert await tail.run() == {"records": 1, "bytes": 8}
    state = tail.ctx.folder / "tail.json"
    before = state.stat()
    await tail.run()
    assert state.stat() == before
    tail.write("three")
    await tail.run()
    assert tail.published.records == [
        {"file": "app.log", "lines": ["one", "two"]},
        {"file": "app.log", "lines": ["three"]},
    ]


async def test_half_a_line_waits_for_its_end(tmp_path: Path) -> None:
    """However often it is looked at."""
    tail = Tail(tmp_path)
    tail.log.write_text("whole\nha")
    await tail.run()
    await tail.run()
    assert tail.lines == ["whole"]
    tail.write("lf")
    await tail.run()
    assert tail.lines == ["whole", "half"]


async def test_lines_of_json_are_sent_as_values(tmp_path: Path) -> None:
    """What is none stays text."""
    tail = Tail(tmp_path, format="lines")
    tail.write('{"n": 1}', "oops")
    await tail.run()
    assert tail.lines == [{"n": 1}, "oops"]


async def test_a_long_line_is_sent_in_pieces(tmp_path: Path) -> None:
    """Also one that is longer than what is read at once."""
    tail = Tail(tmp_path)
    long = "x" * (module.READ * 2 + 100)
    tail.write("before", long, "after")
    await tail.run()
    assert tail.lines[0] == "before"
    assert tail.lines[-1] == "after"
    assert "".join(tail.lines[1:-1]) == long
    partial = [record.get("partial", False) for record in tail.published.records[1:]]
    assert partial == [True] * (len(partial) - 1) + [False]


async def test_much_at_once_is_sent_bit_by_bit(tmp_path: Path) -> None:
    """More than one pass may take, of several files, in order."""
    tail = Tail(tmp_path, pattern="*.log")
    numbers = [f"{number:0100}" for number in range(15_000)]
    for name in ("a.log", "b.log"):
        tail.write(*numbers, to=tail.logs / name)
    await tail.run()
    for name in ("a.log", "b.log"):
        sent = [line for record in tail.published.records if record["file"] == name for line in record["lines"]]
        assert sent == numbers


# ---------------------------------------------------------------- rotation
def renamed(tail: Tail) -> None:
    """Rotate as logrotate does by default."""
    for number in range(5, 0, -1):
        older = tail.logs / f"app.log.{number}"
        if older.exists():
            older.rename(tail.logs / f"app.log.{number + 1}")
    tail.log.rename(tail.logs / "app.log.1")
    tail.log.touch()


def copied(tail: Tail) -> None:
    """Rotate with copytruncate."""
    for number in range(5, 0, -1):
        older = tail.logs / f"app.log.{number}"
        if older.exists():
            older.rename(tail.logs / f"app.log.{number + 1}")
    shutil.copy(tail.log, tail.logs / "app.log.1")
    os.truncate(tail.log, 0)


@pytest.mark.parametrize("rotate", [renamed, copied])
@pytest.mark.parametrize("seen", [True, False])
async def test_the_end_of_a_rotated_file_is_sent_too(
    tmp_path: Path,
    rotate: Callable[[Tail], None],
    seen: bool,  # noqa: FBT001
) -> None:
    """Whether or not a run came between the last line and the rotation; the new file may be longer than the old one."""
    tail = Tail(tmp_path)
    expected: list[str] = []
    for turn in range(4):
        some = [f"{turn}-{number}" for number in range(10 + turn)]
        tail.write(*some)
        await tail.run()
        more = [f"{turn}-more-{number}" for number in range(3)]
        tail.write(*more)
        if seen:
            await tail.run()
        rotate(tail)
        expected += some + more
    tail.write("last")
    await tail.run()
    assert tail.lines == [*expected, "last"]


async def test_a_file_that_is_written_on_after_its_rotation_is_followed(tmp_path: Path) -> None:
    """Until its program opens the new one."""
    tail = Tail(tmp_path)
    tail.write("a")
    await tail.run()
    renamed(tail)
    tail.write("b", to=tail.logs / "app.log.1")
    tail.write("c")
    await tail.run()
    tail.write("d", to=tail.logs / "app.log.1")
    await tail.run()
    assert tail.lines == ["a", "b", "c", "d"]


async def test_a_new_file_that_got_the_inode_of_an_old_one_is_read_from_its_beginning(tmp_path: Path) -> None:
    """However long it is already."""
    tail = Tail(tmp_path)
    tail.write(*(f"old-{number}" for number in range(5)))
    await tail.run()
    tail.log.write_text("")  # the same inode, other content
    tail.write(*(f"new-{number}" for number in range(50)))
    await tail.run()
    assert tail.lines == [f"old-{number}" for number in range(5)] + [f"new-{number}" for number in range(50)]


async def test_equal_lines_after_a_truncation_are_lines_of_their_own(tmp_path: Path) -> None:
    """At the same place of the same file."""
    tail = Tail(tmp_path)
    for _ in range(3):
        tail.write("tick")
        await tail.run()
        os.truncate(tail.log, 0)
        await tail.run()
    assert tail.lines == ["tick"] * 3


async def test_an_inode_that_a_removed_file_had_is_free_again(tmp_path: Path) -> None:
    """The copy of a log may get that of the oldest one, which was removed for it."""
    tail = Tail(tmp_path)
    expected: list[str] = []
    for turn in range(12):
        some = [f"{turn}-{number}" for number in range(5)]
        tail.write(*some)
        await tail.run()
        tail.write(f"{turn}-end")
        for old in tail.logs.glob("app.log.*"):
            old.unlink()
        copied(tail)
        expected += [*some, f"{turn}-end"]
    await tail.run()
    assert tail.lines == expected


async def test_what_was_written_first_is_sent_first(tmp_path: Path) -> None:
    """However much of a rotated file is left, its successor waits."""
    tail = Tail(tmp_path)
    lines = [f"{number:01000}" for number in range(3 * module.READ // 1000)]
    tail.write(lines[0])
    await tail.run()
    tail.write(*lines[1:-1])
    renamed(tail)
    tail.write(lines[-1])
    await tail.run()
    assert tail.lines == lines


async def test_links_are_not_followed(tmp_path: Path) -> None:
    """Nor folders read."""
    tail = Tail(tmp_path, pattern="*")
    (tmp_path / "secret").write_text("secret\n")
    (tail.logs / "link").symlink_to(tmp_path / "secret")
    (tail.logs / "folder").mkdir()
    await tail.run()
    assert tail.lines == []


# ---------------------------------------------------------------- trouble
@pytest.mark.parametrize("after", range(3))
async def test_what_the_outbox_does_not_take_is_handed_in_again(tmp_path: Path, after: int) -> None:
    """With the same records, though the file has grown since: nothing is doubled, nothing lost."""
    tail = Tail(tmp_path, max_record=1024)
    lines = [f"{number:0200}" for number in range(12)]
    tail.write(*lines)
    tail.published.refusal, tail.published.after = OutboxError("full", word="full"), after
    with pytest.raises(OutboxError, match="full"):
        await tail.run()
    assert len(tail.published.records) == after
    tail.write("more")
    renamed(tail)
    tail.published.refusal = None
    await tail.run()
    assert tail.lines == [*lines, "more"]


async def test_a_cut_off_pass_is_found_again_in_the_copy(tmp_path: Path) -> None:
    """When the file was copied and truncated since."""
    tail = Tail(tmp_path, max_record=1024)
    lines = [f"{number:0200}" for number in range(12)]
    tail.write(*lines)
    tail.published.refusal, tail.published.after = OutboxError("full", word="full"), 1
    with pytest.raises(OutboxError, match="full"):
        await tail.run()
    copied(tail)
    tail.write("more")
    tail.published.refusal = None
    await tail.run()
    assert tail.lines == [*lines, "more"]


async def test_a_cut_off_pass_whose_file_has_gone_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And holds up nothing."""
    tail = Tail(tmp_path)
    tail.write("a")
    tail.published.refusal = OutboxError("full", word="full")
    with pytest.raises(OutboxError, match="full"):
        await tail.run()
    tail.log.write_text("b\nc\n")
    tail.published.refusal = None
    await tail.run()
    assert tail.lines == ["b", "c"]
    (said,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert (said.message, said.__dict__["task_name"], said.__dict__["file"]) == ("tail_lost", "j", "app.log")


async def test_a_folder_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    """It is named, with the reason."""
    tail = Tail(tmp_path)
    tail.logs.rmdir()
    with pytest.raises(JobError, match=f"{tail.logs}: No such file or directory"):
        await tail.run()


async def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is sent."""
    monkeypatch.setattr(module, "MAX_FILES", 3)
    tail = Tail(tmp_path, pattern="*")
    for number in range(4):
        tail.write("x", to=tail.logs / str(number))
    with pytest.raises(JobError, match="more than 3 files are followed; a narrower pattern"):
        await tail.run()
    assert tail.lines == []
