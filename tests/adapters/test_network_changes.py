"""A real interface that comes, in a network of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typing_extensions import override

from edge_agent.adapters import network_changes
from edge_agent.adapters.network_changes import wait_for_network_change
from tests.support.netns import namespace

SCRIPT = """
import asyncio, sys
from edge_agent.adapters.network_changes import wait_for_network_change
async def main():
    waiting = asyncio.ensure_future(wait_for_network_change())
    await asyncio.sleep(0.1)
    print("waiting", flush=True)
    for _ in sys.stdin:
        await asyncio.wait((waiting,), timeout=0.2)
        print("changed" if waiting.done() else "waiting", flush=True)
asyncio.run(main())
"""


CHANGES = {
    "an address that comes": ("address", "add", "192.0.2.7/24", "dev", "lo"),
    "one of IPv6": ("address", "add", "2001:db8::7/64", "dev", "lo"),
    "an address that goes": ("address", "delete", "2001:db8::1/64", "dev", "lo"),
    "a card that goes down": ("link", "set", "lo", "down"),
}


@pytest.mark.root
@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_noticed_and_what_changes_nothing_is_not(what: str) -> None:
    """Each advertisement of an IPv6 router prolongs addresses: that is no reason to ask every server anew."""
    with namespace() as net:
        net.run("ip", "link", "set", "lo", "up")
        advertised = ("2001:db8::1/64", "dev", "lo", "preferred_lft", "4000", "valid_lft")
        net.run("ip", "address", "add", *advertised, "5000")
        while net.run("ip", "-6", "address", "show", "tentative"):  # the card's own, which come by themselves
            time.sleep(0.05)
        command = [*net.prefix, sys.executable, "-c", SCRIPT]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
            try:
                assert process.stdin is not None
                assert process.stdout is not None
                assert process.stdout.readline() == "waiting\n"
                net.run("ip", "address", "change", *advertised, "6000")
                process.stdin.write("\n")
                assert process.stdout.readline() == "waiting\n"
                net.run("ip", *CHANGES[what])
                process.stdin.write("\n")
                assert process.stdout.readline() == "changed\n"
            finally:
                process.kill()


async def test_the_wait_can_be_given_up() -> None:
    """No descriptor is left behind."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    given_up = False
    while not given_up:  # others may change this machine's network just now
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05) as deadline:
                await wait_for_network_change()
        given_up = deadline.expired()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


class _Told(socket.socket):
    """What was told of the network before anybody looked."""

    @override
    def bind(self, _address: object) -> None:
        """It is connected already."""


async def test_much_that_changes_nothing_leaves_the_loop_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst waits in the socket, and to look at the addresses takes a while: not all of it in one turn."""
    teller, listener = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for _ in range(10):
        teller.send(b"a card's MTU")
    told = _Told(fileno=listener.detach())
    told.setblocking(False)  # noqa: FBT003
    monkeypatch.setattr(socket, "socket", lambda *_: told)
    turns = looks = 0
    begun: list[int] = []

    def look() -> list[bytes]:
        nonlocal looks
        looks += 1
        begun.append(turns)
        return [b"as before" if looks < 12 else b"changed"]

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(network_changes, "_addresses_and_cards", look)
    working = asyncio.ensure_future(others())
    await wait_for_network_change()
    working.cancel()
    teller.close()
    assert len(set(begun[1:])) == len(begun) - 1, "each look has a turn of its own"


async def test_where_such_sockets_are_forbidden_the_wait_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under a filter of the service manager."""

    def forbidden(*_arguments: object) -> socket.socket:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(socket, "socket", forbidden)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await wait_for_network_change()
