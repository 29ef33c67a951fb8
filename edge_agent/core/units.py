"""Durations, sizes and instants as people write them: ``"1h30m"``, ``"64MiB"``, ``"2026-12-01T00:00:00Z"``.

Only whole numbers, so that what is written is what is meant, and only one spelling of each unit.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

from edge_agent.core.timebase import (
    NANOSECONDS_PER_MILLISECOND,
    NANOSECONDS_PER_SECOND,
    DurationNs,
    UtcNs,
    utc_from_datetime,
)

_NANOSECONDS: Final = {
    "d": 86_400 * NANOSECONDS_PER_SECOND,
    "h": 3600 * NANOSECONDS_PER_SECOND,
    "m": 60 * NANOSECONDS_PER_SECOND,
    "s": NANOSECONDS_PER_SECOND,
    "ms": NANOSECONDS_PER_MILLISECOND,
}
_BYTES: Final = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}

DURATION_PATTERN: Final = "^(?=.)" + "".join(f"(?:([0-9]{{1,15}}){unit})?" for unit in _NANOSECONDS) + "$"
SIZE_PATTERN: Final = f"^([0-9]{{1,15}})({'|'.join(_BYTES)})$"
INSTANT_PATTERN: Final = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})$"
)


def quoted(text: str) -> str:
    """Return a text as it may stand in a message: in double quotes, on one line, at most 60 characters of it."""
    shown = text if len(text) <= 60 else text[:57] + "..."
    return '"' + repr(shown)[1:-1].replace('"', '\\"') + '"'


def parse_duration(text: str) -> DurationNs:
    """Return the duration in nanoseconds that a text like ``"250ms"`` or ``"1h30m"`` means.

    Raises:
        ValueError: it is no duration; the message says what is allowed.
    """
    match = re.fullmatch(DURATION_PATTERN, text)
    if match is None:
        hint = "; no decimals, combine units instead, like 1s500ms" if re.search(r"[0-9][.,][0-9]", text) else ""
        raise ValueError(
            f'found {quoted(text)}; a duration like "250ms", "30s", "5m", "1h30m" or "7d" is needed '
            f"(d, h, m, s, ms, in this order{hint})",
        )
    counts = zip(match.groups(default="0"), _NANOSECONDS.values(), strict=True)
    return DurationNs(sum(int(count) * unit for count, unit in counts))


def format_duration(duration: DurationNs) -> str:
    """Return a duration in the form that ``parse_duration`` reads, cut to whole milliseconds."""
    parts, rest = [], abs(duration)
    for unit, length in _NANOSECONDS.items():
        count, rest = divmod(rest, length)
        if count:
            parts.append(f"{count}{unit}")
    return ("-" if duration < 0 and parts else "") + ("".join(parts) or "0s")


def parse_size(text: str) -> int:
    """Return the number of bytes that a text like ``"64MiB"`` means.

    Raises:
        ValueError: it is no size; the message says what is allowed.
    """
    match = re.fullmatch(SIZE_PATTERN, text)
    if match is None:
        raise ValueError(
            f'found {quoted(text)}; a size like "512B", "120KiB", "64MiB" or "2GiB" is needed '
            "(whole numbers; no KB, MB)",
        )
    return int(match[1]) * _BYTES[match[2]]


def format_size(size: int) -> str:
    """Return a number of bytes in the form that ``parse_size`` reads, with the largest unit that loses nothing."""
    unit = next(unit for unit, length in _BYTES.items() if size % length == 0 and (size or unit == "B"))
    return f"{size // _BYTES[unit]}{unit}"


def parse_instant(text: str) -> UtcNs:
    """Return the instant that a time in the form of RFC 3339 means.

    Raises:
        ValueError: it is none, or nanoseconds since 1970 with 63 bits do not hold it; the message says what is allowed.
    """
    try:  # fromisoformat alone takes much more than RFC 3339
        instant = utc_from_datetime(datetime.fromisoformat(text.upper())) if re.fullmatch(INSTANT_PATTERN, text) else -1
    except ValueError:  # the 30th of February
        instant = -1
    if not 0 <= instant < 1 << 63:
        needed = 'a time with its zone like "2026-12-01T00:00:00Z" (RFC 3339, from 1970 to 2262) is needed'
        raise ValueError(f"found {quoted(text)}; {needed}")
    return UtcNs(instant)
