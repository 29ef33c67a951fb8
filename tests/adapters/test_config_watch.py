"""Editing configuration files in all the ways that people and programs do, and what the agent sees of it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import pty
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from edge_agent.adapters.config_files import MAX_DROP_INS, read_sources
from edge_agent.adapters.config_watch import ConfigWatch
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.errors import ConfigError
from edge_agent.ports import Clock
from tests.fakes import FakeClock
from tests.support.brokers import missing, require
from tests.support.killing import Report, finished
from tests.support.small_disk import tmpfs
from tests.support.virtual_time import VirtualTimeLoop

WITHIN_S = 2.0
PATIENCE_S = 30.0
INSTEAD = "the configuration is looked at every 1 s instead"
NOBODY = 65534
CLONE_NEWUSER = 0x1000_0000

Edit = Callable[[Path, str], None]


class Reader:
    """What the agent is: reads all files when it is told to, and takes note of contents that it has not just seen.

    Attributes:
        contents: each, in order; what cannot be read is its error.
        calls: how often it was told.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._more = asyncio.Event()
        self.contents: list[str] = []
        self.calls = 0

    def changed(self) -> None:
        """Read."""
        self.calls += 1
        try:
            content = "|".join(source.text.decode() for source in read_sources(self._path))
        except ConfigError as unreadable:
            content = unreadable.problems[0].reason
        if self.contents[-1:] != [content]:
            self.contents.append(content)
        self._more.set()

    async def sees(self, content: str, within_s: float = PATIENCE_S) -> None:
        """Wait until a content has been seen."""
        async with asyncio.timeout(within_s):
            while content not in self.contents[-1:]:
                self._more.clear()
                await self._more.wait()

    async def is_told(self, calls: int) -> None:
        """Wait until it has been told so often."""
        async with asyncio.timeout(PATIENCE_S):
            while self.calls < calls:
                self._more.clear()
                await self._more.wait()


@contextlib.asynccontextmanager
async def watched(path: Path, clock: Clock | None = None) -> AsyncIterator[Reader]:
    """Watch a file for a reader that has been told once."""
    reader = Reader(path)
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(ConfigWatch(path, clock=clock or SystemClock()).run(reader.changed))
        await reader.is_told(1)
        yield reader
        watching.cancel()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a file ``X.toml`` that holds ``a = 1``, in a folder of its own."""
    (tmp_path / "etc").mkdir()
    path = tmp_path / "etc/X.toml"
    path.write_text("a = 1\n")
    return path


def replace(path: Path, text: str) -> None:
    """Write a file as Ansible does: beside it, then rename."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".ansible_tmp", delete=False) as file:
        file.write(text)
    Path(file.name).replace(path)


def run(*command: str | Path, **environ: str) -> None:
    """Run a program to its end."""
    subprocess.run(command, check=True, timeout=PATIENCE_S, env={**os.environ, **environ})


def polled_reasons(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return why it is polled, each time that this was logged."""
    return [str(vars(record)["reason"]) for record in caplog.records if record.message == "config_polled"]


# ---------------------------------------------------------------- ways of editing
def vim(*settings: str) -> Edit:
    """Return the editing by vim with some settings."""

    def edit(path: Path, text: str) -> None:
        command = shutil.which("vim") or require("vim.tiny", "vim-tiny")
        sets = [part for setting in ("swapfile", *settings) for part in ("-c", f"set {setting}")]
        run(command, "-u", "NONE", "-i", "NONE", "-es", *sets, "-c", f"1s/.*/{text.strip()}/", "-c", "wq", path)

    return edit


def nano(path: Path, text: str) -> None:
    """Open a file in nano on a terminal, replace its first line, save (^O) and leave (^X)."""
    command = require("nano", "nano")
    ours, its = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "LINES": "24", "COLUMNS": "80"}
    with subprocess.Popen(
        [command, "-I", path], stdin=its, stdout=its, stderr=its, env=environ, start_new_session=True
    ) as process:
        os.close(its)
        try:
            shown = b""
            while b"^X" not in shown:  # the help at the bottom, drawn last
                shown += os.read(ours, 4096)
            os.write(ours, b"\x0b" + text.encode() + b"\x0f\r\x18")
            with contextlib.suppress(OSError):  # EIO: it has closed the terminal
                while os.read(ours, 4096):
                    pass
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
            os.close(ours)


def shell(command: str) -> Edit:
    """Return the editing by a shell command, which finds the path in $1, the text in $2, and a file of it in $3."""

    def edit(path: Path, text: str) -> None:
        with tempfile.NamedTemporaryFile("w", dir=path.parent.parent, delete=False) as new:
            new.write(text)
        run("sh", "-ec", command, "sh", path, text.strip(), new.name)
        Path(new.name).unlink(missing_ok=True)

    return edit


def across_disks(path: Path, text: str) -> None:
    """Move a file over from another file system: mv removes what is there and copies."""
    with tempfile.NamedTemporaryFile("w", dir="/dev/shm", delete=False) as new:
        new.write(text)
    run("mv", new.name, path)


def through_a_hard_link(path: Path, text: str) -> None:
    """Write into the same file by its name in another folder, as a container's bind mount of one file does."""
    other = path.parent.parent / "other"
    os.link(path, other)
    other.write_text(text)


def in_pieces(path: Path, text: str) -> None:
    """Truncate, then write byte by byte over more than half a second."""
    with path.open("wb", buffering=0) as file:
        for byte in text.encode():
            file.write(bytes([byte]))
            time.sleep(0.1)


EDITS = {
    "vim": vim(),
    "vim-backup": vim("backup"),
    "vim-nowritebackup": vim("nobackup", "nowritebackup"),
    "vim-backupcopy": vim("backupcopy=yes"),
    "nano": nano,
    "sed": shell('sed -i "s/.*/$2/" "$1"'),
    "cp": shell('cp "$3" "$1"'),
    "cp-new": shell('cp --remove-destination "$3" "$1"'),
    "mv": shell('mv "$3" "$1"'),
    "mv-across": across_disks,
    "redirect": shell('cat "$3" > "$1"'),
    "tee": shell('tee "$1" < "$3" > /dev/null'),
    "ansible": replace,
    "hard-link": through_a_hard_link,
    "in-pieces": in_pieces,
}


@pytest.mark.alone
@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
@pytest.mark.parametrize("name", ["X.toml", "X.d/50-site.toml"])
async def test_an_edit_is_seen_once_and_whole(path: Path, name: str, edit: Edit) -> None:
    """Within 2 s; what an editor leaves in between on its way is not seen, nor anything afterwards."""
    (path.parent / "X.d").mkdir()
    (path.parent / "X.d/50-site.toml").write_text("a = 1\n")
    texts = {"X.toml": "a = 1\n", "X.d/50-site.toml": "a = 1\n", name: "a = 2\n"}
    async with watched(path) as reader:
        await asyncio.to_thread(edit, path.parent / name, "a = 2\n")
        await reader.sees("|".join(texts.values()), WITHIN_S)
        replace(path.parent / "X.d/99-last.toml", "z = 1\n")
        await reader.sees("|".join([*texts.values(), "z = 1\n"]), WITHIN_S)
        assert reader.contents == [
            "a = 1\n|a = 1\n",
            "|".join(texts.values()),
            "|".join([*texts.values(), "z = 1\n"]),
        ]


async def test_touch_shows_nothing_new(path: Path) -> None:
    """The agent is told, reads, and finds what it knows."""
    async with watched(path) as reader:
        run("touch", path)
        await reader.is_told(2)
        assert reader.contents == ["a = 1\n"]


@pytest.mark.virtual
async def test_several_files_in_one_go_are_seen_together(path: Path) -> None:
    """A folder for them that has just been made included."""
    async with watched(path, FakeClock()) as reader:
        (path.parent / "X.d").mkdir()
        for number in range(5):
            await asyncio.sleep(0.15)
            (path.parent / f"X.d/{number}.toml").write_text(f"{number}")
        await reader.sees("a = 1\n|0|1|2|3|4")
        assert reader.calls == 2


# ---------------------------------------------------------------- settling
@pytest.mark.virtual
async def test_it_is_told_200_ms_after_the_last_change(path: Path) -> None:
    """By the loop's own time."""
    loop = asyncio.get_running_loop()
    begun = 0.0
    async with watched(path, FakeClock()) as reader:
        for text in "2345":
            path.write_text(text)
            begun = loop.time()
            await asyncio.sleep(0.19)
        await reader.is_told(2)
        assert 0.199 < loop.time() - begun < 0.221
        assert reader.contents == ["a = 1\n", "5"]


@pytest.mark.virtual
async def test_changes_without_end_are_told_every_second(path: Path) -> None:
    """The first time 1 s after the first of them."""
    loop = asyncio.get_running_loop()
    async with watched(path, FakeClock()) as reader:
        told: list[float] = []
        begun = loop.time()
        for number in range(100):
            path.write_text(str(number))
            await asyncio.sleep(0.05)
            if reader.calls > 1 + len(told):
                told.append(loop.time() - begun)
        assert told == pytest.approx([1, 2, 3, 4], abs=0.2)
        await reader.sees("99")


@pytest.mark.virtual
async def test_nothing_wakes_up_while_nothing_changes(path: Path) -> None:
    """Not once in a day."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    async with watched(path, FakeClock()) as reader:
        await asyncio.sleep(1)
        selected, select = 0, loop._jumping.select

        def counting(timeout: float | None = None) -> object:
            nonlocal selected
            selected += 1
            return select(timeout)

        loop._jumping.select = counting  # type: ignore[method-assign,assignment]
        await asyncio.sleep(86_400)
        assert selected <= 2  # it falls asleep, and is woken up at the end of the day
        path.write_text("2")
        await reader.sees("2")


# ---------------------------------------------------------------- other files
@pytest.mark.virtual
async def test_other_files_of_the_folders_are_nobodys_business(path: Path) -> None:
    """However many there are: neither is anything told, nor does an edit among them settle later."""
    loop = asyncio.get_running_loop()
    (path.parent / "X.d").mkdir()
    async with watched(path, FakeClock()) as reader:

        async def others() -> None:
            for number in range(10_000):
                for name in ("Y.toml", f"X.toml.{number}", "X.d/notes", f"X.d/.{number}.toml"):
                    (path.parent / name).write_text("x")
                    (path.parent / name).unlink()
                await asyncio.sleep(0.001)

        writing = asyncio.ensure_future(others())
        await asyncio.sleep(3)
        assert reader.calls == 1
        begun = loop.time()
        path.write_text("2")
        await reader.sees("2")
        assert loop.time() - begun < 0.5
        assert not writing.done()
        writing.cancel()
        await asyncio.wait((writing,))


def queue_length() -> int:
    """Return how many events the kernel keeps."""
    return int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())


@pytest.mark.virtual
async def test_too_many_events_hide_no_edit(path: Path) -> None:
    """Those that the kernel has dropped may have been about any file."""
    async with watched(path, FakeClock()) as reader:
        for number in range(queue_length() // 2 + 100):
            os.close(os.open(path.parent / f"{number % 2}", os.O_CREAT))
            (path.parent / f"{number % 2}").unlink()
        replace(path, "a = 2\n")
        await reader.sees("a = 2\n")


# ---------------------------------------------------------------- folders and links
@pytest.mark.virtual
async def test_the_folder_of_drop_ins_may_come_and_go(path: Path) -> None:
    """Made, removed, moved away and back, replaced by a link, and by another link."""
    folder, stores = path.parent / "X.d", [path.parent.parent / name for name in ("one", "two")]
    for store in stores:
        store.mkdir()
        (store / "a.toml").write_text(store.name)
    async with watched(path, FakeClock()) as reader:
        folder.mkdir()
        (folder / "a.toml").write_text("made")
        await reader.sees("a = 1\n|made")
        folder.rename(path.parent.parent / "aside")
        await reader.sees("a = 1\n")
        (path.parent.parent / "aside").rename(folder)
        await reader.sees("a = 1\n|made")
        shutil.rmtree(folder)
        await reader.sees("a = 1\n")
        for store in stores:
            folder.unlink(missing_ok=True)
            folder.symlink_to(f"../{store.name}")
            await reader.sees(f"a = 1\n|{store.name}")
        replace(stores[1] / "a.toml", "replaced")
        await reader.sees("a = 1\n|replaced")
        (stores[1] / "a.toml").write_text("written")
        await reader.sees("a = 1\n|written")


@pytest.mark.virtual
async def test_a_folder_above_may_come_and_go(tmp_path: Path) -> None:
    """Whichever it is, and also before the first start."""
    path = tmp_path / "data/etc/X.toml"
    async with watched(path, FakeClock()) as reader:
        absent = reader.contents[0]
        assert "no such file" in absent
        path.parent.mkdir(parents=True)
        path.write_text("made")
        await reader.sees("made")
        for folder in (path.parent, path.parent.parent):
            folder.rename(tmp_path / "aside")
            await reader.sees(absent)
            (tmp_path / "aside").rename(folder)
            await reader.sees("made")
            shutil.rmtree(folder)
            await reader.sees(absent)
            path.parent.mkdir(parents=True)
            path.write_text("made")
            await reader.sees("made")
        path.write_text("written")
        await reader.sees("written")


@pytest.mark.virtual
async def test_a_file_in_place_of_a_folder_is_replaced(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nor is a folder in place of a file a reason to look at them all the time."""
    async with watched(path, FakeClock()) as reader:
        (path.parent / "X.d").touch()
        await reader.sees("cannot list the folder: Not a directory")
        (path.parent / "X.d").unlink()
        await reader.sees("a = 1\n")
        path.unlink()
        path.mkdir()
        await reader.sees("this is a folder; name a file")
        shutil.rmtree(path.parent)
        path.parent.touch()
        await reader.sees("cannot list the folder: Not a directory")
        path.parent.unlink()
        path.parent.mkdir()
        path.write_text("made")
        await reader.sees("made")
    assert polled_reasons(caplog) == []


def kubernetes(folder: Path, version: int) -> None:
    """Bring a new version of a ConfigMap: its files lie behind a link, which is swapped."""
    data = folder / f"..2026_11_{version:02}"
    data.mkdir(parents=True)
    (data / "X.toml").write_text(f"a = {version}")
    old = (folder / "..data").resolve()
    (folder / "..data_tmp").symlink_to(data.name)
    (folder / "..data_tmp").rename(folder / "..data")
    if version > 1:
        shutil.rmtree(old)


@pytest.mark.virtual
async def test_a_config_map_is_swapped(tmp_path: Path) -> None:
    """As Kubernetes does, with the links that systems add on the way to it."""
    kubernetes(tmp_path / "map", 1)
    (tmp_path / "map/X.toml").symlink_to("..data/X.toml")
    (tmp_path / "etc").symlink_to(tmp_path / "map")
    (tmp_path / "X.toml").symlink_to("etc/../map/./X.toml")
    async with watched(tmp_path / "X.toml", FakeClock()) as reader:
        for version in range(2, 5):
            kubernetes(tmp_path / "map", version)
            await reader.sees(f"a = {version}")
        assert reader.contents == [f"a = {version}" for version in range(1, 5)]
        (tmp_path / "other").write_text("elsewhere")
        replace_link(tmp_path / "X.toml", "other")
        await reader.sees("elsewhere")
        (tmp_path / "map/..data/X.toml").write_text("of no interest")
        replace_link(tmp_path / "X.toml", "X.toml")
        await reader.sees("cannot be read: Too many levels of symbolic links")
        replace_link(tmp_path / "X.toml", "etc/X.toml")
        await reader.sees("of no interest")


def replace_link(path: Path, target: str) -> None:
    """Let a symbolic link point to another target."""
    path.with_suffix(".new").symlink_to(target)
    path.with_suffix(".new").rename(path)


@pytest.mark.virtual
async def test_a_link_in_the_folder_of_drop_ins_is_followed(path: Path) -> None:
    """To the file that it leads to, which may be missing at first."""
    store = path.parent.parent / "store/site"
    (path.parent / "X.d").mkdir()
    (path.parent / "X.d/a.toml").symlink_to(store)
    async with watched(path, FakeClock()) as reader:
        store.parent.mkdir()
        store.write_text("made")
        await reader.sees("a = 1\n|made")
        replace(store, "replaced")
        await reader.sees("a = 1\n|replaced")
        store.write_text("written")
        await reader.sees("a = 1\n|written")


@pytest.mark.virtual
async def test_too_many_drop_ins_are_not_all_watched(path: Path) -> None:
    """None of them is read, until some are removed."""
    (path.parent / "X.d").mkdir()
    for number in range(3 * MAX_DROP_INS):
        (path.parent / f"X.d/{number:03}.toml").touch()
    async with watched(path, FakeClock()) as reader:
        assert "at most" in reader.contents[0]
        for number in range(1, 3 * MAX_DROP_INS):
            (path.parent / f"X.d/{number:03}.toml").unlink()
        await reader.sees("a = 1\n|")
        (path.parent / "X.d/000.toml").write_text("last")
        await reader.sees("a = 1\n|last")


@pytest.mark.root
async def test_a_file_system_is_mounted_and_unmounted(tmp_path: Path) -> None:
    """On the way to the file, and again."""
    path = tmp_path / "disk/etc/X.toml"
    async with watched(path):
        pass  # what it leaves to the loop must not be in the way of the next one
    async with watched(path) as reader:
        absent = reader.contents[0]
        for text in ("first", "second"):
            with tmpfs(tmp_path / "disk", 1 << 20):
                path.parent.mkdir()
                path.write_text(text)
                await reader.sees(text)
            await reader.sees(absent)
        (tmp_path / "disk").mkdir()
        (tmp_path / "other").mkdir()
        (tmp_path / "other/X.toml").write_text("bound")
        path.parent.mkdir()
        run("mount", "--bind", tmp_path / "other", path.parent)
        try:
            await reader.sees("bound")
        finally:
            run("umount", path.parent)
        await reader.sees(absent)


@pytest.mark.root
async def test_the_first_edit_on_an_overlay_is_seen(tmp_path: Path) -> None:
    """Writing into a file of the lower layer copies it to the upper one; it is watched all the same."""
    with tmpfs(tmp_path / "disk", 1 << 20) as disk:
        for name in ("lower", "upper", "work", "merged"):
            (disk / name).mkdir()
        (disk / "lower/X.toml").write_text("lower")
        layers = f"lowerdir={disk}/lower,upperdir={disk}/upper,workdir={disk}/work"
        path = disk / "merged/X.toml"
        run("mount", "-t", "overlay", "-o", layers, "none", path.parent)
        try:
            async with watched(path) as reader:
                path.write_text("written")
                await reader.sees("written")
                path.write_text("again")
                await reader.sees("again")
                replace(path, "replaced")
                await reader.sees("replaced")
        finally:
            run("umount", path.parent)


# ---------------------------------------------------------------- polling
@contextlib.contextmanager
def fuse(path: Path, store: Path) -> Iterator[None]:
    """Show a folder through a FUSE file system, behind whose back it can be changed."""
    bindfs = require("bindfs", "bindfs")
    path.mkdir()
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("this kernel has no FUSE, and no package brings it")
    with subprocess.Popen([bindfs, "-f", "--no-allow-other", store, path], stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not path.is_mount():
                assert process.poll() is None, "bindfs has ended"
                assert time.monotonic() < deadline, "bindfs does not mount"
                time.sleep(0.01)
            yield
        finally:
            run("umount", path)
            process.wait(PATIENCE_S)


@pytest.mark.root
async def test_a_shared_file_system_is_looked_at(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The kernel does not hear of what is changed behind it; once, the reason is logged."""
    seen = path.parent.parent / "seen"
    (path.parent / "X.d").mkdir()
    with fuse(seen, path.parent):
        async with watched(seen / "X.toml") as reader:
            replace(path, "a = 2\n")
            await reader.sees("a = 2\n")
            (path.parent / "X.d/a.toml").write_text("b = 1")
            await reader.sees("a = 2\n|b = 1")
            (path.parent / "X.d/a.toml").write_text("b = 2")
            await reader.sees("a = 2\n|b = 2")
            (path.parent / "X.d/a.toml").unlink()
            await reader.sees("a = 2\n")
    assert polled_reasons(caplog) == [
        f"{seen}: cannot be watched: it lies on FUSE, which does not tell what is changed elsewhere; {INSTEAD}",
    ]


@pytest.mark.root
async def test_what_becomes_a_shared_file_system_is_looked_at_and_what_was_one_is_watched(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A mount or a link may lead there, and back."""
    link, seen = path.parent.parent / "X.toml", path.parent.parent / "seen"
    link.symlink_to(path)
    with fuse(seen, path.parent):
        async with watched(link) as reader:
            replace_link(link, "seen/X.toml")
            for text in ("2", "3"):
                path.write_text(text)
                await reader.sees(text)
            (path.parent.parent / "local").write_text("4")
            replace_link(link, "local")
            await reader.sees("4")
            (path.parent.parent / "local").write_text("5")
            await reader.sees("5", WITHIN_S)
    assert len(polled_reasons(caplog)) == 1


def permit(report: Report, folder: str) -> None:
    """Report why it is polled for a user who has to allow himself first to read his file, then its folder."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    path = Path(folder, "etc/X.toml")
    path.parent.mkdir()
    path.write_text("a = 1")
    path.chmod(0)
    reasons = list_reasons()

    async def edit() -> None:
        async with watched(path) as reader:
            assert "permission denied" in reader.contents[0]
            path.chmod(0o600)
            await reader.sees("a = 1")
            assert reasons == []
            path.parent.chmod(0o300)
            path.write_text("a = 2")
            await reader.sees("a = 2")
            path.write_text("a = 3")
            await reader.sees("a = 3")

    asyncio.run(edit())
    path.parent.chmod(0o700)
    for reason in reasons:
        report(reason.encode())


@pytest.mark.root
def test_what_may_not_be_read_yet_is_seen_when_it_may() -> None:
    """Of a folder that may only be passed through the kernel tells nothing: it is looked at."""
    if os.geteuid() != 0:
        missing("being another user needs root")
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is shut to others
        os.chown(folder, NOBODY, NOBODY)
        (reason,) = finished(permit, folder)
    assert reason.decode() == f"{folder}/etc: cannot be watched: Permission denied; {INSTEAD}"


def list_reasons() -> list[str]:
    """Return a list that grows by each reason that is logged from now on."""
    reasons: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: reasons.append(vars(record)["reason"])  # type: ignore[method-assign]
    logging.getLogger("edge_agent.adapters.config_watch").addHandler(handler)
    return reasons


def poll(report: Report, limit: str, path: str) -> None:
    """Report what is seen of three edits by a user who has no more of something of inotify, and why it is polled."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER) != 0:
        report(b"no user namespace: " + os.strerror(ctypes.get_errno()).encode())
        return
    Path("/proc/sys/user", limit).write_text("0")
    reasons = list_reasons()

    async def edit() -> None:
        async with watched(Path(path)) as reader:
            for text in ("2", "3", "4"):
                replace(Path(path), text)
                await reader.sees(text)
            report(" ".join(reader.contents).replace("\n", "").encode())

    asyncio.run(edit())
    for reason in reasons:
        report(reason.encode())


@pytest.mark.parametrize("limit", ["max_inotify_instances", "max_inotify_watches"])
def test_where_inotify_is_used_up_it_is_looked_at(path: Path, limit: str) -> None:
    """Also then every edit is seen; once, the reason and what to raise are logged."""
    contents, *reasons = finished(poll, limit, path)
    if contents.startswith(b"no user namespace"):
        pytest.skip(contents.decode())  # a kernel without: no package brings it
    assert contents == b"a = 1 2 3 4"
    assert len(reasons) == 1
    assert b"fs.inotify.max_user_instances or max_user_watches" in reasons[0]
    assert reasons[0].endswith(INSTEAD.encode())


# ---------------------------------------------------------------- what it costs
def used() -> tuple[int, int, int]:
    """Return how many descriptors this process has, how many watches of inotify, and how many objects."""
    descriptors = list(Path("/proc/self/fdinfo").iterdir())
    watches = 0
    for descriptor in descriptors:
        with contextlib.suppress(FileNotFoundError):  # the one by which they are listed
            watches += descriptor.read_text().count("inotify wd")
    gc.collect()
    return len(descriptors), watches, len(gc.get_objects())


@pytest.mark.virtual
async def test_a_thousand_edits_leave_nothing_behind(path: Path) -> None:
    """No descriptor, no watch, no object; a cancelled watch leaves none of its descriptors, either."""
    measured = []
    idle, _, _ = used()
    async with watched(path, FakeClock()) as reader:
        for number in range(1101):
            store = path.parent / f"{number}"
            store.mkdir()
            (store / "a.toml").write_text("b = 1")
            replace_link(path.parent / "X.d", store.name)
            replace(path, f"{number}")
            if number % 2:
                shutil.rmtree(path.parent / f"{number - 1}")  # every other folder stays
            await reader.sees(f"{number}|b = 1")
            reader.contents.clear()
            if number in (100, 1100):
                measured.append(used())
    (descriptors, watches, objects), after = measured
    assert after[:2] == (descriptors, watches)
    assert after[2] - objects < 100
    assert used()[0] == idle
