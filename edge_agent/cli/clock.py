"""``edge-agent clock``: what the agent knows of time, from whom, and how well; traces of it, and their replay."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

import orjson

from edge_agent.adapters.control_client import ControlClient
from edge_agent.adapters.places import find_socket
from edge_agent.adapters.system_clock import pause
from edge_agent.cli.loading import load
from edge_agent.core.clock_trace import MAX_LINE, Replay
from edge_agent.core.jsonrpc import Failure, Request
from edge_agent.errors import EdgeAgentError, UsageError

EVERY_S: Final = 2.0
_COLUMNS: Final = ("source", "used", "standing", "reach", "offset ms", "delay ms", "root ms", "age s", "next s")
_FIELDS: Final = ("name", "used", "standing", "reach", "offset_ms", "delay_ms", "root_ms", "age_s", "next_s")


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options to its parser."""
    parser.description = (
        "Show what the running agent knows of time. offset: the operating system's clock minus true time, positive = "
        "it is fast; frequency: positive = its counter is fast; of a source: the agent's time minus the source's."
    )
    parser.add_argument("--config", metavar="PATH", help="configuration file")
    parser.add_argument("--socket", metavar="PATH", help="the agent's control socket; default: as configured")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--sync", action="store_true", help="have the agent ask its servers now")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--watch", action="store_true", help="show it again every 2 s until interrupted")
    what.add_argument("--trace", metavar="FILE", help="record raw samples, one JSON line each, until interrupted")
    what.add_argument(
        "--replay", metavar="FILE", help="feed a recorded trace to a fresh estimator, and show its verdict"
    )


def run(args: argparse.Namespace) -> int:
    """Show, record or replay; return 0, or 1 if true time is not known."""
    if args.replay:
        return _replay(args)
    config = load(args.config, os.environ).config
    path = Path(args.socket) if args.socket else find_socket(config.control.socket, os.environ)
    with ControlClient(path, answer_within_s=30) as client:
        if args.trace:
            return _trace(client, args.trace)
        report = _call(client, "clock-sync" if args.sync else "clock-status", {})
        while args.watch:
            _show(report, as_json=args.json, clear=sys.stdout.isatty())
            pause(EVERY_S)
            report = _call(client, "clock-status", {})
        _show(report, as_json=args.json, clear=False)
    return 0 if report["state"] in ("synced", "holdover", "os") else 1


def _call(client: ControlClient, method: str, params: dict[str, Any]) -> Any:  # noqa: ANN401  # whatever it answers
    client.send(Request(method, params, id=1))
    result = client.receive().result
    if isinstance(result, Failure):
        raise EdgeAgentError(result.message)
    return result


def _show(report: Mapping[str, Any], *, as_json: bool, clear: bool) -> None:
    if as_json:
        _say(orjson.dumps(report).decode())
        return
    lines = [
        f"{name:<12} {_text(report[key], unit)}"
        for name, key, unit in (
            ("true time", "time", ""),
            ("state", "state", ""),
            ("offset", "offset_ms", " ms"),
            ("error bound", "error_ms", " ms"),
            ("frequency", "frequency_ppm", " ppm"),
            ("source", "source", ""),
            ("wall steps", "steps", ""),
        )
    ]
    rows = [_COLUMNS, *(tuple(_text(source.get(key)) for key in _FIELDS) for source in report["sources"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines += [
        "",
        *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows),
    ]
    if not report["sources"]:
        lines[-1] = "no servers: neither time.servers nor the host names any; set time.servers"
    _say(("\033[H\033[2J" if clear else "") + "\n".join(lines))


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _text(value: object, unit: str = "") -> str:
    if value is None:
        return "unknown" if unit else "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value}{unit}"


def _trace(client: ControlClient, name: str) -> int:
    """Append what the agent records to a file until interrupted; say how much there is so far."""
    last = count = 0
    with _opened(name) as file:
        try:
            while True:
                entries = _call(client, "clock-trace", {"after": last})["entries"]
                for entry in entries:
                    file.write(orjson.dumps(entry) + b"\n")
                    last, count = entry["n"], count + 1
                file.flush()
                sys.stderr.write(f"\r{count} entries")
                sys.stderr.flush()
                pause(EVERY_S)
        except KeyboardInterrupt:
            sys.stderr.write("\n")
    return 0


def _opened(name: str) -> IO[bytes]:
    try:
        return Path(name).open("ab")
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}; a file that can be written is needed") from None


def _replay(args: argparse.Namespace) -> int:
    replay = Replay()
    for number, line in enumerate(_lines(args.replay), 1):
        entry = replay.take(line)
        if entry is None:
            raise UsageError(f"{args.replay}:{number}: no entry of a trace; a file made by clock --trace is needed")
        _say(orjson.dumps(entry).decode() if args.json else "  ".join(f"{key}={entry[key]}" for key in entry))
    return 0


def _lines(name: str) -> Iterator[bytes]:
    try:
        with Path(name).open("rb") as file:
            while line := file.readline(MAX_LINE):
                yield line
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}") from None
