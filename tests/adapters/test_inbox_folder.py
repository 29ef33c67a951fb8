"""The inbox as a folder, in which other programs may put anything."""

from __future__ import annotations

import asyncio
import grp
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_agent.adapters import places
from edge_agent.adapters.drop_folder import MAX_BATCH, MAX_BATCH_BYTES, MAX_LISTED
from edge_agent.adapters.inbox_folder import (
    MAX_REJECTED,
    MAX_REJECTED_BYTES,
    InboxFolder,
)
from edge_agent.core.submission import ENVELOPE
from edge_agent.errors import EdgeAgentError
from edge_agent.ports import Arrival
from tests.support.brokers import missing
from tests.support.inboxes import drop, drop_many, left, logged
from tests.support.killing import Report, finished
from tests.support.small_disk import read_only, tmpfs

MAX_RECORD = 120 * 1024
MAX_FILE = MAX_RECORD + ENVELOPE
WITHIN_S = 30
NOBODY = 65534


def folder(path: Path, *, group: str | None = None, max_record: int = MAX_RECORD) -> InboxFolder:
    """Return the inbox at a path, for the own group."""
    return InboxFolder(path, group=group or grp.getgrgid(os.getegid()).gr_name, max_record=max_record)


async def scan(inbox: InboxFolder) -> list[Arrival]:
    """Return all files."""
    return [arrival async for batch in inbox.batches() for arrival in batch]


async def only(inbox: InboxFolder) -> Arrival:
    """Return the one file that is there."""
    (arrival,) = await scan(inbox)
    return arrival


def permissions(path: Path) -> int:
    """Return the permission bits, setgid among them."""
    return stat.S_IMODE(path.stat().st_mode)


# ---------------------------------------------------------------- the folder
async def test_the_folder_is_made_for_the_group(tmp_path: Path) -> None:
    """Setgid, so that the agent can read what a member of the group puts in; the umask changes nothing."""
    before = os.umask(0o077)
    try:
        await asyncio.wait_for(first_call(folder(tmp_path / "inbox")), WITHIN_S)
    finally:
        os.umask(before)
    assert permissions(tmp_path / "inbox") == permissions(tmp_path / "inbox/rejected") == 0o2770


async def first_call(inbox: InboxFolder) -> None:
    """Wait until the folder is watched."""
    called = asyncio.Event()
    watching = asyncio.ensure_future(inbox.watch(called.set))
    await called.wait()
    watching.cancel()
    await asyncio.wait((watching,))


async def test_a_folder_that_exists_keeps_its_permissions(tmp_path: Path) -> None:
    """Somebody has chosen them."""
    (tmp_path / "inbox").mkdir(mode=0o700)
    await first_call(folder(tmp_path / "inbox"))
    assert permissions(tmp_path / "inbox") == 0o700
    assert permissions(tmp_path / "inbox/rejected") == 0o2770


async def test_without_the_group_there_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent's own group serves, for both folders."""
    monkeypatch.setattr(places, "_SAID", set())
    await first_call(folder(tmp_path / "inbox", group="no-such-group"))
    assert [record.message for record in logged(caplog)] == ["group_missing"]
    assert permissions(tmp_path / "inbox") == 0o2770
    assert (tmp_path / "inbox").stat().st_gid == os.getegid()


@pytest.mark.root
async def test_the_folder_is_given_to_the_group(tmp_path: Path) -> None:
    """Where the agent may do so."""
    if os.geteuid() != 0:
        missing("giving a folder to another group needs root")
    await first_call(folder(tmp_path / "inbox", group="daemon"))
    assert (tmp_path / "inbox").stat().st_gid == grp.getgrnam("daemon").gr_gid
    assert permissions(tmp_path / "inbox") == 0o2770


async def test_a_folder_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    """Also a link is none: it could lead anywhere."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for path in (tmp_path / "file/inbox", tmp_path / "file", tmp_path / "link", tmp_path / "none/inbox"):
        with pytest.raises(EdgeAgentError, match="it must be a folder of the agent's user"):
            await scan(folder(path))
        with pytest.raises(EdgeAgentError, match="it must be a folder of the agent's user"):
            await folder(path).watch(lambda: None)


# ---------------------------------------------------------------- notification
async def test_a_file_is_noticed_when_it_is_renamed_into_the_folder(tmp_path: Path) -> None:
    """Not while it has a name that begins with a dot; and a first time when watching begins."""
    calls, called = 0, asyncio.Event()

    def changed() -> None:
        nonlocal calls
        calls += 1
        called.set()

    watching = asyncio.ensure_future(folder(tmp_path / "inbox").watch(changed))
    await called.wait()
    called.clear()
    (tmp_path / "inbox/.half").write_bytes(b"x")
    (tmp_path / "inbox/.half").rename(tmp_path / "inbox/.quarter")
    (tmp_path / "inbox/.quarter").rename(tmp_path / "inbox/whole")
    await called.wait()
    assert calls == 2
    watching.cancel()
    await asyncio.wait((watching,))


@pytest.mark.parametrize("how", ["removed", "moved"])
async def test_watching_ends_when_the_folder_goes(tmp_path: Path, how: str) -> None:
    """And begins again with a new one."""
    inbox, called = folder(tmp_path / "inbox"), asyncio.Event()
    watching = asyncio.ensure_future(inbox.watch(called.set))
    await called.wait()
    if how == "removed":
        (tmp_path / "inbox/rejected").rmdir()
        (tmp_path / "inbox").rmdir()
    else:
        (tmp_path / "inbox").rename(tmp_path / "elsewhere")
    await watching
    await first_call(inbox)
    assert (tmp_path / "inbox").is_dir()


# ---------------------------------------------------------------- listing and reading
async def test_files_come_in_order_of_name_and_no_more_at_once_than_allowed(tmp_path: Path) -> None:
    """Each once, however many there are."""
    inbox = folder(tmp_path)
    drop_many(tmp_path, range(MAX_LISTED + 3 * MAX_BATCH + 1))
    batches = [batch async for batch in inbox.batches()]
    assert [arrival.name for batch in batches for arrival in batch] == left(tmp_path)
    assert max(map(len, batches)) == MAX_BATCH


async def test_large_files_come_fewer_at_a_time(tmp_path: Path) -> None:
    """What is in memory is bounded, too."""
    for number in range(20):
        drop(tmp_path, str(number), b"x" * 100_000)
    batches = [batch async for batch in folder(tmp_path).batches()]
    assert sum(map(len, batches)) == 20
    assert max(sum(len(arrival.content) for arrival in batch) for batch in batches) < MAX_BATCH_BYTES + MAX_FILE


async def test_hidden_files_and_folders_are_left_alone(tmp_path: Path) -> None:
    """They are half-written, or nobody's business."""
    (tmp_path / ".half").write_bytes(b"{")
    (tmp_path / "folder").mkdir()
    assert await scan(folder(tmp_path)) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [".half", "folder"]


async def test_what_is_no_regular_file_is_never_opened(tmp_path: Path) -> None:
    """A FIFO without a writer, a socket, links to a file, to nothing and to a folder."""
    (tmp_path / "secret").write_text("secret")
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    os.mkfifo(inbox / "fifo")
    (inbox / "link").symlink_to(tmp_path / "secret")
    (inbox / "nowhere").symlink_to(tmp_path / "nothing")
    (inbox / "up").symlink_to(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(inbox / "socket"))
    arrivals = await scan(folder(inbox))
    assert [arrival.name for arrival in arrivals] == ["fifo", "link", "nowhere", "socket", "up"]
    assert {arrival.content for arrival in arrivals} == {b""}
    assert all(arrival.fault and "no regular file" in arrival.fault for arrival in arrivals)
    assert await folder(inbox).settle([(arrival, arrival.fault) for arrival in arrivals]) == []
    assert (inbox / "rejected/link").is_symlink()
    assert left(inbox) == []
    assert (tmp_path / "secret").read_text() == "secret"


async def test_a_file_may_have_so_many_bytes_and_not_one_more(tmp_path: Path) -> None:
    """A larger one is not read; both sizes are named."""
    drop(tmp_path, "a", b"x" * MAX_FILE)
    drop(tmp_path, "b", b"x" * (MAX_FILE + 1))
    fits, larger = await scan(folder(tmp_path))
    assert (len(fits.content), fits.fault) == (MAX_FILE, None)
    assert larger.content == b""
    assert larger.fault is not None
    assert str(MAX_FILE + 1) in larger.fault
    assert str(MAX_FILE) in larger.fault


def read_as_nobody(report: Report, path: str) -> None:
    """Report the fault of the one file in an inbox, as a user without privileges."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)

    async def run() -> None:
        inbox = folder(Path(path))
        arrival = await only(inbox)
        report((arrival.fault or "readable").encode())
        assert await inbox.settle([(arrival, arrival.fault)]) == []

    asyncio.run(run())


@contextmanager
def everybodys() -> Iterator[Path]:
    """Make an inbox that every user reaches; not where pytest's folders are, which each run shuts to others anew."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        inbox = Path(folder, "inbox")
        inbox.mkdir()
        inbox.chmod(0o777)
        yield inbox


@pytest.mark.root
def test_a_file_that_the_agent_may_not_read_is_put_aside() -> None:
    """The reason says what to do."""
    if os.geteuid() != 0:
        missing("being two users needs root")
    with everybodys() as inbox:
        drop(inbox, "private", b"{}").chmod(0o600)
        assert finished(read_as_nobody, inbox) == [b"cannot be read: Permission denied; let the agent's group read it"]
        assert (inbox / "rejected/private").exists()
        assert "let the agent's group read it" in (inbox / "rejected/private.reason.txt").read_text()


async def test_a_key_names_one_file_also_after_a_restart(tmp_path: Path) -> None:
    """Another content, another name, another file: another key. None is longer than a key may be."""
    drop(tmp_path, "a", b"1")
    first = await only(folder(tmp_path))
    assert await only(folder(tmp_path)) == first
    times = (tmp_path / "a").stat()
    (tmp_path / "a").write_bytes(b"2")
    os.utime(tmp_path / "a", ns=(times.st_atime_ns, times.st_mtime_ns))
    second = await only(folder(tmp_path))
    assert second.identity == first.identity  # what a filesystem with coarse times makes of a file written at once
    (tmp_path / "a").rename(tmp_path / ("b" * 240))
    third = await only(folder(tmp_path))
    assert len({first.key, second.key, third.key}) == 3
    assert all(arrival.key.startswith("inbox:") and len(arrival.key) <= 256 for arrival in (first, second, third))


async def test_any_name_will_do(tmp_path: Path) -> None:
    """Also one that is no text; one that leaves no room for the reason's is shortened when it is put aside."""
    os.close(os.open(os.fsencode(tmp_path) + b"/\xff\n", os.O_CREAT | os.O_WRONLY))
    drop(tmp_path, "n" * 255, b"{}")
    inbox = folder(tmp_path)
    long, odd = await scan(inbox)
    assert odd.key.encode()
    assert odd.fault is None
    assert long.fault is None
    assert await inbox.settle([(long, "bad"), (odd, "bad \udcff")]) == []
    assert left(tmp_path) == []
    assert (tmp_path / "rejected" / ("n" * 240)).exists()
    assert (tmp_path / "rejected" / ("n" * 240 + ".reason.txt")).exists()


# ---------------------------------------------------------------- settling
async def test_what_was_taken_in_is_removed_and_what_is_bad_is_put_aside_with_its_reason(tmp_path: Path) -> None:
    """A later one of the same name replaces what is there, and what has gone by itself is no trouble."""
    inbox = folder(tmp_path)
    for reason in ("first", "second"):
        for name in ("bad", "good", "gone"):
            drop(tmp_path, name, reason.encode())
        bad, good, gone = await scan(inbox)
        (tmp_path / "gone").unlink()
        assert await inbox.settle([(bad, reason), (good, None), (gone, None)]) == []
        assert left(tmp_path) == []
        assert (tmp_path / "rejected/bad").read_text() == reason
        assert (tmp_path / "rejected/bad.reason.txt").read_text() == f"{reason}\n"


async def test_another_file_that_has_taken_the_name_stays(tmp_path: Path) -> None:
    """It is the next one to be taken in."""
    inbox = folder(tmp_path)
    for reason in (None, "bad"):
        drop(tmp_path, "a", b"old")
        old = await only(inbox)
        drop(tmp_path, "a", b"newer")
        assert await inbox.settle([(old, reason)]) == []
        assert (await only(inbox)).content == b"newer"


async def test_planted_links_lead_nowhere(tmp_path: Path) -> None:
    """Neither a link in place of the reason nor one in place of the folder for rejected files is followed."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("precious")
    path = tmp_path / "inbox"
    (path / "rejected").mkdir(parents=True)
    (path / "rejected/bad.reason.txt").symlink_to(victim / "file")
    inbox = folder(path)
    drop(path, "bad", b"x")
    assert await inbox.settle([(await only(inbox), "bad")]) == []
    assert (victim / "file").read_text() == "precious"
    (path / "rejected").rename(tmp_path / "elsewhere")
    (path / "rejected").symlink_to(victim)
    drop(path, "worse", b"x")
    worse = await scan(inbox)
    names = [arrival.name for arrival in worse]
    assert "worse" in names
    resisting = await inbox.settle([(arrival, "bad") for arrival in worse])
    assert [arrival.name for arrival in resisting] == names
    assert [path.name for path in victim.iterdir()] == ["file"]


async def test_rejected_files_are_bounded_in_number(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The oldest go first, reasons among them; that is logged once."""
    inbox = folder(tmp_path)
    for first in range(0, 1200, MAX_BATCH):
        drop_many(tmp_path, range(first, first + MAX_BATCH))
        assert await inbox.settle([(arrival, "bad") for arrival in await scan(inbox)]) == []
    kept = sorted(path.name for path in (tmp_path / "rejected").iterdir())
    assert len(kept) == MAX_REJECTED
    assert kept[0] == f"{1280 - MAX_REJECTED // 2:07}.json"
    assert kept[-1] == "0001279.json.reason.txt"
    assert [record.message for record in logged(caplog)] == ["inbox_rejected_full"]


async def test_rejected_files_are_bounded_in_size(tmp_path: Path) -> None:
    """One that is too large for the folder does not drive out the others; its reason stays."""
    inbox = folder(tmp_path)
    for number in range(20):
        drop(tmp_path, f"{number:02}", bytes(1 << 20))
        assert await inbox.settle([(await only(inbox), "bad")]) == []
    with (tmp_path / "huge").open("wb") as huge:
        huge.truncate(20 << 20)
    arrival = await only(inbox)
    assert await inbox.settle([(arrival, arrival.fault)]) == []
    kept = {path.name: path.stat().st_size for path in (tmp_path / "rejected").iterdir()}
    assert (1 << 20) * 15 <= sum(kept.values()) <= MAX_REJECTED_BYTES
    assert {"19", "huge.reason.txt"} <= kept.keys()
    assert not {"00", "huge"} & kept.keys()


@pytest.mark.root
async def test_where_nothing_can_be_put_aside_the_rest_goes_on(tmp_path: Path) -> None:
    """A bad file stays where it is, a good one is removed."""
    (tmp_path / "inbox").mkdir()
    inbox = folder(tmp_path / "inbox")
    with tmpfs(tmp_path / "inbox/rejected", 1 << 20), read_only(tmp_path / "inbox/rejected"):
        drop(tmp_path / "inbox", "bad", b"x")
        drop(tmp_path / "inbox", "good", b"x")
        bad, good = await scan(inbox)
        assert await inbox.settle([(bad, "bad"), (good, None)]) == [bad]
        assert left(tmp_path / "inbox") == ["bad"]
