"""``edge-agent diag``: what support needs to see, without secrets; what can be known also when no agent runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import orjson

from edge_agent import __version__
from edge_agent.adapters.host import disk, versions
from edge_agent.adapters.places import state_dir
from edge_agent.adapters.store_file import opened_copy
from edge_agent.cli.asking import daemon
from edge_agent.cli.loading import load
from edge_agent.cli.options import Options, add, opened
from edge_agent.commands.diag import without_secrets
from edge_agent.core.bundle import fitted
from edge_agent.core.config_models import Config
from edge_agent.core.redaction import redact
from edge_agent.errors import ConfigError, EdgeAgentError, UnreachableError
from edge_agent.services.queue_tools import answer_from

MAX_BYTES: Final = 1 << 20
ANSWER_WITHIN_S: Final = 60.0
_OPTIONS: Final[Options] = {"--file": {"metavar": "F", "default": "-", "help": "where to; default: -, standard output"}}


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options to its parser."""
    parser.description = (
        "Gather what support needs to see, as JSON: versions, configuration, the last lines of the log, tasks, clock, "
        "outbox, jobs, connection, disk. Nothing in it is a secret. Without a running agent it says what can be known."
    )
    add(parser, "--config", "--socket", "--file", own=_OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Write it; return 0."""
    try:
        with daemon(args, answer_within_s=ANSWER_WITHIN_S) as agent:
            bundle = agent.call("diag")
    except (UnreachableError, ConfigError) as error:
        sys.stderr.write(f"edge-agent: {error}; this is what is known without it\n")
        bundle = fitted(_without_agent(args, str(error)), MAX_BYTES)
    with opened(args.file, "wb") as file:
        file.write(orjson.dumps(bundle, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    return 0


def _without_agent(args: argparse.Namespace, why: str) -> dict[str, Any]:
    bundle: dict[str, Any] = {"agent": why, "versions": {"edge-agent": __version__} | versions()}
    try:
        loaded = load(args.config, os.environ)
    except ConfigError as error:
        return bundle | {"config": [str(problem) for problem in error.problems]}
    folder = state_dir(loaded.config.state.dir, os.environ)
    bundle |= {
        "disk": disk(folder),
        "config": redact(loaded.config.model_dump(mode="json"))[0],
        "config_digest": loaded.digest,
        "outbox": _known(lambda: _outbox(folder, loaded.config)),
    }
    return without_secrets(bundle, loaded.config, os.environ)


def _outbox(folder: Path, config: Config) -> dict[str, Any]:
    with opened_copy(folder) as store:
        return answer_from(store, config.device.id, "queue-stat")


def _known(find: Callable[[], object]) -> object:
    """Return what is found, or why it is not."""
    try:
        return find()
    except EdgeAgentError as error:
        return str(error)
