"""The clocks of the device, with true time where the operating system's is only a guess."""

from __future__ import annotations

from typing import Final

from edge_agent.clock_ports import Clocks
from edge_agent.core.discipline import Discipline, Reading
from edge_agent.core.events import ClockState, Stamp, TimeState
from edge_agent.core.timebase import NANOSECONDS_PER_MILLISECOND

_TIME_STATES: Final[dict[ClockState, TimeState]] = {
    "unsynced": "unsynced",
    "acquiring": "unsynced",
    "synced": "synced",
    "holdover": "holdover",
    "degraded": "holdover",
    "os": "synced",
}


class DeviceClock:
    """``ports.Clock``."""

    def __init__(self, clocks: Clocks, discipline: Discipline) -> None:
        self._discipline = discipline
        self.monotonic, self.raw, self.wall, self.sleep_until = (
            clocks.monotonic,
            clocks.raw,
            clocks.wall,
            clocks.sleep_until,
        )

    def now(self) -> Stamp:
        """Return true time and how well it is known."""
        return stamp(self._discipline.at(self.raw(), self.wall()))


def stamp(reading: Reading) -> Stamp:
    """Return a reading as the world is told."""
    utc, error_ns, state = reading
    known = _TIME_STATES[state]
    if error_ns is None or known == "unsynced":
        return Stamp(utc)
    return Stamp(utc, known, -(-error_ns // NANOSECONDS_PER_MILLISECOND))
