"""Changes of the configuration where nothing can be written: the cloud's are refused, the files' are in force."""

from __future__ import annotations

import errno
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import pytest

from tests.agent.test_config_kills import Device, device, ending
from tests.support import small_disk
from tests.support.agents import HEARTBEAT, observer
from tests.support.brokers import mosquitto
from tests.support.iotrace import Iotrace, failing

pytestmark = pytest.mark.broker
Broken = Callable[[], AbstractContextManager[object]]
FAULTS: Final = {"full": errno.ENOSPC, "read-only": errno.EROFS, "broken": errno.EIO}


def edit(one: Device, every: str) -> None:
    """Put a drop-in with another interval of heartbeats beside the file."""
    new = one.folder / "new"
    new.write_text(f'[log]\nlevel = "{every}"\n')
    new.rename(one.folder / "edge-agent.d" / "50-edit.toml")


async def check_fault(one: Device, fault: Broken, reason: str) -> None:
    """Ask that the cloud is refused for a reason and files are not, and that both work again once it is over."""
    before = await one.told("applied", None)
    with fault():
        at = await one.desire(1, heartbeat={"every": "300ms"})
        said = await one.told("rejected", 1, after=at)
        assert reason in said["errors"][0]["reason"]
        assert said["digest"] == before["digest"]
        edit(one, "debug")
        (applied,) = await one.process.logged("config_applied")
        assert (applied["by"], applied["keys"]) == ("files", ["log.level"])
        assert one.process.events("config_not_kept")
        beat = await one.seen.wait(HEARTBEAT, after=time.monotonic(), count=2)
        assert beat.data["config"] == {"digest": applied["config"], "version": None}
        assert beat.data["interval_s"] == 1
    at = await one.desire(1, heartbeat={"every": "300ms"})
    await one.told("applied", 1, after=at)
    complaints = len(one.process.events("config_not_kept"))
    edit(one, "info")
    await one.process.logged("config_applied", 3)
    assert len(one.process.events("config_not_kept")) == complaints
    at = await one.restart()
    await one.told("applied", 1, after=at)
    assert len(one.process.events("connected")) == 2


@pytest.mark.root
async def test_on_a_full_disk_files_are_obeyed_and_the_cloud_is_refused(tmp_path: Path) -> None:
    """All of the state directory, the outbox's store too."""
    state = tmp_path / "state"
    async with mosquitto(tmp_path) as broker, observer(broker.url) as seen:
        with small_disk.tmpfs(state, 8 << 20):
            async with device(tmp_path, broker, seen) as one:
                await check_fault(one, lambda: small_disk.fill(state), "No space left on device")


@pytest.mark.parametrize("name", FAULTS)
async def test_where_nothing_can_be_written_files_are_obeyed_and_the_cloud_is_refused(
    name: str, tmp_path: Path
) -> None:
    """Also where the disk fails only once it is to be sure."""
    switch = tmp_path / "switch"
    environ = Iotrace(tmp_path / "state" / "config").environ(
        write_fail=None if name == "broken" else switch, sync_fail=switch if name == "broken" else None
    )
    async with (
        mosquitto(tmp_path) as broker,
        observer(broker.url) as seen,
        device(tmp_path, broker, seen, **environ) as one,
    ):
        await check_fault(one, lambda: failing(switch, FAULTS[name]), "cannot be kept on disk")


@pytest.mark.timeout_s(90)
async def test_what_ends_the_agent_is_taken_back_where_no_start_can_be_counted(tmp_path: Path) -> None:
    """The disk is full since: it is not tried again."""
    switch = tmp_path / "switch"
    environ = Iotrace(tmp_path / "state" / "config").environ(write_fail=switch)
    async with (
        mosquitto(tmp_path) as broker,
        observer(broker.url) as seen,
        device(tmp_path, broker, seen, **ending(tmp_path), **environ) as one,
    ):
        before = await one.told("applied", None)
        at = await one.desire(1, jobs={"end": {"kind": "die", "every": "1s", "splay": "0s"}})
        await one.told("applied", 1, after=at)
        assert await one.process.wait() == -signal.SIGKILL
        with failing(switch, errno.ENOSPC):
            one.process.start()
            back = await one.told("rolled_back", 1, after=at)
            assert back["digest"] == before["digest"]
            assert "cannot be noted" in back["errors"][0]["reason"]
            _ = await seen.wait(HEARTBEAT, after=time.monotonic(), count=3)
        at = await one.desire(2, heartbeat={"every": "300ms"})
        await one.told("applied", 2, after=at)
        at = await one.restart()
        await one.told("applied", 2, after=at)
        assert list(one.begun()) == [1, 2]
