"""``edge-agent publish``: hands records to the running agent; it ends with 0 once they are safe."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import Any, Final, cast

import orjson

from edge_agent.adapters.control_client import ControlClient, UnansweredError
from edge_agent.adapters.durable_file import put_file
from edge_agent.adapters.places import find_inbox
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.cli.asking import daemon
from edge_agent.cli.loading import load
from edge_agent.cli.options import ASKING, add, opened
from edge_agent.cli.printing import say
from edge_agent.core.config_models import Config
from edge_agent.core.jsonrpc import Failure, Request
from edge_agent.core.submission import ENVELOPE, parse_submission
from edge_agent.core.timebase import BUILD_EPOCH, UtcNs, rfc3339
from edge_agent.errors import ConfigError, EdgeAgentError, SubmissionError, UnreachableError, UsageError

WINDOW: Final = 128
_CHUNK: Final = 64 * 1024

Params = dict[str, Any]
Batch = list[tuple[int, Params]]
"""What is handed in at once: the number of its line, from 1, and the params of ``publish``."""


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options to its parser."""
    parser.description = (
        "Hand a record to the running agent: a JSON object on standard input or in a file. Ends with 0 once it is on "
        "disk or acknowledged by the broker; while the agent is stopped it is left in its inbox."
    )
    parser.add_argument("channel", metavar="CHANNEL", help="data/NAME or event/NAME")
    parser.add_argument("--file", metavar="F", default="-", help="where the JSON stands; default: -, standard input")
    parser.add_argument("--lines", action="store_true", help="each line is a record")
    parser.add_argument("--keep", choices=("all", "latest"), help="latest: the channel's next replaces it while unsent")
    parser.add_argument("--time", metavar="T", help="when it happened, like 2026-12-01T00:00:00Z; default: now")
    parser.add_argument("--key", metavar="K", help="the same key twice is one record; with --lines K:1, K:2, …")
    add(parser, "--priority", *ASKING)


def run(args: argparse.Namespace) -> int:
    """Publish; return 0 if every record is safe, 1 if one was refused."""
    config, report = _config(args.config), _Report(args)
    common = {name: value for name in ("channel", "priority", "keep", "time", "key") if (value := getattr(args, name))}
    try:
        parse_submission(common | {"data": {}}, max_record=config.outbox.max_record)
        orjson.dumps(common)
    except (SubmissionError, orjson.JSONEncodeError) as error:
        raise UsageError(str(error)) from None
    inbox = find_inbox(config.state.dir, os.environ)
    with opened(args.file, "rb") as stream:
        batches = _batches(stream, common, report, max_record=config.outbox.max_record)
        for number, outcome in _deliver(batches, partial(daemon, args, config=config), inbox, keyed="key" in common):
            report.tell(number, outcome)
    if report.left:
        what = f"{report.left} records" if args.lines else "the record"
        sys.stderr.write(f"edge-agent: the daemon cannot be reached; {what} left in {inbox} for it\n")
    return 1 if report.refused else 0


def _config(option: str | None) -> Config:
    """Return the configuration; the default file may be missing or half edited, the agent runs on what it has."""
    try:
        return load(option, os.environ).config
    except ConfigError:
        if option or os.environ.get("EDGE_AGENT_CONFIG"):
            raise
        return Config()


class _Report:
    """Says what became of the records."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._json = args.json
        self.lines: bool = args.lines
        self.refused = self.left = 0

    def tell(self, number: int, outcome: Params | EdgeAgentError) -> None:
        """Say what became of a record: the daemon's result, or the file in its inbox, or why it is not accepted.

        Raises:
            EdgeAgentError: the last, if it is the only record.
        """
        if isinstance(outcome, EdgeAgentError):
            if not self.lines:
                raise outcome
            sys.stderr.write(f"edge-agent: line {number}: {outcome}\n")
            outcome = {"error": str(outcome)}
        self.refused += "error" in outcome
        self.left += "file" in outcome
        if self._json:
            say(orjson.dumps(({"line": number} if self.lines else {}) | outcome).decode())


# ---------------------------------------------------------------- what is to be published
def _batches(stream: BufferedReader, common: Params, report: _Report, *, max_record: int) -> Iterator[Batch]:
    """Yield the records, checked as the daemon does it; a bad line is reported and left out."""
    number, limit = 0, max_record + ENVELOPE
    for texts in _lines(stream, limit) if report.lines else [[stream.read(limit + 1)]]:
        batch: Batch = []
        for number, text in enumerate(texts, number + 1):  # noqa: B020  # it goes on counting
            if report.lines and not text.strip():
                continue
            key = {"key": f"{common['key']}:{number}"} if report.lines and "key" in common else {}
            try:
                batch.append((number, _params(text, common | key, max_record)))
            except SubmissionError as error:
                report.tell(number, UsageError(str(error)))
        yield batch


def _params(text: bytes, common: Params, max_record: int) -> Params:
    """Return what is handed in.

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


def _lines(stream: BufferedReader, limit: int) -> Iterator[list[bytes]]:
    """Yield the lines that need not be waited for, ``WINDOW`` at most, each cut after ``limit`` + 1 bytes."""
    rest = b""
    while chunk := stream.read1(_CHUNK):
        *ended, rest = (rest + chunk).split(b"\n")
        rest = rest[: limit + 1]
        for first in range(0, len(ended), WINDOW):
            yield ended[first : first + WINDOW]
    yield [rest]


# ---------------------------------------------------------------- delivery
def _deliver(
    batches: Iterator[Batch], connect: Callable[[], ControlClient], inbox: Path | None, *, keyed: bool
) -> Iterator[tuple[int, Params | EdgeAgentError]]:
    """Yield what became of each record.

    Raises:
        UnreachableError: there is no daemon and no inbox, or nobody knows what became of some.
    """
    pending: dict[int, Params] = {}
    try:
        with connect() as client:
            for batch in batches:
                pending.update(batch)
                for number, params in batch:
                    client.send(Request("publish", params, number))
                while pending:
                    answer = client.receive()
                    number, result = cast("int", answer.id), answer.result
                    pending.pop(number, None)
                    yield (
                        number,
                        EdgeAgentError(result.message) if isinstance(result, Failure) else cast("Params", result),
                    )
            return
    except UnreachableError as error:
        if isinstance(error, UnansweredError) and not keyed:
            which = "the record" if len(pending) == 1 else f"some of the lines {min(pending)} to {max(pending)}"
            why = f"{error}; {which} may or may not be accepted: with --key it is safe to publish again"
            raise UnreachableError(why) from None
        if inbox is None:
            raise
    now = SystemClock().wall()
    # else it would happen when the agent takes it in; a clock that is known to be wrong says nothing better
    happened = {"time": rfc3339(UtcNs(now))} if now >= BUILD_EPOCH else {}
    for number, params in chain(pending.items(), chain.from_iterable(batches)):
        file = inbox / f"{now}-{os.getpid()}-{number:09}.json"
        # the daemon is another user; the folder's mode protects it
        put_file(file, orjson.dumps(happened | params), mode=0o644)
        yield number, {"id": None, "file": str(file)}
