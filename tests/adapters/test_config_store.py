"""What is remembered of the configuration, on real disks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
from pathlib import Path

import pytest

from edge_agent.adapters import config_store
from edge_agent.adapters.config_store import MAX_BYTES, ConfigStore
from edge_agent.adapters.durable_file import put_file
from edge_agent.core.cloud_config import CloudConfig
from edge_agent.core.config_document import Source
from edge_agent.core.config_memory import ConfigMemory, Entry, Pin, Snapshot
from edge_agent.core.config_remote import Desired
from edge_agent.core.timebase import RawNs, seconds
from tests.support import bit_rot
from tests.support.small_disk import fill, read_only, tmpfs

A, B, C = "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"
DESIRED = Desired(7, {"heartbeat": {"every": "30s"}})
TRIAL = CloudConfig().begin(DESIRED, boot="b", raw=RawNs(5), within=seconds(120))


def after(*digests: str, pin: str | None = None) -> ConfigMemory:
    """Return what is remembered after some changes."""
    entries = tuple(Entry("2027-01-15T08:00:00.000000Z", digest, "files", None, []) for digest in digests)
    return ConfigMemory(TRIAL, None if pin is None else Pin(pin, "f"), entries)


def shot(text: str = "x = 1") -> Snapshot:
    """Return a configuration as it was said."""
    return Snapshot((Source("/a.toml", text.encode()),), DESIRED)


async def test_what_is_saved_is_there_for_the_next_process(tmp_path: Path) -> None:
    """What is remembered, and the configurations that can be gone back to; for nobody else to read."""
    await ConfigStore(tmp_path).save_soon(after(A, B), {A: shot("a"), B: shot("b")})
    again = ConfigStore(tmp_path)
    assert again.load() == after(A, B)
    assert (again.snapshot(A), again.snapshot(B), again.snapshot(C)) == (shot("a"), shot("b"), None)
    assert again.kept() == {A, B}
    folder = tmp_path / "config"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == dict.fromkeys(
        ("memory.json", f"{A}.json", f"{B}.json"), 0o600
    )


def test_at_first_nothing_is_remembered_and_nothing_is_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever only looks leaves no trace, also where there is no state directory."""
    for folder in (tmp_path, tmp_path / "none"):
        store = ConfigStore(folder)
        assert (store.load(), store.kept(), store.snapshot(A)) == (ConfigMemory(), set(), None)
    assert list(tmp_path.iterdir()) == []
    assert caplog.records == []


@pytest.mark.parametrize("digest", ["", "memory", "../config/memory", "/etc/passwd", "AAAAAAAAAAAA", "aaaaaaaaaaa\n"])
def test_only_a_digest_names_a_configuration(digest: str, tmp_path: Path) -> None:
    """Whoever asks over the socket for something else gets nothing."""
    ConfigStore(tmp_path).save(after(A))
    assert ConfigStore(tmp_path).snapshot(digest) is None


async def test_what_nobody_remembers_any_more_goes(tmp_path: Path) -> None:
    """But for what somebody has gone back to, and other people's files; with it what a crash left unfinished."""
    store = ConfigStore(tmp_path)
    await store.save_soon(after(A, B), {A: shot(), B: shot()})
    (tmp_path / "config" / "notes.json").write_text("mine")
    (tmp_path / "config" / f".{B}.json").write_text("half of")
    (tmp_path / "config" / ".memory.json").write_text("")
    await store.save_soon(after(B, C, pin=A), {C: shot()})
    assert store.kept() == {A, B, C}
    await store.save_soon(after(C), {})
    assert sorted(path.name for path in (tmp_path / "config").iterdir()) == [f"{C}.json", "memory.json", "notes.json"]


async def test_of_too_much_the_oldest_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never what is in force."""
    monkeypatch.setattr(config_store, "MAX_KEPT", 2500)
    store = ConfigStore(tmp_path)
    await store.save_soon(after(A, B, C), {digest: shot("#" * 1000) for digest in (A, B, C)})
    assert store.kept() == {B, C}
    monkeypatch.setattr(config_store, "MAX_KEPT", 10)
    await store.save_soon(after(A, B, C), {})
    assert store.kept() == {C}


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b"\xff", b'{"form": 2}', b"[" * 5000, b" " * MAX_BYTES + b"{}", b"5"],
    ids=["empty", "cut", "array", "null", "no text", "newer", "deep", "huge", "number"],
)  # fmt: skip
def test_what_is_damaged_is_as_good_as_nothing_and_said(
    text: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And can be replaced."""
    store = ConfigStore(tmp_path)
    store.save(after(A))
    for name in ("memory", A):
        (tmp_path / "config" / f"{name}.json").write_bytes(text)
    assert (store.load(), store.snapshot(A)) == (ConfigMemory(), None)
    assert [record.getMessage() for record in caplog.records] == ["config_memory_unusable"] * 2
    store.save(after(A))
    assert store.load() == after(A)


def test_wherever_bits_rot_the_agent_can_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is read, it can be worked with and written again."""
    store, rng = ConfigStore(tmp_path), random.Random(4)  # noqa: S311  # no secret
    with caplog.at_level(logging.CRITICAL):
        for _ in range(300):
            store.save(after(A, B, pin=A))
            for _ in range(rng.randint(1, 3)):
                bit_rot.flip(tmp_path / "config" / "memory.json", rng)
            memory = store.load()
            store.save(memory)
            assert store.load() == memory


def test_in_the_place_of_a_file_may_be_anything(tmp_path: Path) -> None:
    """A folder, or no access: it cannot be read, or written, and that is all."""
    store = ConfigStore(tmp_path)
    (tmp_path / "config" / "memory.json").mkdir(parents=True)
    (tmp_path / "config" / f"{A}.json").mkdir()
    assert (store.load(), store.snapshot(A)) == (ConfigMemory(), None)
    with pytest.raises(OSError, match="directory"):
        store.save(after(A))
    other = ConfigStore(tmp_path / "file")
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "config").write_text("")
    assert (other.load(), other.kept()) == (ConfigMemory(), set())
    with pytest.raises(OSError, match="exists"):
        other.save(after(A))


async def test_while_the_disk_is_full_what_was_there_before_stays(tmp_path: Path) -> None:
    """Wherever there is no more room: for the configuration, for what is remembered, or for both."""
    with tmpfs(tmp_path / "small", 256 << 10) as disk:
        store = ConfigStore(disk)
        await store.save_soon(after(A), {A: shot("a" * 5000)})
        for leave in (0, 4096, 12 << 10):
            large = after(*([B] * 600))  # more than a block
            with fill(disk, leave=leave), pytest.raises(OSError, match="No space"):
                await store.save_soon(large, {B: shot("b" * 5000)})
            assert store.load() == after(A)
            assert store.snapshot(A) == shot("a" * 5000)
        await store.save_soon(after(A, B), {B: shot("b" * 5000)})
        assert (store.load(), store.kept()) == (after(A, B), {A, B})
        with read_only(disk):
            with pytest.raises(OSError, match="Read-only"):
                await store.save_soon(after(C), {C: shot()})
            with pytest.raises(OSError, match="Read-only"):
                store.save(after(C))
        assert (store.load(), store.kept()) == (after(A, B), {A, B})


async def test_who_is_cancelled_while_it_writes_may_write_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written first is whole before the next begins, and the last one counts."""
    writes: list[str] = []
    may_go_on, begun = threading.Event(), threading.Event()

    def slow(path: Path, data: bytes) -> None:
        begun.set()
        may_go_on.wait()
        put_file(path, data)
        writes.append(path.name)

    monkeypatch.setattr("edge_agent.adapters.config_store.put_file", slow)
    store = ConfigStore(tmp_path)
    first = asyncio.get_running_loop().create_task(store.save_soon(after(A), {A: shot()}))
    await asyncio.to_thread(begun.wait)
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    second = asyncio.get_running_loop().create_task(store.save_soon(after(B), {B: shot()}))
    await asyncio.sleep(0.01)
    assert writes == []
    may_go_on.set()
    await second
    assert writes == [f"{A}.json", "memory.json", f"{B}.json", "memory.json"]
    assert (store.load(), store.kept()) == (after(B), {B})
