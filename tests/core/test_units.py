"""Durations and sizes as people write them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.timebase import DurationNs
from edge_agent.core.units import (
    DURATION_PATTERN,
    SIZE_PATTERN,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
    quoted,
)

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("250ms", SECOND // 4),
        ("0s", 0),
        ("30s", 30 * SECOND),
        ("5m", 300 * SECOND),
        ("1h30m", 5400 * SECOND),
        ("7d", 604_800 * SECOND),
        ("1d2h3m4s5ms", 93_784 * SECOND + 5_000_000),
        ("90m", 5400 * SECOND),
        ("007s", 7 * SECOND),
    ],
)
def test_a_duration_is_read(text: str, nanoseconds: int) -> None:
    """Every unit counts, alone and combined."""
    assert parse_duration(text) == nanoseconds
    assert re.search(DURATION_PATTERN, text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 'found ""'),
        ("5x", 'found "5x"; a duration like "250ms"'),
        ("5", "a duration like"),
        ("1.5s", "no decimals, combine units instead, like 1s500ms"),
        ("1,5s", "no decimals"),
        ("5s1m", "in this order"),
        ("1m1m", "a duration like"),
        ("5 s", "a duration like"),
        ("-5s", "a duration like"),
        ("5S", "a duration like"),
        ("5s\n", r"5s\n"),
        ("٣s", "a duration like"),
        ("9" * 5000 + "s", "a duration like"),
    ],
)
def test_a_bad_duration_is_refused_with_what_is_allowed(text: str, words: str) -> None:
    """The message says what was found and what is allowed, in one line of bounded length."""
    with pytest.raises(ValueError, match=re.escape(words)) as bad:
        parse_duration(text)
    assert "\n" not in str(bad.value)
    assert len(str(bad.value)) < 300


@given(st.integers(0, 1 << 53))
def test_a_duration_survives_being_written_and_read(milliseconds: int) -> None:
    """What is written is read back as it was."""
    duration = DurationNs(milliseconds * 1_000_000)
    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [(0, "0s"), (1, "0s"), (90 * SECOND, "1m30s"), (-90 * SECOND, "-1m30s"), (1_001_000_000, "1s1ms")],
)
def test_a_duration_is_written_with_the_largest_units(nanoseconds: int, text: str) -> None:
    """Less than a millisecond is cut off."""
    assert format_duration(DurationNs(nanoseconds)) == text


@pytest.mark.parametrize(
    ("text", "size"), [("0B", 0), ("512B", 512), ("120KiB", 122_880), ("64MiB", 1 << 26), ("1024GiB", 1 << 40)]
)
def test_a_size_is_read_and_written(text: str, size: int) -> None:
    """The largest unit that loses nothing is chosen."""
    assert parse_size(text) == size
    assert format_size(size) == text
    assert re.search(SIZE_PATTERN, text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a size like"),
        ("64", "a size like"),
        ("64MB", "no KB, MB"),
        ("64mib", "a size like"),
        ("1.5MiB", "whole numbers"),
        ("-1B", "a size like"),
        ("9" * 5000 + "B", "a size like"),
    ],
)
def test_a_bad_size_is_refused_with_what_is_allowed(text: str, words: str) -> None:
    """The message says what was found and what is allowed."""
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_size(text)


@given(st.integers(0, 10**15 - 1))
def test_a_size_survives_being_written_and_read(size: int) -> None:
    """What is written is read back as it was."""
    assert parse_size(format_size(size)) == size


@given(st.text())
def test_what_is_quoted_stays_on_one_line(text: str) -> None:
    """Nothing in a message moves the cursor or the log."""
    shown = quoted(text)
    assert shown.isprintable()
    assert len(shown) < 700
