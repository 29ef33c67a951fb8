"""Notices that the network came, or changed: by rtnetlink(7)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Final

_GROUPS: Final = 0x1 | 0x10 | 0x100
"""RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR."""


async def wait_for_network_change() -> None:
    """Return when an interface or an address of this machine has changed; where that cannot be known, never."""
    changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    with contextlib.suppress(OSError), _listening() as link:

        def look() -> None:
            if not changed.done():
                changed.set_result(None)

        loop = asyncio.get_running_loop()
        loop.add_reader(link, look)
        try:
            await changed
        finally:
            loop.remove_reader(link)
    await changed


@contextlib.contextmanager
def _listening() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE) as link:
        link.bind((0, _GROUPS))
        yield link
