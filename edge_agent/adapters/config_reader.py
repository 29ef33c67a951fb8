"""Reads the configuration of this device: its files, and whether it has what they name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_agent.adapters.config_files import printable, read_sources
from edge_agent.adapters.config_probe import missing
from edge_agent.adapters.host import common_name, read_facts
from edge_agent.core.config import Loaded, parse
from edge_agent.core.config_document import Source
from edge_agent.core.config_kinds import Described
from edge_agent.core.config_models import Config
from edge_agent.core.config_remote import Desired
from edge_agent.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ConfigReader:
    """The reader of a file ``X.toml`` and of ``X.d/*.toml`` beside it.

    Attributes:
        path: of the file.
        environ: of the process.
        kinds: returns the kinds of job, anew for each ``parse``: it sees what has been installed since, yet looks for
            it once, not for each job; ``None`` = what the jobs name is not looked at.
    """

    path: Path
    environ: Mapping[str, str]
    kinds: Callable[[], Mapping[str, Described]] | None

    @property
    def main(self) -> str:
        """The name of the first of them."""
        return printable(self.path)

    def read(self) -> list[Source]:
        """Return what the files hold.

        Raises:
            ConfigError: with each file that cannot be read.
        """
        return read_sources(self.path)

    def parse(
        self,
        sources: Sequence[Source],
        *,
        desired: Desired | None = None,
        held: Config | None = None,
        starting: bool = False,
    ) -> Loaded:
        """Return the configuration that files make up, and the cloud's over them.

        Args:
            sources: the files.
            desired: what the cloud says.
            held: a configuration that is in force: what of it only a restart changes stays as it is.
            starting: TLS files may still come, and the agent does more than to connect.

        Raises:
            ConfigError: with every problem found.
        """
        facts = read_facts()
        kinds = None if self.kinds is None else self.kinds()
        loaded = parse(sources, facts, common_name=common_name, kinds=kinds, desired=desired, held=held)
        if kinds is not None and (problems := list(missing(loaded, self.environ, starting=starting))):
            raise ConfigError(problems)
        return loaded
