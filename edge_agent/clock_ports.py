"""The seams between timekeeping and the outside world."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from edge_agent.core.ntp import Rejection
from edge_agent.core.sample import Sample
from edge_agent.core.saved_clock import SavedClock
from edge_agent.core.timebase import BootNs, DurationNs, RawNs, WallNs
from edge_agent.ports import Clock


class Clocks(Clock, Protocol):
    """The device's clocks as they are compared with one another."""

    def pair(self) -> tuple[RawNs, WallNs]:
        """Return the counter and the operating system's clock at the same instant."""
        ...

    def slept(self) -> DurationNs:
        """Return how long the device has been suspended since its boot."""
        ...


class Alarm(Protocol):
    """One timer of the kernel, and the clock that it rings by."""

    def now(self) -> BootNs:
        """Return that clock."""
        ...

    def arm(self, at: BootNs) -> None:
        """Let it ring once at an instant, soon if that has passed, in place of when it would have rung before."""
        ...

    def close(self) -> None:
        """Let it not ring any more, and give it back."""
        ...


class TimeServers(Protocol):
    """The way to NTP servers."""

    async def ask(self, server: str, *, within: DurationNs) -> Sample | Rejection:
        """Return the server's time, or why there is none; within the deadline."""
        ...

    def address(self, server: str) -> str | None:
        """Return the address in use for a server; ``None`` = it was not resolved yet."""
        ...


@dataclass(frozen=True, slots=True)
class HostClock:
    """What the host does to its clock, and what happens to it.

    Attributes:
        vote: returns the operating system's clock as a sample, if somebody keeps it right.
        stepped: returns when it is set, or the device resumes.
        network_changed: returns when an interface or an address has changed.
        save: writes down what is known of the clock; raises ``OSError``.
    """

    vote: Callable[[], Sample | None]
    stepped: Callable[[], Awaitable[None]]
    network_changed: Callable[[], Awaitable[None]]
    save: Callable[[SavedClock], Awaitable[None]]
