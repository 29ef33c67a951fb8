"""``edge-agent watch``: the fleet as its heartbeats show it; a live table on a terminal, lines in a pipe."""

from __future__ import annotations

import argparse
import asyncio
import os
import re

from edge_agent.adapters.system_clock import SystemClock
from edge_agent.cli.fleet_view import Lines, make_view
from edge_agent.cli.operating import find_target, observe
from edge_agent.cli.options import OPERATING, add
from edge_agent.core.config_types import NAME_PATTERN
from edge_agent.core.fleet import Fleet
from edge_agent.core.topics import Topics
from edge_agent.errors import UsageError
from edge_agent.services.watcher import Watcher


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options to its parser."""
    parser.description = (
        "Show the fleet live: a table on a terminal, a line for each change in a pipe. Times are UTC. "
        "Without --broker, the configuration's [operator] table says where to connect, else its [mqtt] table."
    )
    parser.add_argument("devices", metavar="DEVICE", nargs="*", help="only these; default: all")
    add(parser, *OPERATING)


def run(args: argparse.Namespace) -> int:
    """Watch until a signal or ``--seconds``; return 0."""
    for device in args.devices:
        if not re.fullmatch(NAME_PATTERN, device):
            raise UsageError(f"{device!r} is no device id: 1 to 64 of A-Z a-z 0-9 _ : -")
    clock, fleet, over = SystemClock(), Fleet(), asyncio.Event()
    target = find_target(args, os.environ, verb="watch")
    title = f"{target.broker} {target.prefix}/"
    view = Lines(clock, over.set, json=True) if args.json else make_view(title, fleet, clock, over.set)
    topics = [Topics(target.prefix, device) for device in args.devices]
    filters = [name for one in topics for name in (one.status, one.health, one.heartbeat)]
    watcher = target.watcher(Watcher, fleet, clock, view.show, filters)
    asyncio.run(observe(watcher, view.run(), over=over, seconds_=args.seconds))
    return 0
