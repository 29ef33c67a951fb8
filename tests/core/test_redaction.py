"""What is hidden of a configuration, and of texts that repeat its secrets."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.redaction import HIDDEN, SHORTEST, redact, scrub

SECRETS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=SHORTEST, max_size=40)


JOB_AUTH = {"jobs": {"a": {"options": {"auth": {"basic": ["u", 7]}}}}}
URL = {"endpoints": {"e": {"url": "https://x.example/a?key=1"}}}


@pytest.mark.parametrize(
    ("document", "shown"),
    [
        ({"programs": {"p": {"env": {"LANG": "C"}}}}, {"programs": {"p": {"env": {"LANG": HIDDEN}}}}),
        ({"programs": {"p": {"argv": ["x", "-p", "pw"]}}}, {"programs": {"p": {"argv": ["x", HIDDEN, HIDDEN]}}}),
        ({"mqtt": {"password_file": "/run/pw"}}, {"mqtt": {"password_file": "/run/pw"}}),
        ({"mqtt": {"password_file": "pw", "username": None}}, {"mqtt": {"password_file": HIDDEN, "username": None}}),
        ({"device": {"labels": {"api_key": "x"}}}, {"device": {"labels": {"api_key": HIDDEN}}}),
        ({"jobs": {"token": {"every": "1m"}}}, {"jobs": {"token": {"every": "1m"}}}),
        (JOB_AUTH, {"jobs": {"a": {"options": {"auth": {"basic": [HIDDEN, 7]}}}}}),
        ({"jobs": {"a": {"cron": "0/30 * * * * ?"}}}, {"jobs": {"a": {"cron": "0/30 * * * * ?"}}}),
        (URL, {"endpoints": {"e": {"url": f"https://x.example/a?{HIDDEN}"}}}),
        ({"mqtt": {"brokers": ["wss://u:p@b/mqtt?t=1"]}}, {"mqtt": {"brokers": [f"wss://{HIDDEN}@b/mqtt?{HIDDEN}"]}}),
    ],
)
def test_what_may_be_a_secret_is_not_shown(document: dict[str, Any], shown: dict[str, Any]) -> None:
    """Everything else is, as it is."""
    assert redact(document)[0] == shown


def test_what_was_hidden_is_known_to_whoever_has_texts_to_clean() -> None:
    """Of a URL each part by itself, too."""
    _, hidden = redact({"endpoints": {"e": {"url": "https://user:word@x/a?key=value&b=c"}}})
    assert hidden >= {"user:word", "word", "value", "c"}


@given(SECRETS)
def test_a_secret_stands_in_no_text_however_it_is_spelled(secret: str) -> None:
    """As it is, escaped, quoted; as a key, deep inside, on a line of many."""
    texts = [secret, json.dumps(secret), json.dumps(secret, ensure_ascii=False), repr(secret), quote(secret, safe="")]
    value = {secret: [{"a": f"before {text} after"} for text in texts], "b": 1, "c": None}
    found = scrub(value, [f"{secret}\nand more lines"])
    assert found == {HIDDEN: found[HIDDEN], "b": 1, "c": None}
    for line in found[HIDDEN]:
        assert secret not in line["a"]
        assert HIDDEN in line["a"]


def test_what_is_too_short_to_be_told_from_other_text_is_left_alone() -> None:
    """Or nothing could be read any more."""
    assert scrub("a1 = 1", ["1", ""]) == "a1 = 1"


def test_a_url_in_a_text_loses_its_credentials() -> None:
    """Whoever they are."""
    text = "connect to mqtt://user:word@b:1 and https://x/y?k=v failed"
    assert scrub(text, []) == f"connect to mqtt://{HIDDEN}@b:1 and https://x/y?{HIDDEN} failed"
