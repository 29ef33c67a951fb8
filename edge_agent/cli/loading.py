"""Which configuration a verb reads."""

from __future__ import annotations

from collections.abc import Mapping

from edge_agent.adapters.config_files import default_path
from edge_agent.adapters.config_reader import ConfigReader
from edge_agent.core.config import Loaded


def load(args_config: str | None, environ: Mapping[str, str]) -> Loaded:
    """Return the configuration that ``--config``, the environment or the default path names, whatever its jobs name.

    Args:
        args_config: what ``--config`` says, if anything.
        environ: where ``EDGE_AGENT_CONFIG`` stands.

    Raises:
        ConfigError: with every problem found.
    """
    reader = ConfigReader(default_path(args_config, environ), environ, None)
    return reader.parse(reader.read())
