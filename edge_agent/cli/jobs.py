"""``edge-agent jobs``: the scheduler of the running agent."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from edge_agent.adapters.control_client import ControlClient
from edge_agent.adapters.system_clock import pause
from edge_agent.cli.asking import daemon
from edge_agent.cli.options import Actions, Options, add_actions, opened
from edge_agent.cli.printing import facts, progress, show, table, toml
from edge_agent.core.timebase import DurationNs, seconds
from edge_agent.core.units import format_duration, parse_instant
from edge_agent.errors import UsageError

POLL_S: Final = 0.2
MAX_BYTES: Final = 64 * 1024
_COLUMNS: Final = ("name", "kind", "schedule", "state", "next", "last", "lateness_ms", "streak", "missed", "origin")
_FACTS: Final = (*_COLUMNS, "owed", "counts")
_RUNS: Final = ("slot", "cause", "attempt", "status", "duration_ms", "lateness_ms", "trace", "reason")
_MINUTE: Final = seconds(60)
_HOUR: Final = seconds(3600)


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options to its parser."""
    parser.description = (
        "See what the jobs of the running agent do, and change them. What is put, deleted or paused here stays so "
        "over restarts, whatever the files say: a job that is put takes the place of the file's job of that name, "
        "delete hides it, put --restore brings it back."
    )
    add_actions(parser, ACTIONS, _OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Do it; return 0, or 1 if a run that was waited for did not succeed."""
    with daemon(args) as agent:
        code: int = args.perform(args, agent)
        return code


def _list(args: argparse.Namespace, agent: ControlClient) -> int:
    found = agent.call("job-list")
    show(found, _listed(found), as_json=args.json)
    return 0


def _listed(found: Mapping[str, Any]) -> Iterator[str]:
    if found["jobs"]:
        yield from table(_COLUMNS, [_row(job, found["time"]) for job in found["jobs"]])
    else:
        yield "no jobs; add a table [jobs.NAME] to the configuration, or put one: edge-agent jobs put --help"
    if found["hidden"]:
        yield f"note: deleted here, though the files have them: {', '.join(found['hidden'])} (put --restore)"


def _row(job: Mapping[str, Any], now: str) -> dict[str, Any]:
    """Return a job's line of the table; how long until and since is told by the agent's clock, not by this one."""
    row, last = dict(job), job["last"]
    if job["breaker"] not in (None, "closed"):
        row["state"] = f"{job['state']}, breaker {job['breaker']}"
    if job["next"] is not None:
        row["next"] = f"in {_apart(now, job['next'])}"
    if last is not None:
        row |= {"last": f"{last['status']} {_apart(last['finished'], now)} ago", "lateness_ms": last["lateness_ms"]}
    return row


def _apart(earlier: str, later: str) -> str:
    """Return the time between two instants in whole seconds, from an hour on in whole minutes; never less than 0."""
    apart = max(parse_instant(later) - parse_instant(earlier), 0)
    return format_duration(DurationNs(apart - apart % (_MINUTE if apart >= _HOUR else seconds(1))))


def _show(args: argparse.Namespace, agent: ControlClient) -> int:
    found = agent.call("job-get", job=args.job)
    show(found, _told(found), as_json=args.json)
    return 0


def _told(job: Mapping[str, Any]) -> Iterator[str]:
    standing = {"next": _second(job["next"]), "owed": len(job["owed"])}
    yield from facts(_row(job, job["time"]) | standing, _FACTS)
    yield ""
    yield from (f"{key} = {toml(value)}" for key, value in job["config"].items())
    if job["history"]:
        yield ""
        yield from table(_RUNS, [{**one, "slot": _second(one["slot"])} for one in reversed(job["history"])])


def _second(time: str | None) -> str | None:
    return time and f"{time[:19]}Z"


def _run(args: argparse.Namespace, agent: ControlClient) -> int:
    found = agent.call("job-run", job=args.job, wait=False)
    if args.wait:
        found = _outcome(agent, args.job, found["trace"])
    show(found, facts(found, (*_RUNS, "result")), as_json=args.json)
    return 0 if found.get("status", "succeeded") == "succeeded" else 1


def _outcome(agent: ControlClient, job: str, trace: str) -> dict[str, Any]:
    """Wait for the end of a run."""
    while True:
        found = agent.call("job-get", job=job)
        for one in found["history"]:
            if one["trace"] == trace and one["cause"] == "manual":
                progress("")
                return dict(one)
        progress(f"{job}: {found['state']} …")
        pause(POLL_S)


def _put(args: argparse.Namespace, agent: ControlClient) -> int:
    given = {"restore": True} if args.restore else {"config": _settings(args.file, args.job)}
    return _changed(args, agent.call("job-put", job=args.job, **given))


def _settings(name: str, job: str) -> object:
    """Return the settings that a file holds, as they are or below ``[jobs.NAME]``, as in a configuration."""
    with opened(name, "rb") as file:
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise UsageError(f"{name}: it is larger than {MAX_BYTES >> 10} KiB; the settings of one job are needed")
    try:
        found = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f'{name}: {error}; settings like kind = "system", one a line, are needed (TOML)') from None
    if "jobs" not in found:
        return found
    if len(found) > 1 or not isinstance(found["jobs"], dict) or list(found["jobs"]) != [job]:
        raise UsageError(f"{name}: the settings of one job are needed, as they are or all of them below [jobs.{job}]")
    return found["jobs"][job]


def _change(args: argparse.Namespace, agent: ControlClient) -> int:
    return _changed(args, agent.call(f"job-{args.action}", job=args.job))


def _changed(args: argparse.Namespace, job: Mapping[str, Any]) -> int:
    told = {**job, "next": _second(job["next"])} if "next" in job else job
    show(job, facts(told, ("name", "schedule", "state", "next", "origin", "cancelled", "deleted")), as_json=args.json)
    return 0


ACTIONS: Final[Actions] = {
    "list": ("the jobs: when they run, how the last run ended", _list, ()),
    "show": ("one job: its settings and its last runs", _show, ("job",)),
    "run": ("run a job now, beside its schedule", _run, ("job", "--wait")),
    "cancel": ("end a job's run", _change, ("job",)),
    "pause": ("let a job rest until it is resumed", _change, ("job",)),
    "resume": ("let a job go on", _change, ("job",)),
    "put": ("add a job, or replace one", _put, ("job", "--file", "--restore")),
    "delete": ("delete a job", _change, ("job",)),
}
_OPTIONS: Final[Options] = {
    "job": {"metavar": "NAME", "help": "the job's name"},
    "--wait": {
        "action": "store_true",
        "help": "wait for the end, and say how it was; exit code 1 if it did not succeed",
    },
    "--file": {
        "metavar": "F",
        "default": "-",
        "help": 'its settings as TOML, like kind = "system" and every = "5m", a line each; default: -, standard input',
    },
    "--restore": {"action": "store_true", "help": "let count again what the files say of it"},
}
