"""How a verb asks the running daemon."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from edge_agent.adapters.control_client import ControlClient
from edge_agent.adapters.places import find_socket
from edge_agent.cli.loading import load
from edge_agent.core.config_models import Config


def daemon(args: argparse.Namespace, *, config: Config | None = None, answer_within_s: float = 30) -> ControlClient:
    """Connect to the daemon that ``--socket`` names, else the configuration; its ``call`` asks for one thing.

    Raises:
        ConfigError: the configuration, if it has to be read for it, is wrong.
        UnreachableError: the daemon does not run.
    """
    if args.socket:
        path = Path(args.socket)
    else:
        path = find_socket((config or load(args.config, os.environ).config).control.socket, os.environ)
    return ControlClient(path, answer_within_s=answer_within_s)
