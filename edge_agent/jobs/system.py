"""The kind ``system``: how the device is doing, one record a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import orjson
from pydantic import Field

from edge_agent.core.config_types import AbsolutePath, Listed, Section, duration
from edge_agent.core.timebase import DurationNs, later
from edge_agent.job_ports import Context, Kind
from edge_agent.jobs.off_loop import off_loop

MAX_SHOWN: Final = 64  # network interfaces, sensors


class Options(Section):
    """What is measured."""

    what: Listed[Literal["cpu", "memory", "disk", "temperature", "network", "load", "uptime"]] = Field(
        ("cpu", "memory", "disk", "temperature", "network", "load", "uptime"),
        min_length=1,
        description="What is measured.",
    )
    disks: Listed[AbsolutePath] = Field(
        ("/",), min_length=1, max_length=16, description="A path on each of the disks that are measured."
    )
    cpu_over: DurationNs = duration("1s", "100ms", "1m", "How long the CPU is watched for its percentage")


async def run(ctx: Context, options: Options) -> None:
    """Measure once, and publish it."""
    import psutil  # noqa: PLC0415  # 0.7 MiB that only jobs of this kind need

    before = None
    if "cpu" in options.what:
        before = await off_loop(ctx, psutil.cpu_times)
        await ctx.clock.sleep_until(later(ctx.clock.monotonic(), options.cpu_over))
    data = await off_loop(ctx, partial(_measured, psutil, options, before))
    await ctx.publish(orjson.dumps(data))


def _measured(psutil: Any, options: Options, before: Any) -> dict[str, object]:  # noqa: ANN401  # psutil has no types
    measure: Mapping[str, Callable[[], object]] = {
        "cpu": lambda: {"percent": _busy_percent(before, psutil.cpu_times()), "count": psutil.cpu_count()},
        "memory": lambda: _memory(psutil),
        "disk": lambda: {disk: _disk(psutil, disk) for disk in options.disks},
        "temperature": lambda: _temperatures(psutil),
        "network": lambda: _network(psutil),
        "load": psutil.getloadavg,
        "uptime": lambda: float(Path("/proc/uptime").read_text().split()[0]),  # not by the wall clock, as psutil has it
    }
    names = {"temperature": "temperature_c", "uptime": "uptime_s"}
    return {names.get(what, what): measure[what]() for what in options.what}


def _busy_percent(before: Any, after: Any) -> float:  # noqa: ANN401
    """Return how busy all CPUs together were between two readings."""
    spent = {name: max(0.0, getattr(after, name) - getattr(before, name)) for name in after._fields}
    total = sum(spent.values()) - spent.get("guest", 0) - spent.get("guest_nice", 0)  # part of user and nice
    idle = spent["idle"] + spent.get("iowait", 0)
    return round(100 * (1 - idle / total), 1) if total else 0.0


def _memory(psutil: Any) -> dict[str, int]:  # noqa: ANN401
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    return {
        "total_bytes": memory.total,
        "available_bytes": memory.available,
        "swap_total_bytes": swap.total,
        "swap_used_bytes": swap.used,
    }


def _disk(psutil: Any, path: str) -> dict[str, object] | None:  # noqa: ANN401
    with suppress(OSError):  # one that is not plugged in is no reason to say nothing of the others
        usage = psutil.disk_usage(path)
        return {"total_bytes": usage.total, "free_bytes": usage.free, "percent": usage.percent}
    return None


def _temperatures(psutil: Any) -> dict[str, float]:  # noqa: ANN401
    sensors = (
        (f"{chip}/{one.label or at}", one.current)
        for chip, ones in psutil.sensors_temperatures().items()
        for at, one in enumerate(ones)
    )
    return dict(list(sensors)[:MAX_SHOWN])


def _network(psutil: Any) -> dict[str, dict[str, int]]:  # noqa: ANN401
    counters = psutil.net_io_counters(pernic=True, nowrap=False)
    return {
        name: {
            "sent_bytes": of.bytes_sent,
            "received_bytes": of.bytes_recv,
            "errors": of.errin + of.errout,
            "dropped": of.dropin + of.dropout,
        }
        for name, of in list(counters.items())[:MAX_SHOWN]
        if name != "lo"
    }


KIND: Final = Kind("system", Options, run)
