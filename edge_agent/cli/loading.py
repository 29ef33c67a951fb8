"""Reads and validates the configuration, for every verb that needs it."""

from __future__ import annotations

from collections.abc import Mapping

from edge_agent.adapters.config_files import default_path, read_sources
from edge_agent.adapters.host import common_name, read_facts
from edge_agent.core.config import Loaded, parse


def load(args_config: str | None, environ: Mapping[str, str]) -> Loaded:
    """Return the configuration that ``--config``, the environment or the default path names.

    Raises:
        ConfigError: with every problem found.
    """
    return parse(read_sources(default_path(args_config, environ)), read_facts(), common_name=common_name)
