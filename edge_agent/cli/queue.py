"""``edge-agent queue``: the outbox of the running agent, or what a stopped one has on disk."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any, Final

import orjson

from edge_agent.adapters.places import state_dir
from edge_agent.adapters.store_file import opened_copy
from edge_agent.cli.asking import daemon
from edge_agent.cli.loading import load
from edge_agent.cli.options import Actions, Options, add_actions, opened
from edge_agent.cli.printing import counted, facts, say, show, shown
from edge_agent.errors import EdgeAgentError, UnreachableError, UsageError
from edge_agent.services.queue_tools import answer_from

_FACTS: Final = ("name", "running", "online", "records", "bytes", "max_bytes", "oldest_age_s", "dead", "bytes_sent")
_ANSWER_WITHIN_S: Final = 600.0  # a check of a large file on a slow disk

Ask = Callable[..., Any]
"""Takes a method and its params, returns the result."""


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options to its parser."""
    parser.description = (
        "Look into the outbox, and let go of some of it. "
        "stat, peek, export and check also work while the agent is stopped."
    )
    add_actions(parser, ACTIONS, _OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Do it; return 0, or 1 if a check has found damage."""
    with _asking(args) as ask:
        code: int = args.perform(args, ask)
        return code


@contextlib.contextmanager
def _asking(args: argparse.Namespace) -> Iterator[Ask]:
    try:
        client = daemon(args, answer_within_s=_ANSWER_WITHIN_S)
    except UnreachableError:
        if args.action in ("purge", "retry") or args.socket:
            raise
    else:
        with client:
            yield client.call
        return
    config = load(args.config, os.environ).config
    with opened_copy(state_dir(config.state.dir, os.environ)) as store:
        yield partial(answer_from, store, config.device.id)


# ---------------------------------------------------------------- the actions
def _stat(args: argparse.Namespace, ask: Ask) -> int:
    found = ask("queue-stat")
    show(found, _standing(found), as_json=args.json)
    return 0


def _standing(found: Mapping[str, Any]) -> Iterator[str]:
    yield from facts(found, _FACTS)
    yield from (f"dropped: {count} {reason}" for reason, count in found.get("dropped_by_reason", {}).items())
    yield from (f"condition: {condition}" for condition in found.get("conditions", ()))
    for name, stream in found["streams"].items():
        yield f"stream: {name} " + " ".join(f"{key}={shown(value)}" for key, value in stream.items())
    yield from ("gap: {stream} {first}-{last} {reason}".format(**gap) for gap in found["gaps"])


def _peek(args: argparse.Namespace, ask: Ask) -> int:
    if args.count < 1:
        raise UsageError(f"-n {args.count}: a number from 1 is needed")
    say(*(orjson.dumps(record).decode() for record in islice(_chosen(args, ask), args.count)))
    return 0


def _export(args: argparse.Namespace, ask: Ask) -> int:
    with opened(args.file, "wb") as file:
        for record in counted(_chosen(args, ask), "exported"):
            file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
    return 0


def _check(args: argparse.Namespace, ask: Ask) -> int:
    structure, damaged = ask("queue-check")["structure"], set[int]()
    count = sum(1 for _ in counted(_records(ask, damaged), "checked"))
    ok = structure == "ok" and not damaged
    found = {"ok": ok, "structure": structure, "records": count, "damaged": sorted(damaged)}
    line = f"{'ok' if ok else 'damaged'}: structure {structure}, {count} records intact, {len(damaged)} damaged"
    show(found, [line], as_json=args.json)
    return 0 if ok else 1


def _purge(args: argparse.Namespace, ask: Ask) -> int:
    """Drop what was chosen; whoever sits at a terminal is asked whether that is meant."""
    if not args.yes and sys.stdin.isatty():
        sys.stderr.write("what is dropped is gone for good; drop it? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise EdgeAgentError("nothing was dropped")
    return _change(args, ask)


def _change(args: argparse.Namespace, ask: Ask) -> int:
    given = {name: value for name in ("priority", "channel", "dead") if (value := getattr(args, name, None))}
    done = ask(f"queue-{args.action}", **given)
    show(done, (f"{what} {count}" for what, count in done.items()), as_json=args.json)
    return 0


def _chosen(args: argparse.Namespace, ask: Ask) -> Iterator[Any]:
    return iter(ask("queue-dead")["dead"]) if args.dead else _records(ask, set())


def _records(ask: Ask, damaged: set[int]) -> Iterator[Any]:
    """Yield all records; the keys of those that cannot be read are added to ``damaged``."""
    after: int | None = 0
    while after is not None:
        page = ask("queue-peek", after=after)
        damaged.update(page["damaged"])
        after = page["next"]
        yield from page["records"]


ACTIONS: Final[Actions] = {
    "stat": ("how it stands: records, bytes, streams, what was dropped and why", _stat, ()),
    "peek": ("the records that go next, or the dead letters", _peek, ("-n", "--dead")),
    "export": ("all records as JSON lines, without touching them", _export, ("--file", "--dead")),
    "check": ("whether file and records are intact", _check, ()),
    "purge": ("drop records; each is named as a gap", _purge, ("--yes", "--priority", "--channel", "--dead")),
    "retry": ("put the dead letters back into the outbox", _change, ()),
}
_OPTIONS: Final[Options] = {
    "-n": {"metavar": "N", "dest": "count", "type": int, "default": 10, "help": "how many; default: 10"},
    "--dead": {"action": "store_true", "help": "the dead letters instead"},
    "--file": {"metavar": "F", "default": "-", "help": "where to; default: -, standard output"},
    "--yes": {"action": "store_true", "help": "do not ask, as a terminal is asked"},
    "--channel": {"metavar": "C", "help": "only this one's, like data/temperature; default: all"},
}
