"""Lines and places: in order of arrival, so many at once, and nobody is counted twice."""

from __future__ import annotations

import asyncio

import pytest

from edge_agent.command_ports import CutOff
from edge_agent.services.command_book import LOCAL
from edge_agent.services.command_line import Lines, Ready
from tests.support.dispatching import Handlers, NArgs, an_entry

DO = Handlers().command("do", CutOff.INTERRUPTED, at_once=2)


def ready(name: str) -> Ready:
    """Return one that waits."""
    return Ready(an_entry(name), DO, NArgs())


def test_each_gets_its_place_in_turn() -> None:
    """So many at once, and whoever leaves the line is passed over."""
    lines = Lines()
    a, b, c, d, late = (ready(name) for name in ("a", "b", "c", "d", "late"))
    for one in (a, b, c, d, late):
        assert lines.has_place(DO) is (one is a)
        lines.add(one)
        if one is not late:
            lines.line_up(one)
    assert lines.names() == ["do"]
    for one in (a, b):
        assert lines.next("do") is one
        lines.begin(one)
    assert lines.next("do") is None
    assert lines.waiting["do"] == 3
    lines.leave(c)
    lines.leave(late)
    assert lines.waiting["do"] == 1
    lines.free("do")
    assert lines.next("do") is d
    lines.add(a)
    lines.line_up(a, first=True)
    assert lines.next("do") is a
    lines.begin(a)
    lines.free("do")
    lines.begin(d)
    assert lines.waiting["do"] == 0
    assert lines.next("do") is None
    assert lines.next("see") is None
    assert lines.names() == []


def test_who_may_begin_without_the_disk() -> None:
    """What may run twice, and what nobody can send again."""
    again = Handlers().command("see", CutOff.AGAIN)
    assert Ready(an_entry(), again, NArgs()).may_be_forgotten
    assert not ready("a").may_be_forgotten
    assert not Ready(an_entry(reply=LOCAL), DO, NArgs()).may_be_forgotten
    assert Ready(an_entry(reply=LOCAL, deduplicated=False), DO, NArgs()).may_be_forgotten


def test_a_command_may_decide_by_its_arguments_what_becomes_of_it() -> None:
    """When it is cut off."""
    command = Handlers().command("do", lambda args: CutOff.AGAIN if args.n else CutOff.DONE)  # type: ignore[arg-type]
    assert Ready(an_entry(), command, NArgs(n=1)).cut_off is CutOff.AGAIN
    assert Ready(an_entry(), command, NArgs(n=0)).cut_off is CutOff.DONE
    assert ready("a").cut_off is CutOff.INTERRUPTED


@pytest.mark.virtual
async def test_who_waits_for_an_arrival_is_told_once() -> None:
    """And nobody need wait."""
    one = ready("a")
    one.arrive()
    one.arrived = asyncio.get_running_loop().create_future()
    one.arrive()
    one.arrive()
    assert one.arrived.done()
