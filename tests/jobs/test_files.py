"""A spool: whole files, once each."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typing_extensions import override

from edge_agent.adapters.system_clock import SystemClock
from edge_agent.core.timebase import MonotonicNs
from edge_agent.errors import JobError, OutboxError
from edge_agent.jobs.files import KIND, MAX_LINES
from tests.support.brokers import missing
from tests.support.job_context import Published, context, run

MAX_RECORD = 10_000


class Spool:
    """A folder ``in`` whose files are sent, and all that was published."""

    def __init__(self, folder: Path, **options: Any) -> None:  # noqa: ANN401
        self.path = folder / "in"
        self.path.mkdir()
        self.published = Published(MAX_RECORD)
        tables = {"in": {"path": str(self.path), "may": ["read", "delete"]}}
        self.ctx = context(folder, self.published, max_record=MAX_RECORD, folders=tables)
        self.options = {"folder": "in", "settle": "0s"} | options

    def drop(self, name: str, content: bytes | str = "x") -> Path:
        """Put a file in."""
        (self.path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return self.path / name

    async def run(self) -> Any:  # noqa: ANN401
        """Run once."""
        return await run(KIND, self.ctx, **self.options)

    @property
    def left(self) -> list[str]:
        """The names of all files that are there, those in folders too."""
        return sorted(str(path.relative_to(self.path)) for path in self.path.rglob("*") if not path.is_dir())


@pytest.mark.parametrize(
    ("form", "content", "records"),
    [
        ("text", "21.5 °C\n", [{"file": "a", "text": "21.5 °C\n"}]),
        ("json", '{ "c": 21.5 }\n', [{"c": 21.5}]),
        ("lines", '{"n": 1}\n\n{"n": 2}', [{"n": 1}, {"n": 2}]),
        ("base64", b"\x00\xff", [{"file": "a", "base64": "AP8="}]),
        ("text", "", [{"file": "a", "text": ""}]),
        ("lines", "", []),
    ],
)
async def test_a_file_is_sent_and_removed(tmp_path: Path, form: str, content: Any, records: list[Any]) -> None:  # noqa: ANN401
    """In the form that was asked for."""
    spool = Spool(tmp_path, format=form)
    spool.drop("a", content)
    assert await spool.run() == {"sent": 1, "rejected": 0, "waiting": 0}
    assert spool.published.records == records
    assert spool.left == []


async def test_files_are_sent_by_name_those_that_match(tmp_path: Path) -> None:
    """Neither hidden ones nor those in folders."""
    spool = Spool(tmp_path, pattern="*.txt")
    for name in ("b.txt", "a.txt", "c.dat", ".d.txt"):
        spool.drop(name, name)
    (spool.path / "e.txt").mkdir()
    await spool.run()
    assert [record["text"] for record in spool.published.records] == ["a.txt", "b.txt"]
    assert spool.left == [".d.txt", "c.dat"]


async def test_what_was_sent_can_be_kept(tmp_path: Path) -> None:
    """In a folder below, from which nothing is sent; none replaces another."""
    spool = Spool(tmp_path, archive=True)
    for content in ("first", "second"):
        spool.drop("a", content)
        await spool.run()
        await spool.run()
    assert len(spool.published.records) == 2
    assert sorted(path.read_text() for path in (spool.path / "archive").iterdir()) == ["first", "second"]


async def test_a_file_is_let_go_of_only_when_its_record_is_safe(tmp_path: Path) -> None:
    """Until then it stays, and so do those after it; then each is sent once."""
    spool = Spool(tmp_path)
    for name in "abc":
        spool.drop(name, name)
    spool.published.refusal, spool.published.after = OutboxError("the outbox is full", word="full"), 1
    with pytest.raises(OutboxError, match="full"):
        await spool.run()
    assert spool.left == ["b", "c"]
    spool.published.refusal = None
    await spool.run()
    assert [record["text"] for record in spool.published.records] == ["a", "b", "c"]


async def test_what_was_accepted_before_a_crash_is_not_doubled(tmp_path: Path) -> None:
    """The file is still there, and has the same key; another one of its name and content has another."""
    spool = Spool(tmp_path, format="lines")
    times = spool.drop("a", "1\n2\n3").stat()
    spool.published.refusal, spool.published.after = OutboxError("busy", word="busy"), 2
    with pytest.raises(OutboxError):
        await spool.run()
    spool.published.refusal = None
    await spool.run()
    assert spool.published.records == [1, 2, 3]
    os.utime(spool.drop("a", "1\n2\n3"), ns=(times.st_mtime_ns + 1, times.st_mtime_ns + 1))
    await spool.run()
    assert spool.published.records == [1, 2, 3, 1, 2, 3]


class Waiting(SystemClock):
    """A clock that does something while the run waits."""

    def __init__(self, do: Any) -> None:  # noqa: ANN401
        self.do = do

    @override
    async def sleep_until(self, deadline: MonotonicNs) -> None:
        """Do it; the rest of the wait is spared."""
        self.waits = (deadline - self.monotonic()) / 1e9
        self.do()


async def test_a_file_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    """Until it was quiet for as long as it is told; another one is sent meanwhile."""
    spool = Spool(tmp_path, settle="5s")
    growing = spool.drop("a", "begin")
    spool.drop("b", "whole")

    def grow() -> None:
        with growing.open("a") as file:
            file.write("end")

    clock = Waiting(grow)
    spool.ctx = spool.ctx._replace(clock=clock)
    assert await spool.run() == {"sent": 1, "rejected": 0, "waiting": 1}
    assert 4 < clock.waits <= 5
    clock.do = lambda: None
    await spool.run()
    assert [record["text"] for record in spool.published.records] == ["whole", "beginend"]


async def test_a_file_that_shrinks_while_it_is_read_is_left_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of it is not sent as if it were all."""
    spool = Spool(tmp_path)
    file = spool.drop("a", "x" * 5000)
    real = os.fstat

    def shrink(descriptor: int) -> os.stat_result:
        status = real(descriptor)
        if status.st_size == 5000:
            os.truncate(file, 100)
        return status

    monkeypatch.setattr(os, "fstat", shrink)
    await spool.run()
    monkeypatch.undo()
    assert spool.published.records == []
    await spool.run()
    assert spool.published.records == [{"file": "a", "text": "x" * 100}]


@pytest.mark.parametrize(
    ("form", "content", "reason"),
    [
        ("text", b"\xff", 'it is not UTF-8; format "base64" sends any file'),
        ("text", b"x" * (MAX_RECORD + 1), f"it has {MAX_RECORD + 1} bytes"),
        ("text", b"\x01" * (MAX_RECORD // 2), "larger than outbox.max_record"),
        ("base64", b"x" * (MAX_RECORD - 100), "larger than outbox.max_record"),
        ("json", b"", "it is no JSON"),
        ("json", b"{", "it is no JSON"),
        ("lines", b"1\n2\nthree\n", "line 3 is no JSON"),
        ("lines", b"\n" + b"1 " * 10, "line 2 is no JSON"),
    ],
)
async def test_a_bad_file_is_put_aside_with_the_reason(
    tmp_path: Path, form: str, content: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is sent neither in whole nor in part, it is named once, and keeps back none of the others."""
    spool = Spool(tmp_path, format=form)
    spool.drop("bad", content)
    spool.drop("good", "1")
    assert await spool.run() == {"sent": 1, "rejected": 1, "waiting": 0}
    await spool.run()
    assert len(spool.published.records) == 1
    assert spool.left == ["rejected/bad", "rejected/bad.reason.txt"]
    assert (spool.path / "rejected/bad").read_bytes() == content
    assert reason in (spool.path / "rejected/bad.reason.txt").read_text()
    (said,) = [record for record in caplog.records if record.name.startswith("edge_agent.")]
    assert (said.message, said.__dict__["task_name"], said.__dict__["file"]) == ("file_rejected", "j", "bad")


async def test_no_bad_file_replaces_another(tmp_path: Path) -> None:
    """Though they have one name."""
    spool = Spool(tmp_path, format="json")
    for content in ("bad", "worse"):
        spool.drop("a", content)
        await spool.run()
    kept = [path.read_text() for path in (spool.path / "rejected").iterdir() if not path.name.endswith(".txt")]
    assert sorted(kept) == ["bad", "worse"]


async def test_a_file_has_no_more_lines_than_keys_are_remembered(tmp_path: Path) -> None:
    """Or a crash would double some of them."""
    spool = Spool(tmp_path, format="lines")
    spool.ctx = context(
        tmp_path,
        spool.published,
        max_record=1 << 20,
        folders={"in": {"path": str(spool.path), "may": ["read", "delete"]}},
    )
    spool.drop("a", "1\n" * (MAX_LINES + 1))
    assert (await spool.run())["rejected"] == 1


async def test_links_and_devices_are_put_aside_unopened(tmp_path: Path) -> None:
    """Whoever may write there cannot have another file sent."""
    spool = Spool(tmp_path)
    (tmp_path / "secret").write_text("secret")
    (spool.path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(spool.path / "fifo")
    assert (await spool.run())["rejected"] == 2
    assert spool.published.records == []
    assert (tmp_path / "secret").read_text() == "secret"


async def test_a_folder_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    """It is named, and not made."""
    spool = Spool(tmp_path)
    spool.path.rmdir()
    with pytest.raises(JobError, match=f"{spool.path}: No such file or directory"):
        await spool.run()
    assert not spool.path.exists()


async def test_what_the_table_does_not_allow_is_not_done(tmp_path: Path) -> None:
    """The configuration may have changed since it was checked."""
    spool = Spool(tmp_path)
    spool.ctx = context(tmp_path, folders={"in": {"path": str(spool.path), "may": ["read"]}})
    with pytest.raises(JobError, match=r'folders\.in\.may does not allow it; add "delete"'):
        await spool.run()


def unprivileged(folder: str) -> None:
    """Run a spool in a folder that others own, and print why it fails."""

    async def main() -> None:
        tables = {"in": {"path": folder, "may": ["read", "delete"]}}
        published = Published()
        try:
            await run(KIND, context(Path(folder), published, folders=tables), folder="in", settle="0s")
        except JobError as error:
            print(json.dumps([str(error), published.records]))  # what the test reads

    asyncio.run(main())


@pytest.mark.root
@pytest.mark.parametrize(("mode", "words"), [(0o755, "nothing is sent that could not be removed"), (0o700, "denied")])
def test_a_folder_without_permission_is_a_failure(mode: int, words: str, tmp_path: Path) -> None:
    """Nothing is sent that would be sent again and again."""
    if os.geteuid() != 0:
        missing("only root can give a folder to others")
    folder = tmp_path / "spool"
    folder.mkdir()
    (folder / "a").write_text("x")
    folder.chmod(mode)
    os.chown(folder, 65534, 65534)
    # Root without its way around permissions: another user might not be able to read the checkout or the interpreter.
    ordinary = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"]
    code = f"from tests.jobs.test_files import unprivileged; unprivileged({str(folder)!r})"
    done = subprocess.run([*ordinary, sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    reason, records = json.loads(done.stdout)
    assert words in reason
    assert records == []


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"folder": "a b"},
        {"folder": "f", "mode": "tail", "format": "json"},
        {"folder": "f", "pattern": "../x"},
        {"folder": "f", "settle": "2h"},
        {"folder": "f", "size": 1},
    ],
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    """Also those that do not go together."""
    with pytest.raises(ValidationError):
        KIND.options.model_validate(options)
