"""``edge-agent jobs``: the scheduler of the running agent."""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from edge_agent.adapters.control_client import ControlClient
from edge_agent.adapters.system_clock import pause
from edge_agent.cli.asking import daemon
from edge_agent.cli.options import Actions, Options, add_actions, opened
from edge_agent.cli.printing import facts, show, table
from edge_agent.errors import UsageError

POLL_S: Final = 0.2
MAX_BYTES: Final = 64 * 1024
_COLUMNS: Final = ("name", "kind", "schedule", "state", "next", "last", "lateness_ms", "streak", "missed", "origin")
_RUNS: Final = ("slot", "cause", "attempt", "status", "duration_ms", "lateness_ms", "reason", "trace")


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options to its parser."""
    parser.description = (
        "See what the jobs of the running agent do, and change them. What is put, deleted or paused here stays so "
        "over restarts, whatever the files say; jobs put beats the file's job of that name, delete hides it."
    )
    add_actions(parser, ACTIONS, _OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Do it; return 0, or 1 if a run that was waited for did not succeed."""
    with daemon(args) as agent:
        code: int = args.perform(args, agent)
        return code


def _list(args: argparse.Namespace, agent: ControlClient) -> int:
    found = agent.call("job-list")
    rows = [{**job, **_last(job)} for job in found["jobs"]]
    show(found, table(_COLUMNS, rows) if rows else ["no jobs; add a table [jobs.NAME]"], as_json=args.json)
    return 0


def _show(args: argparse.Namespace, agent: ControlClient) -> int:
    found = agent.call("job-get", job=args.job)
    show(found, _told(found), as_json=args.json)
    return 0


def _told(job: Mapping[str, Any]) -> Iterator[str]:
    yield from facts({**job, **_last(job)}, (*_COLUMNS, "breaker"))
    yield ""
    yield from (f"{key} = {value!r}" for key, value in job["config"].items())
    if job["history"]:
        yield ""
        yield from table(_RUNS, reversed(job["history"]))


def _last(job: Mapping[str, Any]) -> dict[str, Any]:
    last = job["last"]
    return {} if last is None else {"last": f"{last['status']} {last['finished']}", "lateness_ms": last["lateness_ms"]}


def _run(args: argparse.Namespace, agent: ControlClient) -> int:
    trace = agent.call("job-run", job=args.job)["trace"]
    outcome = _outcome(agent, args.job, trace) if args.wait else None
    show(outcome or {"trace": trace}, facts(outcome or {"trace": trace}, (*_RUNS, "result")), as_json=args.json)
    return 0 if outcome is None or outcome["status"] == "succeeded" else 1


def _outcome(agent: ControlClient, job: str, trace: str) -> dict[str, Any]:
    """Wait for the end of a run."""
    while True:
        found = agent.call("job-get", job=job)
        for one in found["history"]:
            if one["trace"] == trace and one["cause"] == "manual":
                return dict(one)
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{found['state']} … ")
            sys.stderr.flush()
        pause(POLL_S)


def _put(args: argparse.Namespace, agent: ControlClient) -> int:
    with opened(args.file, "rb") as file:
        text = file.read(MAX_BYTES + 1)
    try:
        config = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{args.file}: {error}; the keys of a table [jobs.NAME] are needed, as TOML") from None
    return _changed(args, agent.call("job-put", job=args.job, config=config))


def _change(args: argparse.Namespace, agent: ControlClient) -> int:
    return _changed(args, agent.call(f"job-{args.action}", job=args.job))


def _changed(args: argparse.Namespace, job: Mapping[str, Any]) -> int:
    show(job, facts(job, ("name", "schedule", "state", "next", "cancelled")), as_json=args.json)
    return 0


ACTIONS: Final[Actions] = {
    "list": ("the jobs: when they run, how the last run ended", _list, ()),
    "show": ("one job: its settings and its last runs", _show, ("job",)),
    "run": ("run a job now", _run, ("job", "--wait")),
    "cancel": ("end a job's run", _change, ("job",)),
    "pause": ("let a job rest until it is resumed", _change, ("job",)),
    "resume": ("let a job go on", _change, ("job",)),
    "put": ("add a job, or replace one", _put, ("job", "--file")),
    "delete": ("delete a job", _change, ("job",)),
}
_OPTIONS: Final[Options] = {
    "job": {"metavar": "NAME", "help": "the job's name"},
    "--wait": {"action": "store_true", "help": "wait for the end, and say how it was"},
    "--file": {"metavar": "F", "default": "-", "help": "the job's settings as TOML; default: -, standard input"},
}
