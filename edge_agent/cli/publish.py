"""``edge-agent publish``: hands records to the running agent; it ends with 0 once they are safe."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import Any, Final, cast

import orjson

from edge_agent.adapters.control_client import ControlClient, UnansweredError, leave
from edge_agent.adapters.places import find_inbox, find_socket
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.cli.loading import load
from edge_agent.core.config_models import Config
from edge_agent.core.jsonrpc import Answer, Failure, Request
from edge_agent.core.submission import ENVELOPE, parse_submission
from edge_agent.errors import ConfigError, EdgeAgentError, SubmissionError, UnreachableError, UsageError

WINDOW: Final = 128
_CHUNK: Final = 64 * 1024

Params = dict[str, Any]
Record = tuple[int, Params]
"""The number of its line, from 1, and what is handed in."""


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options to its parser."""
    parser.description = (
        "Hand a record to the running agent: a JSON object on standard input or in a file. Ends with 0 once it is on "
        "disk or acknowledged by the broker; while the agent is stopped it is left in its inbox."
    )
    parser.add_argument("channel", metavar="CHANNEL", help="data/NAME or event/NAME")
    parser.add_argument("--file", metavar="F", default="-", help="where the JSON stands; default: -, standard input")
    parser.add_argument("--lines", action="store_true", help="each line is a record")
    parser.add_argument("--priority", choices=("critical", "normal", "bulk"), help="default: normal")
    parser.add_argument(
        "--keep", choices=("all", "latest"), help="latest: while unsent, the next of the channel replaces it"
    )
    parser.add_argument("--time", metavar="T", help="when it happened, like 2026-12-01T00:00:00Z; default: now")
    parser.add_argument("--key", metavar="K", help="the same key twice is one record; with --lines K:1, K:2, …")
    parser.add_argument("--config", metavar="PATH", help="configuration file")
    parser.add_argument("--socket", metavar="PATH", help="the agent's control socket; default: as configured")
    parser.add_argument("--json", action="store_true", help="print the record's id as JSON")


def run(args: argparse.Namespace) -> int:
    """Publish; return 0 if every record is safe, 1 if one was refused."""
    config = _config(args.config)
    report = _Report(as_json=args.json, lines=args.lines)
    common = {
        name: getattr(args, name) for name in ("channel", "priority", "keep", "time", "key") if getattr(args, name)
    }
    try:
        parse_submission(common | {"data": {}}, max_record=config.outbox.max_record)
        orjson.dumps(common)
    except (SubmissionError, orjson.JSONEncodeError) as error:
        raise UsageError(str(error)) from None
    path = Path(args.socket) if args.socket else find_socket(config.control.socket, os.environ)
    inbox = find_inbox(config.state.dir, os.environ)
    with open_input(args.file) as stream:
        records = _records(stream, common, report, max_record=config.outbox.max_record)
        for number, outcome in _deliver(records, path, inbox, keyed="key" in common):
            report.add(number, outcome)
    return report.finish()


def _config(option: str | None) -> Config:
    """Return the configuration; the default file may be missing or half edited, the agent runs on what it has."""
    try:
        return load(option, os.environ).config
    except ConfigError:
        if option or os.environ.get("EDGE_AGENT_CONFIG"):
            raise
        return Config()


# ---------------------------------------------------------------- what is to be published
def open_input(name: str) -> AbstractContextManager[BufferedReader]:
    """Return what ``--file`` names; ``-`` is standard input.

    Raises:
        UsageError: it cannot be opened.
    """
    if name == "-":
        return nullcontext(cast("BufferedReader", sys.stdin.buffer))
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise UsageError(f"--file {name}: {error.strerror}") from None


def _records(stream: BufferedReader, common: Params, report: _Report, *, max_record: int) -> Iterator[Record | None]:
    """Yield the records; ``None`` before each wait for more of them. A bad line is reported and left out."""
    limit = max_record + ENVELOPE
    texts = _lines(stream, limit) if report.lines else iter([stream.read(limit + 1)])
    number = 0
    for text in texts:
        if text is None:
            yield None
            continue
        number += 1
        if report.lines and not text.strip():
            continue
        key = {"key": f"{common['key']}:{number}"} if report.lines and "key" in common else {}
        try:
            yield number, _params(text, common | key, max_record)
        except SubmissionError as error:
            if not report.lines:
                raise UsageError(str(error)) from None
            report.refuse(number, str(error))


def _params(text: bytes, common: Params, max_record: int) -> Params:
    """Return what is handed in, checked as the daemon does it.

    Raises:
        SubmissionError: it is not valid.
    """
    if len(text) > max_record + ENVELOPE:
        raise SubmissionError(f"too long; outbox.max_record allows {max_record} bytes")
    try:
        params = common | {"data": orjson.loads(text)}
    except orjson.JSONDecodeError as error:
        raise SubmissionError(f'not JSON: {error}; an object is needed, like {{"c": 21.5}}') from None
    parse_submission(params, max_record=max_record)
    return params


def _lines(stream: BufferedReader, limit: int) -> Iterator[bytes | None]:
    """Yield lines, cut after ``limit`` + 1 bytes; ``None`` before each wait."""
    rest = bytearray()
    while True:
        yield None
        chunk = stream.read1(_CHUNK)
        if not chunk:
            break
        *ended, last = chunk.split(b"\n")
        for piece in ended:
            yield bytes(rest + piece)[: limit + 1]
            rest.clear()
        rest += last
        del rest[limit + 1 :]
    if rest:
        yield bytes(rest)


# ---------------------------------------------------------------- delivery
def _deliver(
    records: Iterator[Record | None], path: Path, inbox: Path | None, *, keyed: bool
) -> Iterator[tuple[int, Answer | Path]]:
    """Yield what became of each record.

    Raises:
        UnreachableError: there is no daemon and no inbox, or nobody knows what became of some.
    """
    pending: dict[int, Params] = {}
    try:
        with ControlClient(path) as client:
            return (yield from _pipeline(client, records, pending))
    except UnreachableError as error:
        if isinstance(error, UnansweredError) and not keyed:
            which = "the record" if len(pending) == 1 else f"some of the lines {min(pending)} to {max(pending)}"
            raise UnreachableError(
                f"{error}; {which} may or may not be accepted: with --key it is safe to publish again"
            ) from None
        if inbox is None:
            raise
    return (yield from _leave(chain(pending.items(), records), inbox))


def _leave(records: Iterable[Record | None], inbox: Path) -> Iterator[tuple[int, Path]]:
    """Leave the records in the inbox; yield their files."""
    clock = SystemClock()
    for number, params in filter(None, records):
        yield number, leave(inbox, params, name=f"{clock.wall()}-{os.getpid()}-{number}.json")


def _pipeline(
    client: ControlClient, records: Iterator[Record | None], pending: dict[int, Params]
) -> Iterator[tuple[int, Answer]]:
    """Yield the answers as they come; ``pending`` is what was sent and has none yet."""
    for record in chain(records, [None]):
        if record is not None:
            number, params = record
            pending[number] = params
            client.send(Request("publish", params, number))
        while len(pending) >= (WINDOW if record else 1):
            answer = client.receive()
            number = cast("int", answer.id)
            if pending.pop(number, None) is not None:
                yield number, answer


class _Report:
    """Says what became of the records."""

    def __init__(self, *, as_json: bool, lines: bool) -> None:
        self.lines = lines
        self._json = as_json
        self._refused = self._left = 0
        self._left_in: Path | None = None

    def add(self, number: int, outcome: Answer | Path) -> None:
        """Say what became of a record.

        Raises:
            EdgeAgentError: it was refused, and is the only one.
        """
        if isinstance(outcome, Path):
            self._left_in, self._left = outcome.parent, self._left + 1
            self._print(number, {"id": None, "file": str(outcome)})
        elif not isinstance(outcome.result, Failure):
            self._print(number, cast("Params", outcome.result))
        elif self.lines:
            self.refuse(number, outcome.result.message)
        else:
            raise EdgeAgentError(outcome.result.message)

    def refuse(self, number: int, reason: str) -> None:
        """Say that a line is not accepted; the others go on."""
        self._refused += 1
        sys.stderr.write(f"edge-agent: line {number}: {reason}\n")
        self._print(number, {"error": reason})

    def finish(self) -> int:
        """Say what there is to say at the end, and return the exit code."""
        if self._left:
            what = f"{self._left} records" if self.lines else "the record"
            sys.stderr.write(f"edge-agent: the daemon cannot be reached; {what} left in {self._left_in} for it\n")
        return 1 if self._refused else 0

    def _print(self, number: int, members: Params) -> None:
        if self._json:
            line = {"line": number} | members if self.lines else members
            sys.stdout.write(orjson.dumps(line).decode() + "\n")
            sys.stdout.flush()
