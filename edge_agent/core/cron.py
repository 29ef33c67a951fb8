"""At which instants a cron expression is due in a time zone.

The library ``cronsim`` reads the expression and walks the local calendar; it is never given a zone. Which instants a
local time means is decided here, because with a zone the library skips minutes after a change of half an hour, knows
the rules of Debian's cron for five fields only, and goes back when it is asked within the second pass of an hour.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice, takewhile
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from edge_agent.core.timebase import BUILD_EPOCH, NANOSECONDS_PER_SECOND, DurationNs, UtcNs
from edge_agent.core.units import quoted

_NAMED: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_ALLOWED: Final = {
    "Bad second": "0 to 59",
    "Bad minute": "0 to 59",
    "Bad hour": "0 to 23",
    "Bad day-of-month": "1 to 31 and no more than the months have, L or LW",
    "Bad month": "1 to 12 or JAN to DEC",
    "Bad day-of-week": "0 to 7 or SUN to SAT, 5L or FRI#2",
}
_WEEKDAYS: Final = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001  # of local time
_SECOND: Final = timedelta(seconds=1)
_DAY_S: Final = 86_400
"""No zone changes its offset twice within a day, and none skips more than one."""


def zone_named(name: str) -> tzinfo:
    """Return a time zone by its name in the IANA database.

    Raises:
        ValueError: this system does not know it; the message says what is needed.
    """
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(
            f'found {quoted(name)}; this system has no such time zone, one like "Europe/Berlin" or "UTC" is needed '
            "(the package tzdata brings them)",
        ) from None


def translate(text: str) -> str:
    """Return a cron expression in the words of ``cronsim``: five fields, or six with seconds first.

    Raises:
        ValueError: it is none, or it never fires; the message names the field and what is allowed there.
    """
    fields = _NAMED.get(text.strip().lower(), text).upper().split()
    if len(fields) not in {5, 6} or not all(re.fullmatch(r"[0-9A-Z*/,?#-]{1,200}", field) for field in fields):
        raise ValueError(
            f"found {quoted(text)}; 5 fields are needed, or 6 with seconds first, "
            f'like "*/5 * * * *" or "0/30 * * * * ?", or one of {", ".join(_NAMED)}',
        )
    *clock, day, month, weekday = fields
    if "?" in text:
        if day == weekday or "?" in "".join([*clock, month, *({day, weekday} - {"?"})]):
            raise ValueError(f"found {quoted(text)}; ? stands alone, for the day of the month or of the week only")
        if re.search(r"(?<![#/0-9])[0-9]", weekday):
            raise ValueError(
                f"found {quoted(text)}; with ? (Quartz) the weekday {quoted(weekday)} must be written by name, like "
                "MON-FRI: Quartz counts Sunday as 1, cron as 0",
            )
    weekday = re.sub(r"\b([A-Z]{3})L\b", lambda last: f"{_number(last[1])}L", weekday).replace("-SUN", "-7")
    translated = " ".join([*clock, day.replace("?", "*"), month, weekday.replace("?", "*")])
    _check(text, translated)
    return translated


def _number(weekday: str) -> str:
    return str(_WEEKDAYS.index(weekday)) if weekday in _WEEKDAYS else weekday


def _check(text: str, translated: str) -> None:
    try:
        first = next(CronSim(translated, _local(BUILD_EPOCH // NANOSECONDS_PER_SECOND)), None)
    except CronSimError as error:
        bad = str(error)
        field = translated.split()[list(_ALLOWED).index(bad) - len(_ALLOWED)]
        raise ValueError(
            f"found {quoted(text)}; {bad.removeprefix('Bad ')} {quoted(field)}: {_ALLOWED[bad]} is allowed there, "
            "lists with commas, ranges upwards with -, steps with /",
        ) from None
    if first is None:
        raise ValueError(f"found {quoted(text)}; it never fires: no day of the next 50 years matches")


@dataclass(frozen=True, slots=True)
class Cron:
    """Due at the local times that an expression names.

    With a fixed minute and hour a time that the clock skips is due once, at the first instant after the gap, and one
    that it shows twice is due the first time only. With a wildcard or a step there what counts is what the clock
    shows: nothing in a gap, everything twice in a fold.

    Attributes:
        fields: the expression, as ``translate`` returns it.
        zone: the time zone.
        shift: how much later than that it is due.
    """

    fields: str
    zone: tzinfo
    shift: DurationNs

    def after(self, instant: UtcNs) -> UtcNs | None:
        """Return the first due instant that is later; ``None`` = none within 50 years."""
        second = next(self._due((instant - self.shift) // NANOSECONDS_PER_SECOND), None)
        return None if second is None else UtcNs(second * NANOSECONDS_PER_SECOND + self.shift)

    def count(self, since: UtcNs, until: UtcNs, *, enough: int) -> int:
        """Return how many due instants are later than ``since`` and not later than ``until``, at most ``enough``."""
        last = (until - self.shift) // NANOSECONDS_PER_SECOND
        due = takewhile(lambda second: second <= last, self._due((since - self.shift) // NANOSECONDS_PER_SECOND))
        return sum(1 for _ in islice(due, enough))

    def _due(self, second: int) -> Iterator[int]:
        """Yield the due seconds since 1970-01-01T00:00:00Z that are later than one."""
        minute, hour = self.fields.split()[-5:-3]
        is_fixed = not set("*/") & set(minute + hour)
        return self._fixed(second) if is_fixed else self._elapsed(second)

    def _fixed(self, second: int) -> Iterator[int]:
        for local in CronSim(self.fields, _local(second + self._offset(second))):
            due = self._first(local)
            if due > second:
                yield due
                second = due

    def _elapsed(self, second: int) -> Iterator[int]:
        while True:
            offset = self._offset(second + 1)
            known = second + 1  # the offset is the same up to here
            for local in CronSim(self.fields, _local(second + offset)):
                due = _wall(local) - offset
                while known < due and self._offset(ahead := min(known + _DAY_S, due)) == offset:
                    known = ahead
                if known < due:
                    second = self._change(known, ahead, offset) - 1
                    break
                yield due
            else:
                return

    def _first(self, local: datetime) -> int:
        """Return when a local time is shown first, or if it is skipped the first second after the gap."""
        offset = local.replace(tzinfo=self.zone).utcoffset() // _SECOND  # type: ignore[operator]  # never None
        second = _wall(local) - offset
        return second if self._offset(second) == offset else self._change(second - _DAY_S, second, offset)

    def _change(self, since: int, until: int, offset: int) -> int:
        """Return the first second later than ``since`` where the offset is another one; it is so at ``until``."""
        return since + bisect_left(range(since, until), x=True, key=lambda second: self._offset(second) != offset)

    def _offset(self, second: int) -> int:
        """Return how many seconds local time is ahead of UTC at an instant."""
        return datetime.fromtimestamp(second, self.zone).utcoffset() // _SECOND  # type: ignore[operator]  # never None


def _local(wall: int) -> datetime:
    return _EPOCH + wall * _SECOND


def _wall(local: datetime) -> int:
    return (local - _EPOCH) // _SECOND
