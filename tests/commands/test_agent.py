"""The commands that concern the agent itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from edge_agent.command_ports import CutOff
from edge_agent.commands.agent import commands
from edge_agent.core.command_request import CommandError
from edge_agent.core.timebase import UtcNs
from edge_agent.services.session import Session
from tests.fakes import EPOCH, FakeClock
from tests.support.commands import asked, host_of

pytestmark = pytest.mark.virtual


@contextlib.contextmanager
def own_level() -> Iterator[logging.Logger]:
    """Give the level back afterwards that the root logger has now."""
    root = logging.getLogger()
    before = root.level
    try:
        yield root
    finally:
        root.setLevel(before)


class Open:
    """A session, as far as its status goes."""

    name, broker, since = "s1", "mqtt://b:1883", UtcNs(EPOCH)

    class connection:  # noqa: N801
        """Its connection."""

        protocol = 5


async def test_a_ping_is_answered_with_the_time(tmp_path: Path) -> None:
    """True time, as far as it is known."""
    family = commands(host_of(tmp_path, "", FakeClock()))
    found = await asked(family, "ping")
    assert found == {"pong": True, "time": "2027-01-15T08:00:00.000000Z"}


async def test_the_status_is_the_heartbeat_s_data_and_the_connection(tmp_path: Path) -> None:
    """Which is null while there is none; nobody waits for one."""
    sessions: list[Session] = []
    family = commands(host_of(tmp_path, "", FakeClock(), sessions=sessions))
    offline = await asked(family, "agent-status")
    assert (offline["connection"], offline["session"], offline["agent"]["pid"]) == (None, None, 7)
    sessions.append(cast("Session", Open()))
    online = await asked(family, "agent-status")
    assert online["connection"] == {"broker": "mqtt://b:1883", "protocol": "5", "since": "2027-01-15T08:00:00.000000Z"}
    assert online["session"] == "s1"
    assert online["config_since"] == "1970-01-01T00:00:00.000000Z"
    assert online["config_change"] == {"time": online["config_since"], "by": "cloud", "digest": "0" * 12}
    assert online["config_cloud"] == {"version": 7, "state": "applied"}
    assert online["config_conditions"] == ["restart_needed: state.dir"]


async def test_a_level_is_for_a_while(tmp_path: Path) -> None:
    """Then the configured one counts again; another level takes its place and its time."""
    family = commands(host_of(tmp_path, '[log]\nlevel = "warning"\n', FakeClock()))
    with own_level() as root:
        found = await asked(family, "log-level", {"level": "debug"})
        assert (root.level, found) == (logging.DEBUG, {"level": "debug", "until": "2027-01-15T09:00:00.000000Z"})
        await asyncio.sleep(3000)
        await asked(family, "log-level", {"level": "info", "for": "2h"})
        await asyncio.sleep(7100)
        assert root.level == logging.INFO
        await asyncio.sleep(200)
        assert root.level == logging.WARNING


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({}, "args.level: this key is needed"),
        ({"level": "trace"}, 'found "trace"; "debug", "info", "warning" or "error" is allowed'),
        ({"level": "info", "for": "2d"}, 'args.for: found "2d"; 1s to 1d is allowed'),
        ({"level": "info", "lasting": "1h"}, "unknown key 'lasting'; known here: level, for"),
    ],
)
async def test_a_wrong_level_is_refused(tmp_path: Path, args: object, words: str) -> None:
    """With what is allowed."""
    with pytest.raises(CommandError) as wrong:
        await asked(commands(host_of(tmp_path, "", FakeClock())), "log-level", args)
    assert words in str(wrong.value)


async def test_a_command_is_cancelled_by_its_id(tmp_path: Path) -> None:
    """And it is said whether there was one."""
    family = commands(host_of(tmp_path, "", FakeClock()))
    assert [await asked(family, "cancel", {"id": i}) for i in ("c-1", "c-2")] == [
        {"cancelled": True},
        {"cancelled": False},
    ]


async def test_a_restart_is_done_when_it_cuts_itself_off(tmp_path: Path) -> None:
    """It is not begun again in the next life."""
    family = commands(host_of(tmp_path, "", FakeClock()))
    assert await asked(family, "restart") == {"restarting": True}
    (restart,) = (command for command in family if command.name == "restart")
    assert restart.cut_off is CutOff.DONE
