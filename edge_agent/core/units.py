"""Durations and sizes as people write them: ``"1h30m"``, ``"64MiB"``.

Only whole numbers, so that what is written is what is meant, and only one spelling of each unit.
"""

from __future__ import annotations

import re
from typing import Final

from edge_agent.core.timebase import NANOSECONDS_PER_MILLISECOND, NANOSECONDS_PER_SECOND, DurationNs

MAX_DURATION: Final = DurationNs(3660 * 86_400 * NANOSECONDS_PER_SECOND)
"""The longest duration that can be written: about ten years."""

MAX_SIZE: Final = 1 << 40
"""The largest size that can be written, in bytes: 1 TiB."""

DURATION_PATTERN: Final = r"^(?=.)([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$"
SIZE_PATTERN: Final = r"^[0-9]+(B|KiB|MiB|GiB)$"

_DURATION: Final = re.compile(r"(?=.)" + "".join(rf"(?:([0-9]{{1,15}}){unit})?" for unit in ("d", "h", "m", "s", "ms")))
_NANOSECONDS: Final = {
    "d": 86_400 * NANOSECONDS_PER_SECOND,
    "h": 3600 * NANOSECONDS_PER_SECOND,
    "m": 60 * NANOSECONDS_PER_SECOND,
    "s": NANOSECONDS_PER_SECOND,
    "ms": NANOSECONDS_PER_MILLISECOND,
}
_SIZE: Final = re.compile(r"([0-9]{1,15})(B|KiB|MiB|GiB)")
_BYTES: Final = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}


def quoted(text: str) -> str:
    """Return a text as it may stand in a message: in double quotes, on one line, at most 60 characters of it."""
    shown = text if len(text) <= 60 else text[:57] + "..."
    return '"' + repr(shown)[1:-1].replace('"', '\\"') + '"'


def parse_duration(text: str) -> DurationNs:
    """Return the duration in nanoseconds that a text like ``"250ms"`` or ``"1h30m"`` means.

    Raises:
        ValueError: it is no duration, or longer than ``MAX_DURATION``; the message says what is allowed.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        hint = "; no decimals, combine units instead, like 1s500ms" if re.search(r"[0-9][.,][0-9]", text) else ""
        raise ValueError(
            f'found {quoted(text)}; a duration like "250ms", "30s", "5m", "1h30m" or "7d" is needed '
            f"(d, h, m, s, ms, in this order{hint})",
        )
    counts = zip(match.groups(default="0"), _NANOSECONDS.values(), strict=True)
    total = sum(int(count) * unit for count, unit in counts)
    if total > MAX_DURATION:
        raise ValueError(f"found {quoted(text)}; at most {format_duration(MAX_DURATION)} is allowed")
    return DurationNs(total)


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
        ValueError: it is no size, or larger than ``MAX_SIZE``; the message says what is allowed.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(
            f'found {quoted(text)}; a size like "512B", "120KiB", "64MiB" or "2GiB" is needed '
            "(whole numbers; no KB, MB)",
        )
    size = int(match[1]) * _BYTES[match[2]]
    if size > MAX_SIZE:
        raise ValueError(f"found {quoted(text)}; at most {format_size(MAX_SIZE)} is allowed")
    return size


def format_size(size: int) -> str:
    """Return a number of bytes in the form that ``parse_size`` reads, with the largest unit that loses nothing."""
    unit = next(unit for unit, length in _BYTES.items() if size % length == 0 and (size or unit == "B"))
    return f"{size // _BYTES[unit]}{unit}"
