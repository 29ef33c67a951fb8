"""``edge-agent verify``: what became of every record, from the messages of a broker or of a file."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO, Final

import orjson
from typing_extensions import override

from edge_agent.adapters.system_clock import SystemClock
from edge_agent.cli.watch import Target, add_target_options, connecting, find_target, length, stop_on_signals, wait_for
from edge_agent.core.fleet import Change, Fleet
from edge_agent.core.timebase import elapsed, later, seconds, to_seconds
from edge_agent.core.topics import Topics
from edge_agent.core.verification import MAX_MESSAGE, Report, Verification
from edge_agent.core.verified_stream import StreamReport
from edge_agent.errors import UnreachableError, UsageError
from edge_agent.ports import Delivery
from edge_agent.services.watcher import Connected, Failed, Happening, Lost, Refused, Watcher

GIVE_UP_AFTER_S: Final = 10  # without a first connection
LOOK_EVERY: Final = seconds(1)
MAX_LINE: Final = 4 * MAX_MESSAGE  # as text within JSON a message is longer
MAX_REASONS: Final = 10
PROGRESS_EVERY: Final = 10_000  # messages of a file
SHOWN: Final = 20
_COLUMNS: Final = {
    "delivered": "delivered",
    "named": "named",
    "missing": "missing",
    "duplicates": "duplicate",
    "conflicting": "conflict",
    "out_of_order": "disorder",
    "contradicted": "contradict",
    "open": "open",
    "while_disconnected": "unheard",
    "unjudged": "unjudged",
}
_ALWAYS: Final = ("delivered", "named", "missing", "duplicates", "out_of_order")


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options to its parser."""
    parser.description = (
        "Listen until SIGINT or --seconds, or read a file, and say for each device and stream what became of its "
        "numbers: delivered, named by the device as not delivered, missing, repeated (conflict: with another content), "
        "out of order; contradict: named and delivered all the same; open: not decided yet; unheard: what became of "
        "them may have passed while this program was not connected; unjudged: too scattered to remember. "
        "Exit 0 if nothing is missing, conflicting, out of order or unjudged, else 1. Joining late, it judges what is "
        "put from then on, as soon as two or three heartbeats have come."
    )
    add_target_options(parser)
    parser.add_argument("--filter", metavar="F", action="append", help="subscribe to this; default: PREFIX/+/up/#")
    parser.add_argument(
        "--file", metavar="FILE", help="read JSON lines (- = stdin): events, arrays of them, or mosquitto_sub -F %%j"
    )
    parser.add_argument("--seconds", metavar="N", type=length, help="end after N seconds")
    parser.add_argument("--until-settled", action="store_true", help="end when nothing waits and all is settled")
    parser.add_argument(
        "--from-start",
        action=argparse.BooleanOptionalAction,
        help="whether all since the first number is to be there; default: for a file it is",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object with everything")


def run(args: argparse.Namespace) -> int:
    """Verify; return 0 if all is as promised, else 1."""
    from_start = args.file is not None if args.from_start is None else args.from_start
    verification = Verification(from_start=from_start, only=args.devices)
    if args.file is None:
        listening = _Listening(find_target(args, os.environ), verification, args)
        asyncio.run(listening.run())
        failures, caveats = listening.failures(), listening.caveats()
    elif args.broker or args.filter or args.seconds is not None or args.until_settled:
        raise UsageError("--file does not go with --broker, --filter, --seconds or --until-settled")
    else:
        _read_file(args.file, verification)
        failures, caveats = [], []
    report = verification.report()
    if report.left_out:
        failures.append(f"{report.left_out} messages of devices or streams that there is no room for")
    if not any(stream.delivered for stream in report.streams):
        caveats.append("no record was seen")
    ok = report.ok and not failures
    sys.stdout.writelines((_json if args.json else _lines)(report, failures + caveats, ok=ok))
    return 0 if ok else 1


# ---------------------------------------------------------------- from a broker
class _Ear(Watcher):
    """Hands on what it hears; of the fleet it keeps nothing."""

    hear: Callable[[Delivery], None]

    @override
    def _hear(self, delivery: Delivery) -> Change | None:
        self.hear(delivery)
        return None


class _Listening:
    """One connection to the broker, for as long as the options say."""

    def __init__(self, target: Target, verification: Verification, args: argparse.Namespace) -> None:
        self._verification = verification
        self._seconds: float | None = args.seconds
        self._until_settled: bool = args.until_settled
        self._clock = SystemClock()
        self._began = self._clock.monotonic()
        self._over = asyncio.Event()
        self._connected = False
        self._failure = f"{target.broker} did not answer"
        self._losses: Counter[str] = Counter()
        self._refused: dict[str, str] = {}
        filters = args.filter or [Topics(target.prefix, device).up("#") for device in target.devices or ("+",)]
        connector, policy = connecting(target, self._clock)
        self._ear = _Ear(
            connector, policy, clock=self._clock, fleet=Fleet(), topics=(target.prefix, filters), tell=self._tell
        )
        self._ear.hear = self._hear

    async def run(self) -> None:
        """Listen.

        Raises:
            UnreachableError: the broker was never reached.
        """
        stop_on_signals(self._over)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._ear.run()), group.create_task(self._look())]
            await wait_for(self._over, self._clock, group, self._seconds)
            for task in tasks:
                task.cancel()
        _progress("")
        if not self._connected:
            raise UnreachableError(f"not reached: {self._failure}")

    def failures(self) -> list[str]:
        """Return what was asked for and did not come about."""
        found = [f"subscription refused: {name}: {reason}" for name, reason in self._refused.items()]
        if self._until_settled and not self._verification.is_settled():
            found.append("not settled: something waits on a device, or a device was not heard")
        return found

    def caveats(self) -> list[str]:
        """Return why this program did not hear all."""
        return [f"this program's own connection was lost {times}x: {why}" for why, times in self._losses.items()]

    def _hear(self, delivery: Delivery) -> None:
        self._verification.take(delivery.payload, delivery.topic, now_s=self._age_s())

    def _tell(self, happening: Happening) -> None:
        match happening:
            case Connected():
                self._connected = True
            case Failed():
                self._failure = happening.reason
            case Lost():
                self._losses[happening.reason if len(self._losses) < MAX_REASONS else "other reasons"] += 1
                self._verification.disconnected()
            case Refused():
                self._refused[happening.topic_filter] = happening.reason
            case Change():
                pass

    def _age_s(self) -> float:
        return to_seconds(elapsed(self._began, self._clock.monotonic()))

    async def _look(self) -> None:
        """Once a second, say how far it is, and see whether it is over."""
        while True:
            await self._clock.sleep_until(later(self._clock.monotonic(), LOOK_EVERY))
            _progress(f"{self._verification.messages} messages")
            unreachable = not self._connected and self._age_s() > GIVE_UP_AFTER_S
            if unreachable or (self._until_settled and self._verification.is_settled()):
                self._over.set()


# ---------------------------------------------------------------- from a file
def _read_file(name: str, verification: Verification) -> None:
    """Take in all of a file; SIGINT ends it early, as for a pipe that does not end."""
    try:
        opened = contextlib.nullcontext(sys.stdin.buffer) if name == "-" else Path(name).open("rb")  # noqa: SIM115  # closed below
    except OSError as error:
        raise UsageError(f"--file {name}: {error.strerror}") from None
    with opened as file, contextlib.suppress(KeyboardInterrupt):
        for number, line in enumerate(_read_lines(file), 1):
            if line.strip():
                _take_line(line, verification)
            if number % PROGRESS_EVERY == 0:
                _progress(f"{number} lines")
    _progress("")


def _read_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines; of one that is too long, something that cannot be read."""
    while line := file.readline(MAX_LINE):
        too_long = not line.endswith(b"\n") and len(line) == MAX_LINE
        while too_long and line and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE)
        yield b"?" if too_long else line


def _take_line(line: bytes, verification: Verification) -> None:
    """Take in an event, an array of them, or either as a payload beside its topic."""
    try:
        parsed = orjson.loads(line)
    except orjson.JSONDecodeError:
        parsed = None
    topic = ""
    if isinstance(parsed, dict) and isinstance(parsed.get("topic"), str) and "payload" in parsed:
        topic, parsed = parsed["topic"], parsed["payload"]
    if isinstance(parsed, str):
        verification.take(parsed.encode(), topic)
    else:
        verification.take_parsed(parsed, topic)


# ---------------------------------------------------------------- what is said
def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def _json(report: Report, remarks: list[str], *, ok: bool) -> Iterator[str]:
    yield orjson.dumps({"ok": ok, "remarks": remarks} | asdict(report)).decode() + "\n"


def _lines(report: Report, remarks: list[str], *, ok: bool) -> Iterator[str]:
    names = [name for name in _COLUMNS if name in _ALWAYS or any(getattr(row, name) for row in report.streams)]
    rows = [("device", "stream", *(_COLUMNS[name] for name in names))]
    rows += [(row.device, row.stream, *(str(getattr(row, name)) for name in names)) for row in report.streams]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows if report.streams else ():
        cells = [
            cell.ljust(width) if at < 2 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells) + "\n"
    details = [detail for stream in report.streams for detail in _details(stream)]
    yield from (f"{detail}\n" for detail in details[:SHOWN])
    if len(details) > SHOWN:
        yield f"and {len(details) - SHOWN} more; --json has all\n"
    yield from (f"note: {remark}\n" for remark in remarks)
    unready = sum(not row.judging for row in report.streams)
    if unready:
        yield f"note: {unready} streams are not judged yet: until a device says that all it had before is gone\n"
    yield f"{'ok' if ok else 'NOT OK'}: {report.messages} messages, {report.unreadable} unreadable\n"


def _details(row: StreamReport) -> Iterator[str]:
    where = f"{row.device} {row.stream}"
    for first, last, numbers in row.missing_ranges:
        some = "" if numbers == last - first + 1 else f"{numbers} of "
        yield f"missing: {where} {some}{_span(first, last)}"
    for first, last in row.out_of_order_ranges:
        yield f"out of order: {where} {_span(first, last)}"
    for number in row.conflicting_numbers:
        yield f"conflicting: {where} {number}"


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"
