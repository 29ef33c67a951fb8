"""How the fleet is shown; on a real pipe and a real terminal it is tested with the verb watch."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from edge_agent.cli.fleet_view import Lines, Table, make_view
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
    """What is not known is left out; of equal failures in a row only the first is said."""
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
        "a health degraded: x; y broker=mqtt://b:1",
        "a heartbeat clock=synced offset=+0.2ms",
        "a silent: its last heartbeat is 5 s old",
        "connection lost: gone",
        "cannot connect: no",
    ]


@pytest.mark.virtual
async def test_a_table_shows_the_troubled_first_when_not_all_fit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says how many it leaves out, and what was not understood; what is said stands above it."""
    monkeypatch.setenv("LINES", "9")
    monkeypatch.setenv("COLUMNS", "80")
    fleet, clock = Fleet(), FakeClock()
    for number in range(200):
        fleet.apply(f"d{number:03}", "heartbeat", BEAT, MonotonicNs(0))
    fleet.apply("d150", "status", b"offline", MonotonicNs(0))
    fleet.apply("d150", "status", b"?", MonotonicNs(0))
    table = Table("mqtt://b:1 edge/", fleet, clock, never)
    task = asyncio.get_running_loop().create_task(table.run())
    await asyncio.sleep(0.05)
    title, header, *rows, footer = capsys.readouterr().out.splitlines()
    assert "mqtt://b:1 edge/  connecting  " in title
    assert header.split()[:3] == ["device", "status", "heartbeat"]
    assert [row.split()[0] for row in rows] == ["d150", "d000", "d001", "d002"]
    assert footer == "196 more devices than fit; name some to see them  1 messages not understood"
    table.show(Link("failed", "nothing there"))
    table.show(Link("refused", "f: 0x87"))
    await asyncio.sleep(2.2)
    task.cancel()
    await asyncio.wait((task,))
    drawings = capsys.readouterr().out.split("\033[7F\033[J")  # back to the first line of the one before
    assert "subscription refused: f: 0x87\nmqtt://b:1 edge/  cannot connect: nothing there" in drawings[1]
    assert "2 s ago" in drawings[-1]
    assert all(len(line) <= 80 for line in drawings[-1].splitlines())


def test_in_a_pipe_there_are_lines() -> None:
    """A table is for who sits at a terminal."""
    assert type(make_view("t", Fleet(), FakeClock(), never)) is Lines
