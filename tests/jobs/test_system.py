"""How the machine is that the tests run on."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.adapters.system_clock import SystemClock
from edge_agent.jobs.system import KIND
from tests.support.job_context import Published, context, run


async def test_everything_is_measured_by_default(tmp_path: Path) -> None:
    """One record, with what the kernel says itself."""
    published = Published()
    await run(KIND, context(tmp_path, published), cpu_over="100ms")
    (data,) = published.records
    assert list(data) == ["cpu", "memory", "disk", "temperature_c", "network", "load", "uptime_s"]
    assert 0 <= data["cpu"]["percent"] <= 100
    assert data["cpu"]["count"] == os.cpu_count()
    kilobytes = int(Path("/proc/meminfo").read_text().split()[1])
    assert data["memory"]["total_bytes"] == kilobytes * 1024
    assert 0 < data["memory"]["available_bytes"] < data["memory"]["total_bytes"]
    space = os.statvfs("/")
    assert data["disk"]["/"]["total_bytes"] == space.f_blocks * space.f_frsize
    assert "lo" not in data["network"]
    assert len(data["load"]) == 3
    assert 0 <= float(Path("/proc/uptime").read_text().split()[0]) - data["uptime_s"] < 60


async def test_only_what_is_asked_for_is_measured(tmp_path: Path) -> None:
    """And a disk that is not there keeps back nothing."""
    published = Published()
    await run(KIND, context(tmp_path, published), what=["disk", "load"], disks=["/nowhere", str(tmp_path)])
    (data,) = published.records
    assert list(data) == ["disk", "load"]
    assert data["disk"]["/nowhere"] is None
    assert data["disk"][str(tmp_path)]["free_bytes"] > 0


async def test_a_busy_cpu_is_seen(tmp_path: Path) -> None:
    """All of them kept busy for as long as they are watched: the percentage is that of the kernel's own counters."""

    def ticks() -> list[int]:
        return [int(number) for number in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]

    def busy(before: list[int], after: list[int]) -> float:
        spent = [now - then for then, now in zip(before, after, strict=True)]
        return 100 * (1 - (spent[3] + spent[4]) / sum(spent))

    published, clock, seen = Published(), SystemClock(), []
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        seen.append(ticks())
        await run(KIND, context(tmp_path, published, clock=clock), what=["cpu"], cpu_over="2s")
        seen.append(ticks())
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    assert published.records[0]["cpu"]["percent"] == pytest.approx(busy(*seen), abs=20)


async def test_it_watches_the_cpu_as_long_as_it_is_told(tmp_path: Path) -> None:
    """And holds up nobody meanwhile."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await run(KIND, context(tmp_path), what=["cpu"], cpu_over="300ms")
    assert loop.time() - began >= 0.3


def test_psutil_is_only_imported_by_a_run() -> None:
    """Who has no job of this kind does not pay for it."""
    code = "import sys, edge_agent.jobs.system; sys.exit('psutil' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
