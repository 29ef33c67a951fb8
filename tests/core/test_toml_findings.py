"""What is wrong with TOML, in plain words."""

from __future__ import annotations

import tomllib

import pytest

from edge_agent.core.toml_findings import plain


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = 5m", 'found more after the value; one key a line is allowed, and texts like "5m" stand in quotes'),
        ("a = 1 b = 2", "found more after the value"),
        ("a = yes", "found no value; a text in quotes, a number, true, false, [an array] or {a table} is needed"),
        ("a =", "found no value"),
        ("= 1", "found no key; key = value or [table] is needed"),
        ("a.\n", "found no key; one of A-Z a-z 0-9 _ - or a name in quotes is needed"),
        ("a", "found a key without a value; key = value is needed"),
        ("[a", "found a table's name that is not closed; [table] is needed"),
        ("[[a]", "found a name that is not closed; [[name]] is needed"),
        ("a = 1\na = 2", "found a key that stands here already; once is allowed"),
        ("a = 1\n[a]", "found a key that stands here already"),
        ("a = {b = 1, b = 2}", "found a key that stands here already"),
        ("[a]\n[a]", "found a table that stands here already; once is allowed"),
        ("a = {b = 1}\na.c = 2", "found a key below one that is complete; write it there"),
        ("[a.b]\n[a]\nb.c = 1", "found a key below one that is complete; write it there"),
        ("a = [1", "found an array that is not closed; ] is needed"),
        ("a = {b = 1", "found a table that is not closed on its line; } is needed"),
        ('a = "x', "found a text that is not closed; a quote is needed at its end"),
        ("a = 'x", "found a text that is not closed; a quote is needed at its end"),
        ("a = '''x", "found a text that is not closed; a quote is needed at its end"),
        ('a = "x\n', "found a text that is not closed on its line; a quote is needed there"),
        ("a = 'x\nb = 'y'", "found a text that is not closed on its line; a quote is needed there"),
        ('a = "\0"', "found the character '\\x00'; printable ones and tabs are allowed"),
        ("a = '\0'", "found the character '\\x00'"),
        ("# \0", "found the character '\\x00'"),
        (r'a = "C:\pipes"', r"found a lone \ in a text; \\, or single quotes around it, is needed"),
        (r'a = "\u12"', r"found a broken \u in a text; 4 hex digits after \u, 8 after \U, are needed"),
        (r'a = "\ud800"', r"found a \u of half a character; a whole one is needed"),
        ("a = 2026-02-31", "found a date or time that does not exist; one of the calendar is needed"),
    ],
)
def test_every_finding_of_the_parser_is_in_plain_words(text: str, words: str) -> None:
    """Each says what was found and what is allowed, and nothing of the parser's own wording is left."""
    with pytest.raises(tomllib.TOMLDecodeError) as bad:
        tomllib.loads(text)
    message = str(bad.value).rpartition(" (at ")[0]
    assert plain(message).startswith(words)
    assert plain(message).isprintable()


def test_what_is_new_is_said_as_it_is() -> None:
    """A later Python may find more."""
    assert plain("Something new") == "Something new"
