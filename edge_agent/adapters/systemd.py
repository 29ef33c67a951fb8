"""The notification protocol of systemd (sd_notify(3)): datagrams to the socket that the service manager names."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

from edge_agent.core.timebase import DurationNs, MonotonicNs
from edge_agent.ports import Clock

log = logging.getLogger(__name__)


class Systemd:
    """Notifies the service manager; does nothing when there is none."""

    def __init__(self, environ: Mapping[str, str], *, clock: Clock) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._clock = clock

    def ready(self, status: str) -> None:
        """See ``ports.Notifier``."""
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """See ``ports.Notifier``; the time stamp tells the manager which reload this is."""
        now: MonotonicNs = self._clock.monotonic()
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now // 1000}")

    def stopping(self, within: DurationNs) -> None:
        """See ``ports.Notifier``; TimeoutStopSec= holds for what takes no longer."""
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={within // 1000}")

    def alive(self) -> None:
        """See ``ports.Notifier``."""
        self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        # "@" stands for the NUL byte of an abstract socket's name
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.connect(address)
                sock.send(text.encode(), socket.MSG_DONTWAIT)  # a manager that does not read must not stop the loop
        except OSError as error:
            log.warning("notify_failed", extra={"error": str(error)})


def watchdog_period(environ: Mapping[str, str]) -> DurationNs | None:
    """Return within which time the service manager wants to hear of us; ``None`` when it does not.

    WATCHDOG_PID guards against an environment inherited from a parent that is the watched one (sd_watchdog_enabled(3)).
    """
    microseconds, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or pid not in ("", str(os.getpid())):
        return None
    return DurationNs(int(microseconds) * 1000) or None
