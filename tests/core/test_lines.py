"""Lines as records."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.lines import line_records


def records(content: bytes, *, parsed: bool = False, max_record: int = 1024) -> list[dict[str, Any]]:
    """Return the records of some lines."""
    found = list(line_records(content, file="app.log", parsed=parsed, max_record=max_record))
    assert all(len(data) <= max_record for data in found)
    return [json.loads(data) for data in found]


def test_lines_are_held_together_in_order() -> None:
    """Empty ones too; a carriage return before the end is none of the line's."""
    assert records(b"a\n\nb\xff\r\n") == [{"file": "app.log", "lines": ["a", "", "b\\xff"]}]
    assert records(b"") == []


def test_as_many_lines_as_fit_are_one_record() -> None:
    """None is lost between two."""
    found = records(b"".join(b"%d\n" % number for number in range(1000)))
    assert [line for record in found for line in record["lines"]] == [str(number) for number in range(1000)]
    assert 2 < len(found) < 20


def test_lines_of_json_are_values_and_others_their_text() -> None:
    """A bad line is not lost."""
    assert records(b'{"a": 1}\nnot\n[2]\n', parsed=True)[0]["lines"] == [{"a": 1}, "not", [2]]


@pytest.mark.parametrize("ended", [True, False])
def test_a_longer_line_comes_in_pieces(ended: bool) -> None:  # noqa: FBT001
    """Each but the last says that it goes on; that too, while the line has no end."""
    found = records(b"first\n" + b"\x01" * 2000 + b"\n" * ended)
    assert found[0] == {"file": "app.log", "lines": ["first"]}
    assert "".join(record["lines"][0] for record in found[1:]) == "\x01" * 2000
    assert [record.get("partial", False) for record in found[1:]] == [True] * (len(found) - 2) + [not ended]


def test_a_long_name_leaves_room_for_lines() -> None:
    """In the smallest record that the configuration allows."""
    (data,) = line_records(b"x\n", file="\x01" * 255, parsed=False, max_record=1024)
    assert json.loads(data)["lines"] == ["x"]


@given(st.lists(st.binary(max_size=400).filter(lambda line: b"\n" not in line), max_size=20), st.booleans())
def test_all_lines_arrive_whatever_they_hold(lines: list[bytes], parsed: bool) -> None:  # noqa: FBT001
    """As many as there were, in records that fit."""
    found = records(b"".join(line + b"\n" for line in lines), parsed=parsed)
    assert sum(len(record["lines"]) for record in found if "partial" not in record) == len(lines)
