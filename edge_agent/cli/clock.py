"""``edge-agent clock``: what the agent knows of time, from whom, and how well; traces of it, and their replay."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import orjson

from edge_agent.adapters.control_client import ControlClient
from edge_agent.adapters.system_clock import pause
from edge_agent.cli.asking import daemon
from edge_agent.cli.options import ASKING, add, opened
from edge_agent.cli.printing import facts, show, table
from edge_agent.core.clock_trace import MAX_LINE, Replay
from edge_agent.errors import UsageError

EVERY_S: Final = 2.0
_FACTS: Final = ("time", "state", "offset_ms", "error_ms", "frequency_ppm", "source", "steps")
_COLUMNS: Final = ("name", "used", "standing", "reach", "offset_ms", "delay_ms", "root_ms", "age_s", "next_s")


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options to its parser."""
    parser.description = (
        "Show what the running agent knows of time. offset: the operating system's clock minus true time, positive = "
        "it is fast; frequency: positive = its counter is fast; of a source: the agent's time minus the source's."
    )
    add(parser, *ASKING)
    parser.add_argument("--sync", action="store_true", help="have the agent ask its servers now; do not wait for them")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--watch", action="store_true", help="show it again every 2 s until interrupted")
    what.add_argument("--trace", metavar="FILE", help="record raw samples, one JSON line each, until interrupted")
    what.add_argument("--replay", metavar="FILE", help="feed a trace to a fresh estimator, and show its verdicts")


def run(args: argparse.Namespace) -> int:
    """Show, record or replay; return 0."""
    if args.replay:
        return _replay(args)
    with daemon(args) as agent:
        if args.trace:
            return _trace(agent, args.trace)
        report = agent.call("clock-sync" if args.sync else "clock-status")
        show(report, _lines(report), as_json=args.json)
        while args.watch:
            pause(EVERY_S)
            report = agent.call("clock-status")
            sys.stdout.write("\033[H\033[2J" if sys.stdout.isatty() else "")
            show(report, _lines(report), as_json=args.json)
    return 0


def _lines(report: dict[str, Any]) -> Iterator[str]:
    yield from facts(report, _FACTS)
    yield ""
    if report["sources"]:
        yield from table(_COLUMNS, report["sources"])
    else:
        yield "no servers: neither time.servers nor the host names any; set time.servers"


def _trace(agent: ControlClient, name: str) -> int:
    """Append what the agent records to a file until interrupted; say how much there is so far."""
    last = count = 0
    with opened(name, "ab") as file, contextlib.suppress(KeyboardInterrupt):
        while True:
            for entry in agent.call("clock-trace", after=last)["entries"]:
                file.write(orjson.dumps(entry) + b"\n")
                last, count = entry["n"], count + 1
            file.flush()
            sys.stderr.write(f"\r{count} entries")
            sys.stderr.flush()
            pause(EVERY_S)
    sys.stderr.write("\n")
    return 0


def _replay(args: argparse.Namespace) -> int:
    replay = Replay()
    with opened(args.replay, "rb") as file:
        for number, line in enumerate(iter(partial(file.readline, MAX_LINE), b""), 1):
            verdict = replay.take(line)
            if verdict is None:
                raise UsageError(f"{args.replay}:{number}: no entry of a trace; a file of clock --trace is needed")
            show(verdict, ["  ".join(f"{key}={value}" for key, value in verdict.items())], as_json=args.json)
    return 0
