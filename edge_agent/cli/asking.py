"""How a verb asks the running daemon."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from edge_agent.adapters.config_files import default_path
from edge_agent.adapters.config_reader import ConfigReader
from edge_agent.adapters.control_client import ControlClient
from edge_agent.adapters.places import find_socket
from edge_agent.core.config import stated_socket
from edge_agent.core.config_document import Source
from edge_agent.core.config_models import Config
from edge_agent.errors import ConfigError, UnreachableError


def daemon(args: argparse.Namespace, *, config: Config | None = None, answer_within_s: float = 30) -> ControlClient:
    """Connect to the daemon that ``--socket`` names, else the configuration; its ``call`` asks for one thing.

    Raises:
        ConfigError: the configuration, if it has to be read for it, is wrong, and no daemon runs where it says.
        UnreachableError: the daemon does not run.
    """
    if args.socket:
        return ControlClient(Path(args.socket), answer_within_s=answer_within_s)
    wrong: ConfigError | None = None
    if config is not None:
        named = config.control.socket
    else:
        named, wrong = _named(ConfigReader(default_path(args.config, os.environ), os.environ, None))
    try:
        return ControlClient(find_socket(named, os.environ), answer_within_s=answer_within_s)
    except UnreachableError as error:
        raise (wrong or error) from None


def _named(reader: ConfigReader) -> tuple[str | None, ConfigError | None]:
    """Return the socket that files name, and what is wrong with them: a daemon that runs goes on with what it had."""
    found: list[Source] = []
    try:
        found = reader.read()
        return reader.parse(found).config.control.socket, None
    except ConfigError as invalid:
        return stated_socket(found), invalid
