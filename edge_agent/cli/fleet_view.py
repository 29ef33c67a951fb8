"""How the fleet is shown: a live table on a terminal, a line for each change in a pipe; times are UTC.

All that devices and brokers say was made printable where it came in; here nothing of it is read as markup.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Final, TypeAlias

import orjson

from edge_agent.core.fleet import Change, Fleet, Row
from edge_agent.core.timebase import later, rfc3339, seconds
from edge_agent.core.units import format_duration
from edge_agent.ports import Clock
from edge_agent.services.watcher import Happening, Link

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

REFRESH_WAIT_S: Final = 0.5  # for a change, after the pause between two drawings: ages grow every second
REFRESH_AT_MOST: Final = seconds(0.5)  # 10,000 devices take 40 ms to draw
WIDE: Final = 110  # columns of a terminal that has room for all of the table's
ROOM_AROUND_TABLE: Final = 10  # lines of the terminal for the header, the frame and what was there before
HINT: Final = "edge-agent: for a live table: pip install 'edge-agent[operator]'\n"
_LINK: Final = {
    "connected": "connected to",
    "lost": "connection lost:",
    "failed": "cannot connect:",
    "refused": "subscription refused:",
}
_COLOURS: Final = {"online": "green", "offline": "red", "silent": "yellow", "unknown": "dim"}


# ---------------------------------------------------------------- lines
class Lines:
    """A line for each change, for pipes; times are UTC."""

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
            return
        if isinstance(happening, Link) and happening == self._last:
            return
        self._last = happening
        self.say(_sentence(happening))

    def say(self, text: str) -> None:
        """Print a line with the time."""
        self._print(f"{time_of_day(self._clock)} {text}")

    async def run(self) -> None:
        """Nothing is left to do."""

    def _print(self, line: str) -> None:
        try:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            # What is still in the buffer would raise again when the interpreter flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self._gone()


def time_of_day(clock: Clock) -> str:
    """Return ``12:00:01`` in UTC."""
    return rfc3339(clock.now().time)[11:19]


def _fields(happening: Happening) -> dict[str, object]:
    return {"event": happening.kind} | asdict(happening.row) if isinstance(happening, Change) else asdict(happening)


def _sentence(happening: Happening) -> str:
    if isinstance(happening, Change):
        return f"{happening.row.device} {_device_sentence(happening)}"
    return f"{_LINK[happening.event]} {happening.text}"


def _device_sentence(change: Change) -> str:
    row = change.row
    match change.kind:
        case "status":
            return row.status
        case "silence":
            return f"silent: its last heartbeat is {row.age_s or 0:.0f} s old"
        case "health":
            how = f"degraded: {'; '.join(row.reasons)}" if row.reasons else "ok"
            return f"health {how} broker={row.broker or '?'} protocol={row.protocol or '?'}"
        case "heartbeat":
            clock = f"clock={_or(row.clock)}" + (f" offset={_offset(row)}" if _offset(row) else "")
            return f"heartbeat uptime={_uptime(row)} {clock} outbox={_or(row.outbox)} rss={_rss(row)}"


def _or(value: object, missing: str = "?") -> str:
    return missing if value is None else str(value)


def _uptime(row: Row, missing: str = "?") -> str:
    return missing if row.uptime_s is None else format_duration(seconds(int(row.uptime_s)))


def _offset(row: Row) -> str:
    return "" if row.offset_ms is None else f"{row.offset_ms:+.1f}ms"


def _rss(row: Row, missing: str = "?") -> str:
    return missing if row.rss_bytes is None else f"{row.rss_bytes / 1e6:.1f}MB"


# ---------------------------------------------------------------- a terminal
View: TypeAlias = "Lines | Table"


def make_view(title: str, fleet: Fleet, clock: Clock, gone: Callable[[], None]) -> View:
    """Return a table on a terminal where rich is installed, else lines; ``gone`` as for ``Lines``."""
    if not sys.stdout.isatty():
        return Lines(clock, gone)
    try:
        from rich.console import Console  # noqa: PLC0415  # optional, and 20 ms
    except ModuleNotFoundError:
        sys.stderr.write(HINT)
        return Lines(clock, gone)
    console = Console(highlight=False)
    return Lines(clock, gone) if console.is_dumb_terminal else Table(title, fleet, clock, console)


class Table:
    """A live table under what is said; nothing that devices say is read as markup."""

    def __init__(self, title: str, fleet: Fleet, clock: Clock, console: Console) -> None:
        self._title = title
        self._fleet = fleet
        self._clock = clock
        self._console = console
        self._changed = asyncio.Event()
        self._link: Link | None = None

    def show(self, happening: Happening) -> None:
        """Have it drawn soon."""
        if isinstance(happening, Link) and happening.event == "refused":
            self.say(_sentence(happening))
        elif isinstance(happening, Link):
            self._link = happening
        self._changed.set()

    def say(self, text: str) -> None:
        """Print a line above the table."""
        from rich.text import Text  # noqa: PLC0415  # see make_view

        self._console.print(Text(f"{time_of_day(self._clock)} {text}", style="bold"))

    async def run(self) -> None:
        """Draw on change, and every second for the ages."""
        from rich.live import Live  # noqa: PLC0415  # see make_view

        with Live(console=self._console, auto_refresh=False, get_renderable=self._draw) as live:
            while True:
                live.refresh()
                await self._clock.sleep_until(later(self._clock.monotonic(), REFRESH_AT_MOST))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(REFRESH_WAIT_S):
                        await self._changed.wait()
                self._changed.clear()

    def _draw(self) -> RenderableType:
        from rich.box import SIMPLE_HEAD  # noqa: PLC0415  # see make_view
        from rich.console import Group  # noqa: PLC0415
        from rich.table import Table as RichTable  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        rows = self._fleet.rows(self._clock.monotonic())
        room = max(1, self._console.height - ROOM_AROUND_TABLE)
        if len(rows) > room:  # those that need a look first
            rows.sort(key=lambda row: row.status == "online")
        table = RichTable(box=SIMPLE_HEAD, pad_edge=False)
        names = [name for name in _COLUMNS if name not in _WIDE_ONLY or self._console.width >= WIDE]
        for name in names:
            table.add_column(name, justify="right" if name in _AT_RIGHT else "left", no_wrap=True, overflow="ellipsis")
        for row in rows[:room]:
            table.add_row(*(Text(_COLUMNS[name](row), style=_style(name, row)) for name in names))
        link = self._link
        style = "yellow" if link is None else "green" if link.event == "connected" else "red"
        header = Text(f"{self._title}  ").append("connecting" if link is None else _sentence(link), style=style)
        header.append(f"  {time_of_day(self._clock)} UTC", style="dim")
        return Group(header, table, Text(self._footer(len(rows) - room), style="dim"))

    def _footer(self, hidden: int) -> str:
        parts = [
            (hidden, "more devices than fit; name some to see them"),
            (self._fleet.nonsense, "messages not understood"),
            (self._fleet.left_out, "messages of devices that there is no room for"),
        ]
        return "  ".join(f"{count} {text}" for count, text in parts if count > 0)


_COLUMNS: Final[Mapping[str, Callable[[Row], str]]] = {
    "device": lambda row: row.device,
    "status": lambda row: row.status,
    "heartbeat": lambda row: "" if row.age_s is None else f"{row.age_s:.0f} s ago",
    "uptime": lambda row: _uptime(row, ""),
    "clock": lambda row: f"{row.clock or ''} {_offset(row)}".strip(),
    "outbox": lambda row: _or(row.outbox, ""),
    "memory": lambda row: _rss(row, ""),
    "connected to": lambda row: row.broker or "",
    "MQTT": lambda row: row.protocol or "",
    "version": lambda row: row.version or "",
    "degraded": lambda row: "; ".join(row.reasons),
}
_AT_RIGHT: Final = {"heartbeat", "uptime", "outbox", "memory"}
_WIDE_ONLY: Final = {"connected to", "MQTT", "version"}


def _style(column: str, row: Row) -> str:
    unsynced = row.clock not in (None, "synced", "os", "holdover")
    styles = {"status": _COLOURS[row.status], "clock": "yellow" if unsynced else "", "degraded": "yellow"}
    return styles.get(column, "")
