"""What a key may hold, in plain words."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import Field

from edge_agent.core.config_document import Path
from edge_agent.core.config_jobs import Retry
from edge_agent.core.config_models import Config
from edge_agent.core.config_types import Listed, Name, Section, duration, size
from edge_agent.core.config_words import allowed, field_at, table_at, within


class Sample(Section):
    """One field of each kind."""

    often: int = duration("1m", "100ms", "1d", "Interval")
    slow: int | None = duration(None, "1s", "1d", "Interval", step="1s")
    room: int = size("1KiB", "0B", "1MiB", "Room")
    name: Name | None = None
    names: Listed[Name] = Field((), max_length=4)
    some: Listed[Name] | None = Field(None, min_length=1)
    rule: Literal["a", "b", 5] = "a"
    one: Literal[1] = 1
    count: int = Field(1, ge=1, le=9)
    least: int | None = Field(None, ge=1)
    any_number: int = 0
    on: bool = True
    inner: dict[Name, Name] = Field({})
    tables: dict[Name, Retry] = Field({})
    free: dict[str, object] = Field({})
    own: float = 0
    odd: bytes = b""


NAME = "a name of 1 to 64 of A-Z a-z 0-9 _ : -"


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("often", 'a duration like "30s", 100ms to 1d'),
        ("slow", 'a duration like "30s", 1s to 1d, whole multiples of 1s'),
        ("room", 'a size like "64MiB", 0B to 1MiB'),
        ("name", NAME),
        ("names", f"an array of at most 4 entries, each {NAME}"),
        ("some", f"an array of at least 1 entries, each {NAME}"),
        ("rule", '"a", "b" or 5'),
        ("one", "1"),
        ("count", "a whole number, 1 to 9"),
        ("least", "a whole number, at least 1"),
        ("any_number", "a whole number"),
        ("on", "true or false"),
        ("inner", f"a table of entries, each {NAME}"),
        ("tables", "a table"),
        ("free", "a table"),
        ("own", "a number"),
        ("odd", "a value of its kind"),
    ],
)
def test_what_is_allowed_is_said_of_every_kind(key: str, words: str) -> None:
    """With its range, whether it may be left out or not."""
    field = Sample.model_fields[key]
    assert allowed(field.annotation, field.metadata) == words


def test_a_range_is_said_as_far_as_there_is_one() -> None:
    """Of numbers and of lengths."""
    assert within([]) == ""
    assert within([Ge(1), Le(3)]) == within([MinLen(1), MaxLen(3)]) == "1 to 3"
    assert within([Ge(1)]) == "at least 1"
    assert within([MaxLen(3)]) == "at most 3"


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (("heartbeat", "every"), "every"),
        (("jobs", "j", "retry", "attempts"), "attempts"),
        (("jobs", "j", "breaker", "failures"), "failures"),
        (("jobs",), "jobs"),
    ],
)
def test_a_field_is_found_below_tables_of_tables(path: Path, key: str) -> None:
    """Also below one that may be left out."""
    table = table_at(path[:-1], Config)
    assert table is not None
    assert field_at(path, Config) is table.model_fields[key]


@pytest.mark.parametrize("path", [(), ("jobs", "j", "options", "x"), ("mqtt", "brokers", 0), ("nothing", "here")])
def test_where_no_model_stands_there_is_no_field(path: Path) -> None:
    """In lists, in free tables, and nowhere."""
    assert field_at(path, Config) is None


def test_marks_of_an_entry_are_said_too() -> None:
    """In whatever it is wrapped."""
    assert allowed(Annotated[int, Ge(2)]) == "a whole number, at least 2"
