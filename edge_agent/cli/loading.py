"""Which configuration a verb reads."""

from __future__ import annotations

from collections.abc import Mapping

from edge_agent.adapters.config_files import default_path
from edge_agent.adapters.config_reader import ConfigReader
from edge_agent.core.config import Loaded
from edge_agent.core.config_kinds import Described


def load(
    args_config: str | None, environ: Mapping[str, str], *, kinds: Mapping[str, Described] | None = None
) -> Loaded:
    """Return the configuration that ``--config``, the environment or the default path names.

    Args:
        args_config: what ``--config`` says, if anything.
        environ: where ``EDGE_AGENT_CONFIG`` stands.
        kinds: of job; ``None`` for a verb to which it does not matter what the agent can do.

    Raises:
        ConfigError: with every problem found.
    """
    reader = ConfigReader(default_path(args_config, environ), environ, kinds)
    return reader.parse(reader.read())
