"""The command line: one module per verb, of which only the one that is asked for is imported.

A verb's module has ``describe(parser)``, which adds its options, and ``run(args)``, which returns an exit code.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from importlib import import_module
from typing import Final, NoReturn

from typing_extensions import override

from edge_agent import __version__
from edge_agent.cli.lean import defer_unused
from edge_agent.errors import ConfigError, EdgeAgentError, UsageError

VERBS: Final = {
    "run": "the daemon, in the foreground",
    "demo": "see it work with nothing installed: a broker, an agent, an outage and its recovery",
    "check": "validate the configuration",
    "config": "what is in force and where it comes from; what was changed, and the way back",
    "status": "connection, clock, outbox, jobs and configuration of the running agent",
    "publish": "hand a record to the running agent",
    "queue": "look into the outbox, and let go of some of it",
    "clock": "what it knows of time, from whom, and how well",
    "jobs": "the scheduler of the running agent",
    "diag": "gather what support needs to see, without secrets",
    "keygen": "make a key pair for signed commands",
    "send": "send a command to a device, and wait for its reply",
    "watch": "a live table of the fleet from its heartbeats",
    "verify": "find missing, duplicate and out-of-order records",
}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line and exits with EX_USAGE."""

    @override
    def error(self, message: str) -> NoReturn:
        self.exit(UsageError.exit_code, f"edge-agent: {message}; see {self.prog} --help\n")


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return the process's exit code; what is wrong goes to stderr, a line each."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["run"]:  # a reload that comes before the configuration was read is no reason to end
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _open_streams()
    defer_unused()
    try:
        args = _parser(argv).parse_args(argv)
        code = args.run(args)
        sys.stdout.flush()
    except ConfigError as error:
        return _complain(error.exit_code, *(str(problem) for problem in error.problems))
    except EdgeAgentError as error:
        return _complain(error.exit_code, str(error))
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        # Nobody reads, or the disk is full; without this the interpreter complains again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0 if isinstance(error, BrokenPipeError) else _complain(1, str(error))
    assert isinstance(code, int), "a verb returns its exit code"
    return code


def _parser(argv: list[str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="edge-agent",
        description="Says over MQTT that a device is alive and how well, and finds its way back from every outage.",
    )
    parser.add_argument("--version", action="version", version=f"edge-agent {__version__}")
    subparsers = parser.add_subparsers(metavar="VERB", required=True, parser_class=_Parser)
    asked = next((word for word in argv if not word.startswith("-")), None)
    for verb, text in VERBS.items():
        subparser = subparsers.add_parser(verb, help=text, description=text)
        if verb == asked:
            module = import_module(f"edge_agent.cli.{verb}")
            module.describe(subparser)
            subparser.set_defaults(run=module.run)
    return parser


def _open_streams() -> None:
    """Put something where the caller closed a standard stream, which Python then has as ``None``."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115, PTH123  # for the life of the process


def _complain(code: int, *lines: str) -> int:
    try:
        sys.stderr.writelines(f"edge-agent: {line}\n" for line in lines)
    except OSError:  # nobody reads that either: the exit code still says it, if the interpreter has nothing to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    return code
