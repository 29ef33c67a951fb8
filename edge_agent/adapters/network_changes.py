"""Notices that the network came, or changed: by rtnetlink(7)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Final

_GROUPS: Final = 0x1 | 0x10 | 0x100
"""RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR."""

_MESSAGES: Final = 65_536  # bytes of them that are read at once
_ADDRESSES: Final = (Path("/proc/self/net/fib_trie"), Path("/proc/self/net/if_inet6"))
_CARDS: Final = Path("/sys/class/net")


async def wait_for_network_change() -> None:
    """Return when an interface or an address of this machine has changed; where that cannot be known, never."""
    loop = asyncio.get_running_loop()
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE) as link,
    ):
        link.bind((0, _GROUPS))
        before = _addresses_and_cards()
        # routers prolong addresses, and radios tell what they hear, which changes nothing
        while _addresses_and_cards() == before:
            with contextlib.suppress(OSError):  # there were too many
                await loop.sock_recv(link, _MESSAGES)
            await asyncio.sleep(0)  # what is there already is returned without waiting: others have their turn
        return
    await loop.create_future()


def _addresses_and_cards() -> list[bytes]:
    """Return what there is of both: the addresses, and whether each card is up."""
    found = []
    for path in (*_ADDRESSES, *sorted(_CARDS.glob("*/operstate"))):
        with contextlib.suppress(OSError):
            found.append(bytes(path) + path.read_bytes())
    return found
