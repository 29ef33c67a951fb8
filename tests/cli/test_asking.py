"""How a verb finds the daemon and asks it."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import pytest

from edge_agent.cli.asking import daemon
from edge_agent.errors import ConfigError, EdgeAgentError, UnreachableError
from edge_agent.services.control import Control
from tests.support.control_server import serving


async def _echo(params: object) -> object:
    return params


async def _refuse(_params: object) -> object:
    raise EdgeAgentError("not now; try later")


def asked(method: str, *, config: Path | None = None, socket: Path | None = None, **params: object) -> object:
    """Return what the daemon answers that the options name."""
    args = argparse.Namespace(config=str(config) if config else None, socket=str(socket) if socket else None)
    with daemon(args) as agent:
        return agent.call(method, **params)


async def test_the_socket_is_the_options_or_the_configurations(tmp_path: Path) -> None:
    """With the option no configuration is read; an answer is what the method returns."""
    socket, config = tmp_path / "s", tmp_path / "x.toml"
    config.write_text(f'[control]\nsocket = "{socket}"\n')
    async with serving(socket, Control({"echo": _echo}).answer):
        for where in ({"config": config}, {"socket": socket, "config": tmp_path / "none"}):
            assert await asyncio.to_thread(asked, "echo", **where, a=1) == {"a": 1}
    with pytest.raises(UnreachableError, match="is it running"):
        asked("echo", config=config)
    with pytest.raises(ConfigError):
        asked("echo", config=tmp_path / "none")


@pytest.mark.parametrize("bad", ["[heartbeat]\nevry = 1\n", "[heartbeat\n"])
async def test_bad_files_do_not_hide_a_daemon_that_runs(tmp_path: Path, bad: str) -> None:
    """It goes on with what it had; if there is none, what is wrong with the files is said."""
    socket, config, drop_in = tmp_path / "s", tmp_path / "x.toml", tmp_path / "x.d" / "0.toml"
    drop_in.parent.mkdir()
    drop_in.write_text(f'[control]\nsocket = "{socket}"\n')
    config.write_text(bad)
    async with serving(socket, Control({"echo": _echo}).answer):
        assert await asyncio.to_thread(asked, "echo", config=config, a=1) == {"a": 1}
    with pytest.raises(ConfigError, match=r"x\.toml"):
        asked("echo", config=config)


async def test_what_the_daemon_refuses_is_an_error(tmp_path: Path) -> None:
    """In its own words."""
    async with serving(tmp_path / "s", Control({"refuse": _refuse}).answer):
        for method, said in (("refuse", "not now; try later"), ("dance", "unknown method 'dance'; known: refuse")):
            with pytest.raises(EdgeAgentError, match=said):
                await asyncio.to_thread(asked, method, socket=tmp_path / "s")
