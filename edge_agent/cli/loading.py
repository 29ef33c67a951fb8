"""Reads and validates the configuration, for every verb that needs it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from edge_agent.adapters.config_files import default_path, read_sources
from edge_agent.adapters.host import common_name, read_facts
from edge_agent.core.config import Loaded, parse
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
    sources = read_sources(default_path(args_config, environ))
    unsigned = (lambda: None) if kinds is None else missing_signatures
    return parse(sources, read_facts(), common_name=common_name, kinds=kinds, unsigned=unsigned)


def missing_signatures() -> str | None:
    """Return why nothing can be signed or verified here, and what to do; ``None`` = it can, and is loaded."""
    try:
        import_module("edge_agent.adapters.jose")
    except ImportError as error:
        return f"signed commands need the extra signed ({error}); pip install 'edge-agent[signed]'"
    return None
