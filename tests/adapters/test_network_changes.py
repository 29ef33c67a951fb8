"""A real interface that comes, in a network of its own."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.adapters.network_changes import wait_for_network_change
from tests.support.netns import namespace

SCRIPT = """
import asyncio
from edge_agent.adapters.network_changes import wait_for_network_change
async def main():
    waiting = asyncio.ensure_future(wait_for_network_change())
    await asyncio.sleep(0.1)
    print("waiting", flush=True)
    await waiting
    print("changed", flush=True)
asyncio.run(main())
"""


@pytest.mark.root
def test_an_address_that_comes_is_noticed() -> None:
    """Within the namespace in which it does."""
    with namespace() as net:
        command = [*net.prefix, sys.executable, "-c", SCRIPT]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "waiting\n"
                net.run("ip", "address", "add", "192.0.2.7/24", "dev", "lo")
                assert process.stdout.readline() == "changed\n"
                assert process.wait(10) == 0
            finally:
                process.kill()


async def test_the_wait_can_be_given_up() -> None:
    """No descriptor is left behind."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await wait_for_network_change()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_where_such_sockets_are_forbidden_the_wait_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under a filter of the service manager."""

    def forbidden(*_arguments: object) -> socket.socket:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(socket, "socket", forbidden)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await wait_for_network_change()
