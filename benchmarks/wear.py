"""What the agent writes to flash: sectors of a loop-mounted ext4 that holds nothing but its state directory.

``python -m benchmarks.wear`` (root, mkfs.ext4, mosquitto) reads the counters of the block device, so the file system's
own journal and metadata are in every figure; nothing is subtracted. What the empty file system writes by itself in the
same way is measured beside it. Each figure begins some time after the start of the agent, so that making the files of
the outbox, which happens once, is not multiplied; it is a row of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from typing_extensions import override

from benchmarks.footprint import MB, MIB, Row, at_most
from benchmarks.workload import control, report, sections, socket_path, state_dir
from tests.support.agents import HEARTBEAT, agent, config_text, observer
from tests.support.brokers import mosquitto

MAX_ONLINE_MB: Final = 1.0  # plan; an hour with 10 records a second online
MAX_IDLE_MB: Final = 10.0  # plan; a day of the default configuration online, with nothing to send but heartbeats

RATE: Final = 10
HOUR_S: Final = 3600
DAY_S: Final = 86_400
SETTLE_S: Final = 10.0  # of life before writing is counted: beyond the 5 s after which ext4 commits its journal
SECTOR: Final = 512
IMAGE_BYTES: Final = 256 * MIB
WRITTEN: Final = 6  # field of /sys/block/DEVICE/stat: sectors written


@dataclass(frozen=True, slots=True)
class Disk:
    """A mounted file system of its own.

    Attributes:
        device: the block device, as ``loop0``.
        path: where it is mounted.
    """

    device: str
    path: Path

    def written(self) -> int:
        """Return the bytes written to the device so far, after all that is pending has been."""
        _run("sync", "-f", str(self.path))
        return SECTOR * int(Path(f"/sys/block/{self.device}/stat").read_text().split()[WRITTEN])


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextlib.contextmanager
def disk(folder: Path) -> Iterator[Disk]:
    """Mount an empty ext4; it is gone when the block ends."""
    image, path = folder / "image", state_dir(folder)
    path.mkdir()
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    # not lazily: the kernel would go on writing inode tables for minutes
    _run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))
    device = _run("losetup", "--find", "--show", str(image))
    try:
        _run("mount", "-o", "noinit_itable", device, str(path))
        try:
            yield Disk(Path(device).name, path)
        finally:
            _run("umount", str(path))
    finally:
        _run("losetup", "--detach", device)


@dataclass(frozen=True, slots=True)
class Written:
    """Bytes, and the seconds in which they were written."""

    count: int
    took_s: float

    def scaled(self, seconds: float) -> float:
        """Return the MB that make so many seconds."""
        return self.count / self.took_s * seconds / MB

    @override
    def __str__(self) -> str:
        return f"{self.count:,} bytes in {self.took_s:,.0f} s"


async def counted(on: Disk, work: Awaitable[None]) -> Written:
    """Return what is written while some work is done."""
    before, begun = on.written(), time.monotonic()
    await work
    took_s = time.monotonic() - begun
    return Written(on.written() - before, took_s)


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[tuple[Disk, Written]]:
    """Run an agent with the default configuration, online, its state on a disk; gives what its start has written."""
    with disk(folder) as on:
        async with mosquitto(folder, persistence=False) as broker, observer(broker.url) as watcher:
            begun, before = time.monotonic(), on.written()
            async with agent(folder, config_text(broker.url, every="1m", extra=sections(folder))):
                await watcher.wait(HEARTBEAT)
                await asyncio.sleep(SETTLE_S)
                yield on, Written(on.written() - before, time.monotonic() - begun)


async def put_steadily(socket: Path, seconds: float) -> None:
    """Hand in ``RATE`` records a second, each once the one before it is durable."""
    async with control(socket) as client:
        begun = time.monotonic()
        for number in range(int(seconds * RATE)):
            await asyncio.sleep(begun + number / RATE - time.monotonic())
            await client.publish(number)
        await asyncio.sleep(begun + seconds - time.monotonic())


async def measure_empty(folder: Path, args: argparse.Namespace) -> list[Row]:
    """Watch the disk with no agent at all."""
    with disk(folder) as on:
        await asyncio.sleep(SETTLE_S)
        found = await counted(on, asyncio.sleep(args.idle))
    hour = found.scaled(HOUR_S)
    return [Row("the empty file system by itself", f"{found}: {hour:.3f} MB/h", hour)]


async def measure_idle(folder: Path, args: argparse.Namespace) -> list[Row]:
    """Watch an agent that has nothing to send but heartbeats."""
    async with running(folder) as (on, start):
        found = await counted(on, asyncio.sleep(args.idle))
    day = found.scaled(DAY_S)
    return [
        Row("start of the agent, once", str(start), start.count / MB),
        at_most("idle online, default configuration", f"{found}: {day:.3f} MB/day", day, MAX_IDLE_MB, "MB/day"),
    ]


async def measure_online(folder: Path, args: argparse.Namespace) -> list[Row]:
    """Hand records to an agent that is online."""
    async with running(folder) as (on, _start):
        found = await counted(on, put_steadily(socket_path(folder), args.seconds))
    hour = found.scaled(HOUR_S)
    return [at_most(f"{RATE} records/s online", f"{found}: {hour:.3f} MB/h", hour, MAX_ONLINE_MB, "MB/h")]


PARTS: Final = {"empty": measure_empty, "idle": measure_idle, "online": measure_online}


async def measure(args: argparse.Namespace) -> list[Row]:
    """Run the parts, one after the other."""
    rows: list[Row] = []
    for name in args.only or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            rows += await PARTS[name](Path(folder), args)
    return rows


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.wear", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS, action="append", help="only this part; may be repeated")
    parser.add_argument("--seconds", type=float, default=3600, help="of records online (default: 3600)")
    parser.add_argument("--idle", type=float, default=600, help="seconds idle, and of the empty disk (default: 600)")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a requirement is missed")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    return parser.parse_args()


def main() -> int:
    """Run the benchmark."""
    args = _parse()
    if os.geteuid() != 0:
        raise SystemExit("root is needed, to mount a file system")
    os.environ["CI"] = "1"  # of the test support: what is missing is an error, there is no test to skip
    return report(asyncio.run(measure(args)), args)


if __name__ == "__main__":
    sys.exit(main())
