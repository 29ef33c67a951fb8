"""How the fleet is shown; on a real pipe and a real terminal it is tested with the verb watch."""

from __future__ import annotations

import asyncio
import io

import orjson
import pytest
from rich.console import Console

from edge_agent.cli.fleet_view import HINT, Lines, Table, make_view
from edge_agent.core.events import HEARTBEAT
from edge_agent.core.fleet import Change, Fleet, Row
from edge_agent.core.timebase import MonotonicNs
from edge_agent.services.watcher import Link
from tests.fakes import FakeClock

BEAT = orjson.dumps({"type": HEARTBEAT, "data": {"interval_s": 60}})


def never() -> None:
    """Fail: nobody went away."""
    raise AssertionError


@pytest.mark.virtual
async def test_lines_say_each_kind_of_happening(capsys: pytest.CaptureFixture[str]) -> None:
    """What is not known is a question mark; of equal failures in a row only the first is said."""
    lines = Lines(FakeClock(), never)
    row = Row("a", "online", age_s=5.4, clock="synced", offset_ms=0.25, reasons=("x", "y"), broker="mqtt://b:1")
    for happening in (
        Link("failed", "no"),
        Link("failed", "no"),
        Link("connected", "mqtt://b:1 (MQTT 3.1.1)"),
        Link("refused", "f: 0x87"),
        Change("health", row),
        Change("heartbeat", row),
        Change("silence", row),
        Link("lost", "gone"),
        Link("failed", "no"),
    ):
        lines.show(happening)
    await lines.run()
    assert [line[9:] for line in capsys.readouterr().out.splitlines()] == [
        "cannot connect: no",
        "connected to mqtt://b:1 (MQTT 3.1.1)",
        "subscription refused: f: 0x87",
        "a health degraded: x; y broker=mqtt://b:1 protocol=?",
        "a heartbeat uptime=? clock=synced offset=+0.2ms outbox=? rss=?",
        "a silent: its last heartbeat is 5 s old",
        "connection lost: gone",
        "cannot connect: no",
    ]


@pytest.mark.virtual
async def test_a_table_shows_the_troubled_first_when_not_all_fit() -> None:
    """And says how many it leaves out, and what was not understood."""
    out, fleet, clock = io.StringIO(), Fleet(), FakeClock()
    console = Console(file=out, width=120, height=14, force_terminal=True, color_system=None)
    for number in range(200):
        fleet.apply(f"d{number:03}", "heartbeat", BEAT, MonotonicNs(0))
    fleet.apply("d150", "status", b"offline", MonotonicNs(0))
    fleet.apply("d150", "status", b"?", MonotonicNs(0))
    table = Table("mqtt://b:1 edge/", fleet, clock, console)
    task = asyncio.get_running_loop().create_task(table.run())
    await asyncio.sleep(0.05)
    first = out.getvalue()
    assert first.index("d150") < first.index("d000")
    assert "d004" not in first
    assert "196 more devices than fit; name some to see them  1 messages not understood" in first
    assert "connecting" in first
    assert "connected to" in first
    table.show(Link("failed", "nothing [red]there"))
    table.say("[bold]said")
    await asyncio.sleep(2.2)
    assert "cannot connect: nothing [red]there" in out.getvalue()
    assert "[bold]said" in out.getvalue()
    assert "2 s ago" in out.getvalue()
    task.cancel()
    await asyncio.wait((task,))


@pytest.mark.virtual
async def test_a_narrow_terminal_gets_fewer_columns() -> None:
    """Those that matter stay whole."""
    out, fleet, clock = io.StringIO(), Fleet(), FakeClock()
    fleet.apply("demo-1", "heartbeat", BEAT, MonotonicNs(0))
    console = Console(file=out, width=80, height=24, force_terminal=True, color_system=None)
    task = asyncio.get_running_loop().create_task(Table("mqtt://b:1 edge/", fleet, clock, console).run())
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait((task,))
    assert "connected to" not in out.getvalue()
    for word in ("device", "status", "heartbeat", "uptime", "clock", "outbox", "memory", "degraded", "demo-1"):
        assert word in out.getvalue()


def test_in_a_pipe_there_is_no_hint(capsys: pytest.CaptureFixture[str]) -> None:
    """It is for who sits at a terminal."""
    assert isinstance(make_view("t", Fleet(), FakeClock(), never), Lines)
    assert HINT not in capsys.readouterr().err
