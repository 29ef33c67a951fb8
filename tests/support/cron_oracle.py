"""What a cron expression means, found by walking through time step by step with a clock on the wall.

Slow, without any library, and for the plain part of the language only: numbers, lists, ranges, steps, wildcards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

ZONES: Final = (
    "Africa/Casablanca",  # four changes a year, around Ramadan
    "America/Caracas",  # half an hour, twice in all
    "America/Havana",  # no midnight in spring
    "America/New_York",
    "America/St_Johns",  # changed at a minute past midnight
    "Antarctica/Casey",  # three hours
    "Antarctica/Troll",  # two hours
    "Asia/Kolkata",  # never changed
    "Asia/Pyongyang",  # half an hour, twice in all
    "Australia/Lord_Howe",  # half an hour, twice a year
    "Europe/Berlin",
    "Europe/Dublin",  # winter is the exception
    "Pacific/Apia",  # left out a day
    "Pacific/Chatham",  # 45 minutes beside the hour
)
BEGIN: Final = 946_684_800
"""2000-01-01, in seconds since 1970, and the like for 2040."""

END: Final = 2_208_988_800
DAY: Final = 86_400


@dataclass(frozen=True)
class Field:
    """One field: its text, and what it stands for."""

    text: str
    values: frozenset[int]


@dataclass(frozen=True)
class Expression:
    """An expression of six fields."""

    second: Field
    minute: Field
    hour: Field
    day: Field
    month: Field
    weekday: Field

    @property
    def text(self) -> str:
        """As it is written."""
        fields = (self.second, self.minute, self.hour, self.day, self.month, self.weekday)
        return " ".join(field.text for field in fields)

    @property
    def is_fixed(self) -> bool:
        """Whether minute and hour are neither wildcards nor steps."""
        return not any(sign in self.minute.text + self.hour.text for sign in "*/")

    def matches(self, wall: datetime) -> bool:
        """Whether a clock on the wall shows one of its times."""
        if wall.minute not in self.minute.values or wall.hour not in self.hour.values:
            return False
        if wall.second not in self.second.values or wall.month not in self.month.values:
            return False
        day, weekday = (
            wall.day in self.day.values,
            not self.weekday.values.isdisjoint({wall.isoweekday(), wall.isoweekday() % 7}),
        )
        both = self.day.text.startswith("*") or self.weekday.text.startswith("*")
        return (day and weekday) if both else (day or weekday)


def whole(low: int, high: int) -> Field:
    """Return a wildcard."""
    return Field("*", frozenset(range(low, high + 1)))


def expression(minute: str, hour: str, minutes: set[int], hours: set[int]) -> Expression:
    """Return an expression that is due each day."""
    clock = Field(minute, frozenset(minutes)), Field(hour, frozenset(hours))
    return Expression(Field("0", frozenset({0})), *clock, whole(1, 31), whole(1, 12), whole(0, 7))


class Look(NamedTuple):
    """What a clock on the wall shows at an instant.

    Attributes:
        instant: seconds since 1970.
        shown: what it shows.
        again: whether it has shown that before.
        skipped: what it did not show between the last look and this one.
    """

    instant: int
    shown: datetime
    again: bool
    skipped: tuple[datetime, ...]


def looks(zone: str, since: int, until: int, *, step: int = 60, seen: int = DAY) -> Iterator[Look]:
    """Yield a look every ``step`` seconds, later than ``since`` and not later than ``until``.

    The walk begins ``seen`` seconds before ``since``, so that it is known what the clock has shown.
    """
    where, pause = ZoneInfo(zone), timedelta(seconds=step)
    latest = _shown(since - seen, where)
    for instant in range(since - seen + step, until + 1, step):
        shown = _shown(instant, where)
        again, skipped = shown <= latest, []
        while latest < shown:
            latest += pause
            if latest < shown:
                skipped.append(latest)
        if instant > since:
            yield Look(instant, shown, again, tuple(skipped))


def is_due(what: Expression, look: Look) -> bool:
    """Return whether something is due at a look."""
    if not what.is_fixed:
        return what.matches(look.shown)
    return not look.again and any(what.matches(shown) for shown in (*look.skipped, look.shown))


def _shown(instant: int, where: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(instant, where).replace(tzinfo=None)


def changes(zone: str) -> list[int]:
    """Return the instants of 2000 to 2040 at which a zone changes its offset, to the minute."""
    where = ZoneInfo(zone)

    def offset(instant: int) -> timedelta | None:
        return datetime.fromtimestamp(instant, where).utcoffset()

    return [
        next(minute for minute in range(day, day + DAY + 60, 60) if offset(minute) != offset(day))
        for day in range(BEGIN, END, DAY)
        if offset(day) != offset(day + DAY)
    ]
