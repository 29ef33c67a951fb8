"""``edge-agent config``: what is in force in the running agent, where it comes from, and the way back."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Final

import tomli_w

from edge_agent.adapters.control_client import ControlClient
from edge_agent.cli.asking import daemon
from edge_agent.cli.options import Actions, Options, add_actions
from edge_agent.cli.printing import say_json, show, table, toml
from edge_agent.core.config_diff import leaves
from edge_agent.core.config_document import dotted
from edge_agent.core.config_findings import nearest
from edge_agent.core.config_models import Config
from edge_agent.core.redaction import HIDDEN
from edge_agent.errors import ConfigError, ConfigProblem, EdgeAgentError, UsageError

_COLUMNS: Final = ("", "time", "digest", "by", "cloud", "keys", "first", "kept")
_WIDEST: Final = 60
"""Characters of the longest line beside which the origins of all stand in one column."""
_AT_ODDS: Final = {
    "config_rejected": "the files are not valid, and what was in force before still is: edge-agent check",
    "config_rolled_back": "by hand; the files count again once they are changed: edge-agent config diff",
    "restart_needed": "the files have changed it, and only a restart does: systemctl restart edge-agent",
    "rejected": "correct it, and publish it with a larger version",
    "rolled_back": "publish it with a larger version to have it tried again",
}


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options to its parser."""
    parser.description = (
        "See what configuration is in force in the running agent and where it comes from, what an edit would change, "
        "and what was changed; and go back. Secrets are hidden."
    )
    add_actions(parser, ACTIONS, _OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Do it; return 0, or 78 if files that are looked at are not valid."""
    if getattr(args, "section", None) not in (None, *Config.model_fields):
        hint = nearest(args.section, list(Config.model_fields))
        raise UsageError(f"there is no section {args.section!r}; {hint}")
    with daemon(args) as agent:
        code: int = args.perform(args, agent)
        return code


# ---------------------------------------------------------------- show
def _show(args: argparse.Namespace, agent: ControlClient) -> int:
    found = agent.call("config-show")
    config = {key: value for key, value in found["config"].items() if args.section in (None, key)}
    known = [dotted(path) for path, _ in leaves(config)]
    found |= {"config": config, "origins": {key: found["origins"][key] for key in known}}
    lines = _with_origins(found) if args.origin else [tomli_w.dumps(config).rstrip()]
    show(found, chain(_standing(found), [""], lines), as_json=args.json)
    return 0


def _standing(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield, as comments, what is in force, and what of the files and of the cloud is not."""
    cloud, version = found["cloud"], found["version"]
    told = "nothing from the cloud"
    if cloud["version"] is not None or cloud["state"] != "applied":
        told = f"cloud version {cloud['version'] or 'none'}, {cloud['state']}"
    if cloud["state"] in _AT_ODDS:
        told += f"; of the cloud's, {f'version {version}' if version else 'nothing'} is in force"
    yield f"# digest {found['digest']}, in force since {_second(found['since'])}; {told}"
    for error in cloud["errors"]:
        yield f"# {': '.join(filter(None, (cloud['state'], error['key'], error['reason'])))}"
    if cloud["state"] in _AT_ODDS:
        yield f"# {cloud['state']}: {_AT_ODDS[cloud['state']]}"
    if cloud["ignored"]:
        yield f"# ignored, for this version does not know it: {', '.join(cloud['ignored'])}"
    for condition in found["conditions"]:
        yield f"# {condition}: {_AT_ODDS[condition.partition(':')[0]]}"
    hidden = [dotted(path) for path, value in leaves(found["config"]) if HIDDEN in toml(value)]
    if hidden:
        yield f"# {HIDDEN} stands for what may be secret: {', '.join(hidden)}"


def _with_origins(found: Mapping[str, Any]) -> Iterator[str]:
    rows = [(f"{(key := dotted(path))} = {toml(value)}", key) for path, value in leaves(found["config"])]
    widths = (len(line) for line, _ in rows if len(line) <= _WIDEST)
    width = max(widths, default=0) if sys.stdout.isatty() else 0
    return (f"{line:<{width}}  # {found['origins'][key]}" for line, key in rows)


# ---------------------------------------------------------------- diff
def _diff(args: argparse.Namespace, agent: ControlClient) -> int:
    found = agent.call("config-diff")
    if found["errors"]:
        if not args.json:
            raise ConfigError([ConfigProblem(**problem) for problem in found["errors"]])
        say_json(found)
        return ConfigError.exit_code
    show(found, _told(found), as_json=args.json)
    return 0


def _told(found: Mapping[str, Any]) -> Iterator[str]:
    waiting = found["pending"]
    for change in found["changes"]:
        mark = " (waits for a restart: systemctl restart edge-agent)" if change["key"] in waiting else ""
        yield f"{_change(change)}{mark}"
    if not found["changes"]:
        yield "nothing: what the files say is in force"
    for error in found["unfit"]:
        yield f"note: what the cloud says would not count any more: {error['key']}: {error['reason']}"
    if found["changes"] and "config_rolled_back" in found["conditions"]:
        yield f"note: config_rolled_back: {_AT_ODDS['config_rolled_back'].partition(':')[0]}"


def _change(change: Mapping[str, Any]) -> str:
    before, after = ("not set" if change[when] is None else toml(change[when]) for when in ("before", "after"))
    return str(change["key"]) if _is_rest(change) else f"{change['key']}: {before} -> {after}"


def _is_rest(change: Mapping[str, Any]) -> bool:
    """Whether it stands for so many more changes."""
    return change["before"] is None and change["after"] is None


# ---------------------------------------------------------------- history
def _history(args: argparse.Namespace, agent: ControlClient) -> int:
    found = agent.call("config-history")
    entries = [entry | {"in_force": number == 0} for number, entry in enumerate(found["entries"])]
    if args.digest is not None:
        entries = [entry for entry in entries if entry["digest"] == args.digest]
        if not entries:
            raise EdgeAgentError(f"{args.digest!r} is not in the history; see edge-agent config history")
    lines = _in_full(entries) if args.keys or args.digest else table(_COLUMNS, map(_row, entries))
    show({"digest": found["digest"], "entries": entries}, lines, as_json=args.json)
    return 0


def _row(entry: Mapping[str, Any]) -> dict[str, Any]:
    changes = entry["changes"]
    return {
        "": "*" if entry["in_force"] else "",
        "time": _second(entry["time"]),
        "digest": entry["digest"],
        "by": entry["by"],
        "cloud": entry["version"],
        "keys": sum(int(change["key"].split()[0]) if _is_rest(change) else 1 for change in changes),
        "first": changes[0]["key"] if changes else None,
        "kept": entry["kept"],
    }


def _in_full(entries: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for entry in entries:
        cloud = "" if entry["version"] is None else f", with cloud version {entry['version']}"
        standing = "in force" if entry["in_force"] else "can be gone back to" if entry["kept"] else "not kept"
        yield f"{_second(entry['time'])} {entry['digest']} by {entry['by']}{cloud}; {standing}"
        yield from (f"  {_change(change)}" for change in entry["changes"])


# ---------------------------------------------------------------- rollback
def _roll_back(args: argparse.Namespace, agent: ControlClient) -> int:
    done = agent.call("config-rollback", **({} if args.digest is None else {"digest": args.digest}))
    show(done, _gone_back(done), as_json=args.json)
    return 0


def _gone_back(done: Mapping[str, Any]) -> Iterator[str]:
    digest, before = done["digest"], done["before"]
    yield f"{digest} is in force, in the place of {before}" if done["changed"] else f"{digest} was in force already"
    yield from map(_change, done["changes"])
    yield from (f"{key}: waits for a restart: systemctl restart edge-agent" for key in done["pending"])
    if done["pinned"]:
        undo = f" to undo it: edge-agent config rollback {before}, or edit them" if done["changed"] else ""
        yield f"note: it holds until the files are changed again, over restarts, too;{undo}".rstrip(";")
    elif done["changed"]:
        also = "" if done["version"] else "it is what the files say, too; "
        yield f"note: {also}to undo it: edge-agent config rollback {before}"


def _second(time: str) -> str:
    return f"{time[:19]}Z"


ACTIONS: Final[Actions] = {
    "show": ("what is in force, as TOML", _show, ("section", "--origin")),
    "diff": ("what would change if the files were read now", _diff, ()),
    "history": ("what was changed, when and by whom, the newest first", _history, ("digest", "--keys")),
    "rollback": ("go back to an earlier configuration, until the files are changed", _roll_back, ("digest",)),
}
_OPTIONS: Final[Options] = {
    "section": {"metavar": "SECTION", "nargs": "?", "help": "only this one, like mqtt; default: all"},
    "--origin": {"action": "store_true", "help": "a line for each key, with where its value comes from"},
    "digest": {
        "metavar": "DIGEST",
        "nargs": "?",
        "help": "of one in the history; default: all, and to go back to, the one before",
    },
    "--keys": {"action": "store_true", "help": "show all keys that were changed, with their values"},
}
