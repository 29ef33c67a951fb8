"""The options that several verbs have, and the files that options name."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final, Literal, cast

from edge_agent.errors import UsageError

Options = dict[str, dict[str, Any]]
"""The arguments of ``add_argument`` by option."""
Actions = Mapping[str, tuple[str, Callable[..., int], Sequence[str]]]
"""By name: what an action does in words, what does it, and its options."""

MAX_SECONDS: Final = 1e9


def length(text: str) -> float:
    """Return a number of seconds, as an option's type.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    with contextlib.suppress(ValueError):
        if 0 <= (value := float(text)) <= MAX_SECONDS:  # nan is not
            return value
    raise argparse.ArgumentTypeError(f"found {text!r}; a number of seconds from 0 to {MAX_SECONDS:g} is needed")


SHARED: Final[Options] = {
    "--config": {"metavar": "PATH", "help": "configuration file"},
    "--socket": {"metavar": "PATH", "help": "the agent's control socket; default: as configured"},
    "--json": {"action": "store_true", "help": "print JSON"},
    "--broker": {"metavar": "URL", "help": "like mqtt://localhost:1883; mqtt, mqtts, ws, wss; default: as configured"},
    "--prefix": {"metavar": "P", "help": "first levels of the topics; default: as configured, else edge"},
    "--seconds": {"metavar": "N", "type": length, "help": "end after N seconds"},
    "--priority": {"choices": ("critical", "normal", "bulk"), "help": "of the records"},
}
ASKING: Final = ("--config", "--socket", "--json")
"""Those of a verb that asks the daemon."""
OPERATING: Final = ("--broker", "--prefix", "--config", "--seconds", "--json")
"""Those of a verb that listens to a broker."""


def add(parser: argparse.ArgumentParser, *names: str, own: Options | None = None) -> None:
    """Add shared options, and a verb's own, to a parser."""
    for name in names:
        parser.add_argument(name, **(SHARED | (own or {}))[name])


def add_actions(parser: argparse.ArgumentParser, actions: Actions, own: Options) -> None:
    """Add a verb's actions, each of which asks the daemon; ``perform`` of the parsed arguments is the chosen one."""
    chosen = parser.add_subparsers(metavar="ACTION", required=True, dest="action")
    for name, (text, perform, options) in actions.items():
        action = chosen.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        add(action, *ASKING, *options, own=own)
        action.set_defaults(perform=perform)


def opened(name: str, mode: Literal["rb", "wb", "ab"]) -> AbstractContextManager[Any]:
    """Open what an option names; ``-`` is standard input or output.

    Raises:
        UsageError: it cannot be opened.
    """
    if name == "-":
        return nullcontext(sys.stdin.buffer if mode == "rb" else sys.stdout.buffer)
    try:
        return cast("AbstractContextManager[Any]", Path(name).open(mode))
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}; name another file") from None
