"""``edge-agent verify``: what became of every record, from the messages of a broker or of a file."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Final

from typing_extensions import override

from edge_agent.adapters.system_clock import SystemClock
from edge_agent.cli.operating import find_target, observe
from edge_agent.cli.options import OPERATING, add, opened
from edge_agent.cli.printing import show, table
from edge_agent.core.fleet import Fleet
from edge_agent.core.topics import Topics, is_filter
from edge_agent.core.verification import MAX_MESSAGE, Report, Verification
from edge_agent.errors import EdgeAgentError, UsageError
from edge_agent.ports import Delivery
from edge_agent.services.watcher import Happening, Link, Watcher

GIVE_UP_AFTER: Final = 3  # attempts, without a first connection
MAX_LINE: Final = MAX_MESSAGE + 2
SHOWN: Final = 20
_COLUMNS: Final = ("device", "stream", "delivered", "named", "missing", "duplicates", "conflicting", "out_of_order")


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options to its parser."""
    parser.description = (
        "Listen until SIGINT or --seconds, or read a file, and say for each device and stream what became of its "
        "numbers: delivered, named by the device as not delivered, missing, repeated (conflicting: with another "
        "content), out of order. Exit 0 if nothing is missing, conflicting or out of order, else 1. Joining late, it "
        "judges what is put from then on, as soon as two or three heartbeats have come."
    )
    parser.add_argument("--filter", metavar="F", action="append", help="subscribe to this; default: PREFIX/+/up/#")
    parser.add_argument("--file", metavar="FILE", help="read messages, one a line; - = stdin, as of mosquitto_sub")
    parser.add_argument("--from-start", action="store_true", help="all since the first number is to be there")
    add(parser, *OPERATING)


def run(args: argparse.Namespace) -> int:
    """Verify; return 0 if all is as promised, else 1."""
    verification = Verification(from_start=args.from_start)
    if args.file is None:
        _listen(args, verification)
    elif args.broker or args.filter or args.seconds is not None:
        raise UsageError("--file does not go with --broker, --filter or --seconds")
    else:
        _read_file(args.file, verification)
    report = verification.report()
    show({"ok": report.ok} | asdict(report), _lines(report), as_json=args.json)
    return 0 if report.ok else 1


# ---------------------------------------------------------------- from a broker
class _Ear(Watcher):
    """Hands all that it hears to a verification; of the fleet it keeps nothing."""

    verification: Verification

    @override
    def _hear(self, delivery: Delivery) -> None:
        self.verification.take(delivery.payload, self.clock.monotonic())


def _listen(args: argparse.Namespace, verification: Verification) -> None:
    """Listen.

    Raises:
        UsageError: a filter is none.
        UnreachableError: the broker was never reached.
        EdgeAgentError: it refuses a subscription.
    """
    target = find_target(args, os.environ, verb="verify")
    clock, over = SystemClock(), asyncio.Event()
    failures, refused = 0, list[str]()

    def tell(happening: Happening) -> None:
        nonlocal failures
        assert isinstance(happening, Link), "of the fleet it hears nothing"
        failures += happening.event == "failed"
        if happening.event == "lost":
            verification.disconnected()
        elif happening.event == "refused":
            refused.append(happening.text)
        if refused or (ear.obstacle and failures >= GIVE_UP_AFTER):
            over.set()

    filters = args.filter or [Topics(target.prefix, "+").up("#")]
    if (wrong := next((one for one in filters if not is_filter(one)), None)) is not None:
        raise UsageError(f"--filter {wrong!r}: a topic filter like edge/+/up/# is needed")
    ear = target.watcher(_Ear, Fleet(), clock, tell, filters)
    ear.verification = verification
    asyncio.run(observe(ear, over=over, seconds_=args.seconds))
    if refused:
        raise EdgeAgentError(f"subscription refused: {refused[0]}")


# ---------------------------------------------------------------- from a file
def _read_file(name: str, verification: Verification) -> None:
    """Take in all of a file; SIGINT ends it early, as for a pipe that does not end."""
    with opened(name, "rb") as file, contextlib.suppress(KeyboardInterrupt):
        for line in iter(partial(file.readline, MAX_LINE), b""):
            if line := line.strip():
                verification.take(line)


# ---------------------------------------------------------------- what is said
def _lines(report: Report) -> Iterator[str]:
    """Yield a table, what is wrong in it, what it does not say, and the verdict."""
    streams = report.streams
    yield from table(_COLUMNS, map(asdict, streams)) if streams else ()
    details = [
        *(f"missing: {s.device} {s.stream} {count} of {a}-{b}" for s in streams for a, b, count in s.missing_ranges),
        *(f"out of order: {s.device} {s.stream} {a}-{b}" for s in streams for a, b in s.out_of_order_ranges),
    ]
    yield from details[:SHOWN]
    lost, unjudged = report.interruptions, sum(not row.judged for row in streams)
    notes = {
        f"{len(details) - SHOWN} more; --json has all": len(details) > SHOWN,
        "no record was seen": not any(row.delivered for row in streams),
        f"this program's connection was lost {lost}x; what passed meanwhile is not judged": lost,
        f"{report.left_out} messages that there is no room for": report.left_out,
        f"{unjudged} streams are not judged yet: until a device says that all it had before is gone": unjudged,
    }
    yield from (f"note: {text}" for text, holds in notes.items() if holds)
    yield f"{'ok' if report.ok else 'NOT OK'}: {report.messages} messages, {report.unreadable} unreadable"
