"""How verbs print."""

from __future__ import annotations

import json
import sys
import tomllib
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge_agent.cli.printing import COUNT_EVERY, counted, facts, say, say_json, show, table, toml

TEXT: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> pytest.CaptureFixture[str]:
    """Return what is captured, by streams that say that they are a terminal."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda _stream: True)
    return capsys


def test_columns_stand_below_each_other() -> None:
    """What is not known is a dash; keys are titles."""
    assert table(("name", "age_s"), [{"name": "long name", "age_s": 1}, {"name": "x", "age_s": None}, {}]) == [
        "name       age s",
        "long name  1",
        "x          -",
        "-          -",
    ]


def test_no_cell_controls_the_terminal() -> None:
    """What stands there may be what a program said."""
    said = "\x1b[31mno\x1b]0;title\x07 \x9b1m\x00\u202edisk"
    assert table(("why",), [{"why": said}, {"why": [said]}]) == ["why", *["[31mno]0;title 1mdisk"] * 2]


def test_facts_are_a_line_each() -> None:
    """Of those that are there."""
    found = {"a_b": True, "c": [], "d": ["x", "y"], "e": False, "f": {"n": 1}}
    lines = ["a b  yes", "c    -", "d    x,y", "e    no", 'f    {"n":1}']
    assert facts(found, ("a_b", "none", "c", "d", "e", "f")) == lines


@given(
    st.recursive(
        st.booleans()
        | st.integers(-(1 << 63), (1 << 63) - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=6,
    )
)
@example({"a b": ["\x7f\u2028\U0001f600", {}, []]})
def test_a_value_is_written_on_one_line_as_toml_reads_it(value: object) -> None:
    """Whatever JSON can say but null."""
    text = toml(value)
    assert text.isprintable(), "it would control a terminal, or be no line"
    assert tomllib.loads(f"x = {text}")["x"] == value


def test_states_have_their_colour_on_a_terminal(
    terminal: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are words of their own, and nobody has asked for none."""
    say("a online  not-online", "ok: online2")
    assert terminal.readouterr().out == "a \033[32monline\033[0m  not-online\n\033[32mok\033[0m: online2\n"
    monkeypatch.setenv("NO_COLOR", "1")
    say("online")
    assert terminal.readouterr().out == "online\n"


def test_in_a_pipe_it_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    """Text without colour, JSON in one line."""
    say("online")
    say_json({"a": [1, 2]})
    assert capsys.readouterr().out == 'online\n{"a":[1,2]}\n'


def test_a_result_is_shown_in_the_form_that_is_asked_for(terminal: pytest.CaptureFixture[str]) -> None:
    """JSON is indented on a terminal."""
    show({"a": 1}, ["a is 1"], as_json=False)
    assert terminal.readouterr().out == "a is 1\n"
    show({"a": 1}, ["a is 1"], as_json=True)
    out = terminal.readouterr().out
    assert (json.loads(out), out.count("\n")) == ({"a": 1}, 3)


def test_long_work_is_counted_on_a_terminal(terminal: pytest.CaptureFixture[str]) -> None:
    """On stderr, and nothing of it stays."""
    assert list(counted(range(2 * COUNT_EVERY), "done")) == list(range(2 * COUNT_EVERY))
    assert terminal.readouterr().err == "\r\033[Kdone 1,000\r\033[Kdone 2,000\r\033[K"


def test_elsewhere_nothing_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """A log is no place for it."""
    assert len(list(counted(range(COUNT_EVERY), "done"))) == COUNT_EVERY
    assert capsys.readouterr().err == ""
