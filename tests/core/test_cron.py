"""Cron expressions: what is taken and refused, and when they are due in zones whose clocks jump."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from typing import Final
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.cron import Cron, translate, zone_named
from edge_agent.core.timebase import DurationNs, UtcNs, seconds, utc_from_datetime
from tests.support.cron_oracle import (
    BEGIN,
    END,
    ZONES,
    Expression,
    Field,
    Look,
    changes,
    expression,
    is_due,
    looks,
)

S: Final = seconds(1)
AROUND_S: Final = 14 * 3600
DAILY: Final = (
    expression("30", "2", {30}, {2}),
    expression("0,45", "0,1,2,3", {0, 45}, {0, 1, 2, 3}),
    expression("5-6", "23", {5, 6}, {23}),
    expression("59", "0-23", {59}, set(range(24))),
    expression("*/10", "*", set(range(0, 60, 10)), set(range(24))),
    expression("*/7", "0-3", set(range(0, 60, 7)), {0, 1, 2, 3}),
    expression("15", "*/2", {15}, set(range(0, 24, 2))),
    expression("20/20", "1-3", {20, 40}, {1, 2, 3}),
)


def cron(text: str, zone: str = "UTC") -> Cron:
    """Return the trigger of an expression."""
    return Cron(translate(text), zone_named(zone), DurationNs(0))


def due(trigger: Cron, since: int) -> Iterator[int]:
    """Yield when something is due, in seconds; each time asked for anew, as the scheduler does."""
    instant = trigger.after(UtcNs(since * S))
    while instant is not None:
        yield instant // S
        instant = trigger.after(instant)


def local(text: str, zone: str, since: str, count: int) -> list[str]:
    """Return the first times at which something is due, as a clock on the wall shows them."""
    begin = int(datetime.fromisoformat(since).replace(tzinfo=UTC).timestamp())
    instants = islice(due(cron(text, zone), begin), count)
    return [datetime.fromtimestamp(instant, ZoneInfo(zone)).strftime("%m-%d %H:%M:%S%z") for instant in instants]


# ---------------------------------------------------------------- the language
@pytest.mark.parametrize(
    ("text", "translated"),
    [
        ("*/5 * * * *", "*/5 * * * *"),
        ("0/30 * * * * ?", "0/30 * * * * *"),
        ("0 12 ? * mon-fri", "0 12 * * MON-FRI"),
        ("0 0 12 ? * FRIL", "0 0 12 * * 5L"),
        ("0 0 ? * MON#2", "0 0 * * MON#2"),
        ("0 0 1,L * ?", "0 0 1,L * *"),
        ("0 0 * * SAT-SUN", "0 0 * * SAT-7"),
        ("0 0 * * 0,7", "0 0 * * 0,7"),
        ("@Daily", "0 0 * * *"),
        (" @hourly ", "0 * * * *"),
        ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
    ],
)
def test_an_expression_is_translated_for_the_library(text: str, translated: str) -> None:
    """Question marks, names before L, weekends and the short words are what it does not know."""
    assert translate(text) == translated


@pytest.mark.parametrize(("words", "same"), [("@midnight", "@daily"), ("@yearly", "@annually")])
def test_some_short_words_mean_the_same(words: str, same: str) -> None:
    """As in every cron."""
    assert translate(words) == translate(same)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("* * * *", "5 fields are needed, or 6 with seconds first"),
        ("0 0 0 1 1 ? 2027", "5 fields are needed, or 6"),
        ("@reboot", "or one of @hourly, @daily"),
        ("* * * * $", "5 fields are needed"),
        ("* * * * " + "1," * 200, "5 fields are needed"),
        ("61 * * * *", 'minute "61": 0 to 59 is allowed there'),
        ("60 * * * * *", 'second "60": 0 to 59'),
        ("* 24 * * *", 'hour "24": 0 to 23'),
        ("* * 0 * *", 'day-of-month "0": 1 to 31'),
        ("* * * 13 *", 'month "13": 1 to 12 or JAN to DEC'),
        ("* * * * 8", 'day-of-week "8": 0 to 7 or SUN to SAT'),
        ("* * * * FRI-MON", "ranges upwards"),
        ("*/0 * * * *", 'minute "\\*/0"'),
        ("0 0 30 2 *", 'day-of-month "30": 1 to 31 and no more than the months have'),
        ("* * */20 * 1L", "it never fires"),
        ("0 12 ? * 2-6", 'the weekday "2-6" must be written by name'),
        ("0 12 ? * 6L", "must be written by name"),
        ("0 12 1 * 1,?", r"\? stands alone"),
        ("? 12 * * *", r"\? stands alone"),
        ("0 12 ? * ?", r"\? stands alone"),
    ],
)
def test_what_is_no_expression_is_refused_with_the_field_and_the_fix(text: str, words: str) -> None:
    """The message names the text, the field, and what is allowed there."""
    with pytest.raises(ValueError, match=words):
        translate(text)


FIELD_LIKE: Final = st.text(st.sampled_from("0123456789*/,-?#LWMONFRI"), min_size=1, max_size=6)


@given(text=st.lists(FIELD_LIKE, min_size=5, max_size=6).map(" ".join) | st.text(max_size=20))
def test_any_text_is_either_an_expression_that_fires_or_refused(text: str) -> None:
    """Nothing else comes out of it."""
    try:
        fields = translate(text)
    except ValueError:
        return
    assert Cron(fields, UTC, DurationNs(0)).after(UtcNs(1_800_000_000 * S)) is not None


@pytest.mark.parametrize(
    "name", ["Europe/Berlim", "Europe", "../etc/passwd", "/etc/localtime", "leapseconds", "", "\0"]
)
def test_a_zone_that_does_not_exist_is_refused(name: str) -> None:
    """Also what is a folder or another file."""
    with pytest.raises(ValueError, match="this system has no such time zone"):
        zone_named(name)


# ---------------------------------------------------------------- clocks that jump
def test_with_a_fixed_time_a_gap_is_due_once_at_its_end() -> None:
    """All that it swallows falls on the first instant after it, also asked and counted from just before."""
    for text in ("0,30 2 * * *", "0 30 2 * * *", "*/10 30 2 * * ?"):
        for since in ("2025-03-30T00:00", "2025-03-30T00:59:59"):
            assert local(text, "Europe/Berlin", since, 1) == ["03-30 03:00:00+0200"]
        begin = utc_from_datetime(datetime(2025, 3, 30, tzinfo=UTC))
        assert cron(text, "Europe/Berlin").count(begin, UtcNs(begin + seconds(4 * 3600)), enough=9) == 1
        assert local(text, "Europe/Berlin", "2025-03-30T01:00", 1)[0].startswith("03-31 02:")


def test_with_a_fixed_time_a_fold_is_due_once_the_first_time() -> None:
    """Five fields or six, and asked from within the second pass."""
    for text in ("50 2 * * *", "0 50 2 * * ?"):
        assert local(text, "Europe/Berlin", "2025-10-26T00:00", 2) == ["10-26 02:50:00+0200", "10-27 02:50:00+0100"]
        assert local(text, "Europe/Berlin", "2025-10-26T01:40", 1) == ["10-27 02:50:00+0100"]


def test_with_a_wildcard_what_the_clock_shows_counts() -> None:
    """Nothing in a gap, everything twice in a fold."""
    assert local("*/30 2 * * *", "Europe/Berlin", "2025-03-30T00:00", 1) == ["03-31 02:00:00+0200"]
    assert local("*/30 2 * * *", "Europe/Berlin", "2025-10-25T23:59", 4) == [
        "10-26 02:00:00+0200",
        "10-26 02:30:00+0200",
        "10-26 02:00:00+0100",
        "10-26 02:30:00+0100",
    ]


def test_a_time_that_is_shown_again_counts_even_if_the_next_is_a_year_away() -> None:
    """Also where the clock is set back for a month only, for Ramadan."""
    for zone, text, change in (
        ("Europe/Berlin", "*/30 2 26 10 *", datetime(2025, 10, 26, 1, tzinfo=UTC)),
        ("Africa/Casablanca", "*/30 2 23 2 *", datetime(2025, 2, 23, 2, tzinfo=UTC)),
    ):
        again = utc_from_datetime(change)
        assert cron(text, zone).after(UtcNs(again - seconds(1200))) == again


def test_a_day_that_is_left_out_is_due_at_its_end() -> None:
    """Samoa had no 30 December 2011."""
    assert local("0 12,18 * * FRI", "Pacific/Apia", "2011-12-29T12:00", 2) == [
        "12-31 00:00:00+1400",
        "01-06 12:00:00+1400",
    ]


def test_an_hour_that_is_half_skipped_is_not_skipped_whole() -> None:
    """Lord Howe jumps by half an hour; the library alone loses what follows."""
    assert local("*/20 2-3 * * *", "Australia/Lord_Howe", "2025-10-04T14:00", 4) == [
        f"10-05 {clock}:00+1100" for clock in ("02:40", "03:00", "03:20", "03:40")
    ]


def test_a_shift_moves_every_instant() -> None:
    """What is due at three is due five later, and asked from between the two it is still to come."""
    shifted = Cron(translate("0 3 * * *"), UTC, DurationNs(5))
    three = utc_from_datetime(datetime(2026, 1, 1, 3, tzinfo=UTC))
    assert shifted.after(three) == three + 5
    assert shifted.after(UtcNs(three + 5)) == three + 5 + 86_400 * S


@given(
    text=st.sampled_from(("*/5 * * * *", "0 3 * * *", "7 7 7 * * *")),
    since=st.integers(BEGIN, END).map(lambda second: UtcNs(second * S + 1)),
    days=st.integers(-1, 9),
    shift=st.integers(0, 10**12).map(DurationNs),
    enough=st.integers(0, 50),
)
def test_counting_is_asking_again_and_again(text: str, since: UtcNs, days: int, shift: DurationNs, enough: int) -> None:
    """Up to where it may stop."""
    trigger = Cron(translate(text), ZoneInfo("Europe/Berlin"), shift)
    until, count, instant = UtcNs(since + days * 86_400 * S), 0, trigger.after(since)
    while instant is not None and instant <= until and count < enough:
        count, instant = count + 1, trigger.after(instant)
    assert trigger.count(since, until, enough=enough) == count


# ---------------------------------------------------------------- against a walk through time
@cache
def around_a_change(zone: str, number: int) -> tuple[int, tuple[Look, ...]]:
    """Return the hours around a change of a zone, minute by minute; of a zone without changes any hours."""
    when = changes_of(zone)[number % len(changes_of(zone))]
    return when - AROUND_S, tuple(looks(zone, when - AROUND_S, when + AROUND_S))


@cache
def changes_of(zone: str) -> Sequence[int]:
    """Return the changes of a zone; something else if it has none."""
    return changes(zone) or [BEGIN + 100 * 86_400]


def assert_due_around(zone: str, numbers: range) -> None:
    """Compare what is due around some changes of a zone with the walk."""
    for number in numbers:
        since, hours = around_a_change(zone, number)
        for what in DAILY:
            found = due(cron(what.text, zone), since)
            expected = [look.instant for look in hours if is_due(what, look)]
            assert list(islice(found, len(expected))) == expected, what.text
            assert next(found) > hours[-1].instant, what.text


@pytest.mark.parametrize("zone", ZONES)
def test_around_a_change_of_a_zone_it_is_due_as_a_walk_says(zone: str) -> None:
    """Every fifth change from 2000 to 2040."""
    assert_due_around(zone, range(0, len(changes_of(zone)), 5))


@pytest.mark.slow
@pytest.mark.parametrize("zone", ZONES)
def test_around_every_change_of_a_zone_it_is_due_as_a_walk_says(zone: str) -> None:
    """All of them."""
    assert_due_around(zone, range(len(changes_of(zone))))


@st.composite
def fields(draw: st.DrawFn, low: int, high: int) -> Field:
    """Return a field in any plain form."""
    first = draw(st.integers(low, high))
    last = draw(st.integers(first, high))
    step = draw(st.integers(1, high - low))
    return draw(
        st.sampled_from(
            (
                Field("*", frozenset(range(low, high + 1))),
                Field(f"*/{step}", frozenset(range(low, high + 1, step))),
                Field(f"{first}", frozenset({first})),
                Field(f"{first},{last}", frozenset({first, last})),
                Field(f"{first}-{last}", frozenset(range(first, last + 1))),
                Field(f"{first}/{step}", frozenset(range(first, high + 1, step))),
                Field(f"{low}-{high}/{step}", frozenset(range(low, high + 1, step))),
            )
        )
    )


EXPRESSIONS: Final = st.builds(
    Expression,
    st.just(Field("0", frozenset({0}))),
    fields(0, 59),
    fields(0, 23),
    fields(1, 31),
    fields(1, 12),
    fields(0, 7),
)


@given(what=EXPRESSIONS, zone=st.sampled_from(ZONES), number=st.integers(0, 80), start=st.integers(0, 2 * AROUND_S))
def test_any_expression_is_due_as_a_walk_says(what: Expression, zone: str, number: int, start: int) -> None:
    """Around a change, asked from any second, also within the second pass of an hour."""
    since, hours = around_a_change(zone, number)
    expected = [look.instant for look in hours if look.instant > since + start and is_due(what, look)]
    if what.day.values.isdisjoint(range(1, 29)):
        return  # perhaps there is no such day, and it is refused
    found = due(cron(what.text, zone), since + start)
    assert list(islice(found, len(expected))) == expected
    assert next(found, END) > hours[-1].instant


@given(
    second=fields(0, 59),
    minute=fields(0, 59),
    hour=fields(0, 3),
    zone=st.sampled_from(("Australia/Lord_Howe", "Europe/Berlin")),
    number=st.integers(0, 80),
)
def test_with_seconds_it_is_due_as_a_walk_by_seconds_says(
    second: Field, minute: Field, hour: Field, zone: str, number: int
) -> None:
    """Five minutes on each side of a change."""
    when = changes_of(zone)[number % len(changes_of(zone))]
    daily = expression("0", "0", {0}, {0})
    what = Expression(second, minute, hour, daily.day, daily.month, daily.weekday)
    expected = [look.instant for look in looks(zone, when - 300, when + 300, step=1, seen=3900) if is_due(what, look)]
    found = due(cron(what.text, zone), when - 300)
    assert list(islice(found, len(expected))) == expected
    assert next(found) > when + 300


@pytest.mark.slow
@pytest.mark.parametrize("zone", ["Africa/Casablanca", "America/St_Johns", "Australia/Lord_Howe", "Pacific/Apia"])
def test_for_forty_years_it_is_due_as_a_walk_says(zone: str) -> None:
    """Minute by minute from 2000 to 2040, once for a fixed time and once for a step."""
    few = [expression("0,30", "0,2", {0, 30}, {0, 2}), expression("15", "*/2", {15}, set(range(0, 24, 2)))]
    found = [due(cron(what.text, zone), BEGIN) for what in few]
    upcoming = [next(one) for one in found]
    for look in looks(zone, BEGIN, END):
        for number, what in enumerate(few):
            is_now = upcoming[number] == look.instant
            assert is_now == is_due(what, look), (what.text, look)
            if is_now:
                upcoming[number] = next(found[number])
