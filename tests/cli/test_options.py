"""The options that verbs share."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from edge_agent.cli.options import ASKING, add, add_actions, length, opened
from edge_agent.errors import UsageError


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "x"])
def test_seconds_are_a_number(text: str) -> None:
    """Of some sense."""
    with pytest.raises(argparse.ArgumentTypeError, match="a number of seconds from 0"):
        length(text)


def test_an_action_has_its_options_and_those_of_every_question() -> None:
    """Its own, which the verb describes, and the shared ones; what it does comes with the arguments."""
    parser = argparse.ArgumentParser()
    add_actions(parser, {"show": ("what there is", lambda: 7, ("--deep",))}, {"--deep": {"action": "store_true"}})
    args = parser.parse_args(["show", "--deep", "--socket", "/s"])
    assert (args.action, args.perform(), args.deep, args.socket, args.json, args.config) == (
        *("show", 7, True, "/s"),
        *(False, None),
    )


def test_shared_options_are_described() -> None:
    """Each has a help."""
    parser = argparse.ArgumentParser()
    add(parser, *ASKING)
    assert all(f"{name} " in parser.format_help() for name in ASKING)


def test_what_cannot_be_opened_is_said(tmp_path: Path) -> None:
    """With its name; what can be is open."""
    with opened(str(tmp_path / "x"), "wb") as file:
        file.write(b"1")
    with opened(str(tmp_path / "x"), "rb") as file:
        assert file.read() == b"1"
    with pytest.raises(UsageError, match=r"/none: No such file or directory; name another file"):
        opened("/none", "rb")
