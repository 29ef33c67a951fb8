"""How the fleet is shown: a live table on a terminal, a line for each change in a pipe; times are UTC.

All that devices and brokers say was made printable where it came in.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Final

import orjson
from typing_extensions import override

from edge_agent.cli.printing import say, table
from edge_agent.core.fleet import Change, Fleet, Row
from edge_agent.core.timebase import later, rfc3339, seconds
from edge_agent.core.units import format_duration
from edge_agent.ports import Clock
from edge_agent.services.watcher import Happening, Link

REDRAW_EVERY: Final = seconds(0.5)  # 10,000 devices take 40 ms
ROOM_AROUND_ROWS: Final = 5  # lines of a terminal for what is above and below them
_LINK: Final = {
    "connected": "connected to",
    "lost": "connection lost:",
    "failed": "cannot connect:",
    "refused": "subscription refused:",
}


class Lines:
    """A line for each change."""

    def __init__(self, clock: Clock, gone: Callable[[], None], *, json: bool = False) -> None:
        """Prepare; ``gone`` is called when nobody reads any more."""
        self._clock = clock
        self._gone = gone
        self._json = json
        self._last: Happening | None = None

    def show(self, happening: Happening) -> None:
        """Print it; of attempts that fail for one reason, only the first."""
        if self._json:
            fields = {"time": rfc3339(self._clock.now().time)} | _fields(happening)
            self._print(orjson.dumps(fields).decode())
        elif happening != self._last or isinstance(happening, Change):
            self.say(_sentence(happening))
        self._last = happening

    def say(self, text: str) -> None:
        """Print a line with the time."""
        self._print(f"{rfc3339(self._clock.now().time)[11:19]} {text}")

    async def run(self) -> None:
        """Nothing is left to do."""

    def _print(self, line: str) -> None:
        try:
            say(line)
        except BrokenPipeError:
            self._gone()


class Table(Lines):
    """A live table; what is said stands above it."""

    def __init__(self, title: str, fleet: Fleet, clock: Clock, gone: Callable[[], None]) -> None:
        super().__init__(clock, gone)
        self._title = title
        self._fleet = fleet
        self._link = "connecting"
        self._drawn = 0

    @override
    def show(self, happening: Happening) -> None:
        """Take note of it; it is drawn soon."""
        if isinstance(happening, Link) and happening.event == "refused":
            self.say(_sentence(happening))
        elif isinstance(happening, Link):
            self._link = _sentence(happening)

    @override
    async def run(self) -> None:
        """Draw again and again: ages grow."""
        while True:
            self._print()
            await self._clock.sleep_until(later(self._clock.monotonic(), REDRAW_EVERY))

    @override
    def _print(self, *said: str) -> None:
        """Print what is said in the place of the table, and the table below it."""
        size = shutil.get_terminal_size()
        lines = self._lines(max(1, size.lines - ROOM_AROUND_ROWS))
        sys.stdout.write(f"\033[{self._drawn}F\033[J" if self._drawn else "")
        say(*said, *(line[: size.columns] for line in lines))
        self._drawn = len(lines)

    def _lines(self, room: int) -> list[str]:
        rows = self._fleet.rows(self._clock.monotonic())
        if len(rows) > room:
            rows.sort(key=lambda row: (row.status == "online", not row.reasons))  # what needs a look comes first
        footer = (
            (len(rows) - room, "more devices than fit; name some to see them"),
            (self._fleet.nonsense, "messages not understood"),
            (self._fleet.left_out, "messages of devices that there is no room for"),
        )
        return [
            f"{self._title}  {self._link}  {rfc3339(self._clock.now().time)[11:19]} UTC",
            *table([*_COLUMNS], [{name: show(row) for name, show in _COLUMNS.items()} for row in rows[:room]]),
            "  ".join(f"{count} {text}" for count, text in footer if count > 0),
        ]


def make_view(title: str, fleet: Fleet, clock: Clock, gone: Callable[[], None]) -> Lines:
    """Return a table on a terminal that can draw one, else lines; ``gone`` as for ``Lines``."""
    if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return Table(title, fleet, clock, gone)
    return Lines(clock, gone)


# ---------------------------------------------------------------- in words
_COLUMNS: Final[Mapping[str, Callable[[Row], object]]] = {
    "device": lambda row: row.device,
    "status": lambda row: row.status,
    "heartbeat": lambda row: None if row.age_s is None else f"{row.age_s:.0f} s ago",
    "uptime": lambda row: None if row.uptime_s is None else format_duration(seconds(row.uptime_s)),
    "clock": lambda row: row.clock,
    "offset": lambda row: None if row.offset_ms is None else f"{row.offset_ms:+.1f}ms",
    "outbox": lambda row: row.outbox,
    "rss": lambda row: None if row.rss_bytes is None else f"{row.rss_bytes / 1e6:.1f}MB",
    "health": lambda row: f"degraded: {'; '.join(row.reasons)}" if row.reasons else None,
    "broker": lambda row: row.broker,
    "protocol": lambda row: row.protocol,
    "version": lambda row: row.version,
}


def _fields(happening: Happening) -> dict[str, object]:
    if isinstance(happening, Link):
        return asdict(happening)
    return {"event": happening.kind, **asdict(happening.row)}


def _sentence(happening: Happening) -> str:
    if isinstance(happening, Link):
        return f"{_LINK[happening.event]} {happening.text}"
    row = happening.row
    match happening.kind:
        case "status":
            return f"{row.device} {row.status}"
        case "silence":
            return f"{row.device} silent: its last heartbeat is {row.age_s or 0:.0f} s old"
        case "health":
            return f"{row.device} health {_COLUMNS['health'](row) or 'ok'} {_pairs(row, 'broker', 'protocol')}".rstrip()
        case "heartbeat":
            return f"{row.device} heartbeat {_pairs(row, 'uptime', 'clock', 'offset', 'outbox', 'rss')}".rstrip()


def _pairs(row: Row, *names: str) -> str:
    found = ((name, _COLUMNS[name](row)) for name in names)
    return " ".join(f"{name}={value}" for name, value in found if value is not None)
