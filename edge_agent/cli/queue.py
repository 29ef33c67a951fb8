"""``edge-agent queue``: the outbox of the running agent, or what a stopped one has on disk."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, Self

import orjson

from edge_agent.adapters.control_client import ControlClient
from edge_agent.adapters.places import find_socket, state_dir
from edge_agent.adapters.store_copy import opened_copy
from edge_agent.cli.loading import load
from edge_agent.core.jsonrpc import Failure, Request
from edge_agent.core.records import Encoder
from edge_agent.errors import EdgeAgentError, UnreachableError, UsageError
from edge_agent.ports import Store
from edge_agent.services.queue_tools import PAGE, dead_of, page_of, stand_of

ACTIONS: Final = {
    "stat": "how it stands: records, bytes, streams, what was dropped and why",
    "peek": "the records that go next, or the dead letters",
    "export": "all records as JSON lines, without touching them",
    "check": "whether file and records are intact",
    "purge": "drop records; each is named to the consumers as a gap",
    "retry": "put the dead letters back into the outbox",
}
_ANSWER_WITHIN_S: Final = 600.0  # a check of a large file on a slow disk

Ask = Callable[[str, dict[str, Any]], Any]
"""Takes a method and its params, returns the result."""


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options to its parser."""
    parser.description = (
        "Look into the outbox, and let go of some of it. "
        "stat, peek, export and check also work while the agent is stopped."
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True, dest="action")
    for name, text in ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        action.add_argument("--config", metavar="PATH", help="configuration file")
        action.add_argument("--socket", metavar="PATH", help="the agent's control socket; default: as configured")
        action.add_argument("--json", action="store_true", help="print JSON")
        if name in ("peek", "export", "purge"):
            action.add_argument("--dead", action="store_true", help="the dead letters instead")
        if name == "peek":
            action.add_argument("-n", metavar="N", dest="count", type=int, default=10, help="how many; default: 10")
        if name == "export":
            action.add_argument("--file", metavar="F", default="-", help="where to; default: -, standard output")
        if name == "purge":
            action.add_argument("--priority", choices=("critical", "normal", "bulk"), help="only these; default: all")
            action.add_argument("--channel", metavar="C", help="only this one's, like data/temperature; default: all")
            action.add_argument("--yes", action="store_true", help="do not ask")


def run(args: argparse.Namespace) -> int:
    """Do it; return 0, or 1 if a check has found damage."""
    if args.action == "purge" and not args.yes and not _sure():
        return 1
    with _asking(args) as ask:
        code: int = globals()[f"_{args.action}"](args, ask)
        return code


@contextlib.contextmanager
def _asking(args: argparse.Namespace) -> Iterator[Ask]:
    config = load(args.config, os.environ).config
    path = Path(args.socket) if args.socket else find_socket(config.control.socket, os.environ)
    try:
        client = ControlClient(path, answer_within_s=_ANSWER_WITHIN_S)
    except UnreachableError:
        if args.action in ("purge", "retry") or args.socket:
            raise
        with opened_copy(state_dir(config.state.dir, os.environ)) as store:
            yield partial(_ask_copy, store, Encoder(config.device.id, store.facts.name))
        return
    with client:
        yield partial(_call, client)


def _ask_copy(store: Store, encoder: Encoder, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """Answer as the agent would."""
    if method == "queue-stat":
        return stand_of(store) | {"running": False}
    if method == "queue-dead":
        return {"dead": dead_of(store, encoder)}
    if method == "queue-check":
        return {"structure": store.structure()}
    return page_of(store, encoder, params["after"], params["limit"])


def _call(client: ControlClient, method: str, params: dict[str, Any]) -> Any:  # noqa: ANN401  # whatever it answers
    client.send(Request(method, params, id=1))
    result = client.receive().result
    if isinstance(result, Failure):
        raise EdgeAgentError(result.message)
    return result


# ---------------------------------------------------------------- the actions
def _stat(args: argparse.Namespace, ask: Ask) -> int:
    found = ask("queue-stat", {})
    if args.json:
        _print_json(found)
        return 0
    for name in ("name", "running", "online", "records", "bytes", "max_bytes", "oldest_age_s", "dead", "bytes_sent"):
        if name in found:
            _say(f"{name:14} {_shown(found[name])}")
    for name, why in found.get("dropped_by_reason", {}).items():
        _say(f"{'dropped':14} {why} {name}")
    for condition in found.get("conditions", ()):
        _say(f"{'condition':14} {condition}")
    for name, stream in found["streams"].items():
        _say(f"{'stream':14} {name} " + " ".join(f"{key}={_shown(value)}" for key, value in stream.items()))
    for gap in found["gaps"]:
        _say(f"{'gap':14} {gap['stream']} {gap['first']}-{gap['last']} {gap['reason']}")
    return 0


def _peek(args: argparse.Namespace, ask: Ask) -> int:
    if args.count < 1:
        raise UsageError(f"-n {args.count}: a number from 1 is needed")
    for shown, line in enumerate(_dead_lines(ask) if args.dead else _record_lines(ask, limit=min(args.count, PAGE))):
        if shown == args.count:
            break
        _say(line.decode())
    return 0


def _export(args: argparse.Namespace, ask: Ask) -> int:
    with _output(args.file) as stream, _Progress("exported") as progress:
        for line in _dead_lines(ask) if args.dead else _record_lines(ask):
            stream.write(line + b"\n")
            progress.step()
    return 0


def _check(args: argparse.Namespace, ask: Ask) -> int:
    structure = ask("queue-check", {})["structure"]
    count, damaged = 0, []
    with _Progress("checked") as progress:
        for page in _pages(ask, PAGE):
            count += len(page["records"])
            damaged += page["damaged"]
            progress.step(len(page["records"]))
    ok = structure == "ok" and not damaged
    if args.json:
        _print_json({"ok": ok, "structure": structure, "records": count, "damaged": damaged})
    else:
        _say(f"{'ok' if ok else 'damaged'}: structure {structure}, {count} records intact, {len(damaged)} damaged")
    return 0 if ok else 1


def _purge(args: argparse.Namespace, ask: Ask) -> int:
    wanted = {"priority": args.priority, "channel": args.channel, "dead": args.dead}
    return _tell(args, ask("queue-purge", {name: value for name, value in wanted.items() if value}))


def _retry(args: argparse.Namespace, ask: Ask) -> int:
    return _tell(args, ask("queue-retry", {}))


def _tell(args: argparse.Namespace, done: dict[str, int]) -> int:
    if args.json:
        _print_json(done)
    else:
        _say(" ".join(f"{name} {count}" for name, count in done.items()))
    return 0


# ---------------------------------------------------------------- reading and writing
def _pages(ask: Ask, limit: int) -> Iterator[Any]:
    after: int | None = 0
    while after is not None:
        page = ask("queue-peek", {"after": after, "limit": limit})
        yield page
        after = page["next"]


def _record_lines(ask: Ask, limit: int = PAGE) -> Iterator[bytes]:
    for page in _pages(ask, limit):
        for record in page["records"]:
            yield orjson.dumps(record)


def _dead_lines(ask: Ask) -> Iterator[bytes]:
    for letter in ask("queue-dead", {})["dead"]:
        yield orjson.dumps(letter)


@contextlib.contextmanager
def _output(name: str) -> Iterator[IO[bytes]]:
    if name == "-":
        yield sys.stdout.buffer
        return
    try:
        with Path(name).open("wb") as stream:
            yield stream
    except OSError as error:
        raise EdgeAgentError(f"--file {name}: {error.strerror}") from None


class _Progress:
    """A counter on a terminal's stderr; nothing elsewhere."""

    EVERY: Final = 1000

    def __init__(self, what: str) -> None:
        self._what = what
        self._count = 0
        self._shown = 0

    def __enter__(self) -> Self:
        return self

    def step(self, count: int = 1) -> None:
        """Count on."""
        self._count += count
        if sys.stderr.isatty() and self._count - self._shown >= self.EVERY:
            self._shown = self._count
            sys.stderr.write(f"\r{self._what} {self._count:,}")
            sys.stderr.flush()

    def __exit__(self, *_exception: object) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")


def _sure() -> bool:
    if not sys.stdin.isatty():
        raise UsageError("purge drops records for good; add --yes if that is what you want")
    return input("drop these records for good? [y/N] ").strip().lower() in ("y", "yes")


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "-"
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def _print_json(value: object) -> None:
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")
