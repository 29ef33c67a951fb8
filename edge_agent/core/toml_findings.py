"""What is wrong with the syntax of a TOML file, in words that say what was found and what is allowed there."""

from __future__ import annotations

import re
from typing import Final

_SAID: Final = {
    r"Expected newline or end of document after a statement": (
        'found more after the value; one key a line is allowed, and texts like "5m" stand in quotes'
    ),
    r"Invalid value": "found no value; a text in quotes, a number, true, false, [an array] or {a table} is needed",
    r"Invalid statement": "found no key; key = value or [table] is needed",
    r"Invalid initial character for a key part": "found no key; one of A-Z a-z 0-9 _ - or a name in quotes is needed",
    r"Expected '=' after a key in a key/value pair": "found a key without a value; key = value is needed",
    r"Expected ']' at the end of a table declaration": "found a table's name that is not closed; [table] is needed",
    r"Expected '\]\]' at the end of an array declaration": "found a name that is not closed; [[name]] is needed",
    r"Expected [\"']'+[\"']": "found a text that is not closed; a quote is needed at its end",
    r"Cannot overwrite a value": "found a key that stands here already; once is allowed",
    r"Duplicate inline table key .+": "found a key that stands here already; once is allowed",
    r"Cannot declare .+ twice": "found a table that stands here already; once is allowed",
    r"Cannot (mutate immutable|redefine) namespace .+": "found a key below one that is complete; write it there",
    r"Unclosed array": "found an array that is not closed; ] is needed",
    r"Unclosed inline table": "found a table that is not closed on its line; } is needed",
    r"Unterminated string": "found a text that is not closed; a quote is needed at its end",
    r"(Illegal|Found invalid) character '\\n'": "found a text that is not closed on its line; a quote is needed there",
    r"(Illegal|Found invalid) character (.+)": r"found the character \2; printable ones and tabs are allowed",
    r"Unescaped '\\' in a string": r"found a lone \\ in a text; \\\\, or single quotes around it, is needed",
    r"Invalid hex value": r"found a broken \\u in a text; 4 hex digits after \\u, 8 after \\U, are needed",
    r"Escaped character is not a Unicode scalar value": r"found a \\u of half a character; a whole one is needed",
    r"Invalid date or datetime": "found a date or time that does not exist; one of the calendar is needed",
}  # by what tomllib says


def plain(message: str) -> str:
    """Return what tomllib says in plain words, or as it is where it says something new."""
    for pattern, words in _SAID.items():
        if match := re.fullmatch(pattern, message):
            return match.expand(words)
    return message
