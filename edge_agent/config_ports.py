"""The seams between the changes of the configuration and the outside world."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from edge_agent.core.config import Loaded
from edge_agent.core.config_document import Source
from edge_agent.core.config_memory import ConfigMemory, Snapshot
from edge_agent.core.config_models import Config
from edge_agent.core.config_remote import Desired

Commit: TypeAlias = Callable[[], Awaitable[list[str]]]
"""Puts a configuration in force, which cannot fail any more; returns the names of the parts that it restarted."""

Prepare: TypeAlias = Callable[[Loaded, Loaded], Commit]
"""Takes the configuration in force and another one, and prepares all for that; raises ``ConfigError`` if it cannot."""

Watch: TypeAlias = Callable[[Callable[[], None]], Coroutine[Any, Any, None]]
"""Calls what it is given now, and whenever the files may have been changed; until it is cancelled."""


class ConfigFiles(Protocol):
    """The files of the configuration."""

    @property
    def main(self) -> str:
        """The name of the first of them."""
        ...

    def read(self) -> list[Source]:
        """Return what they hold.

        Raises:
            ConfigError: with each file that cannot be read.
        """
        ...

    def parse(
        self,
        sources: Sequence[Source],
        *,
        desired: Desired | None = None,
        held: Config | None = None,
        starting: bool = False,
    ) -> Loaded:
        """Return the configuration that files make up, and the cloud's over them.

        Raises:
            ConfigError: with every problem found.
        """
        ...


class MemoryStore(Protocol):
    """What is remembered of the configuration, on disk."""

    def load(self) -> ConfigMemory:
        """Return what is remembered."""
        ...

    def save(self, memory: ConfigMemory) -> None:
        """Replace what is remembered; blocks.

        Raises:
            OSError: it cannot be written; what was there before still is.
        """

    async def save_soon(self, memory: ConfigMemory, snapshots: Mapping[str, Snapshot]) -> None:
        """Keep configurations by their digests, then replace what is remembered, without blocking the loop.

        Raises:
            OSError: it cannot be written; what was there before still is.
        """

    def snapshot(self, digest: str) -> Snapshot | None:
        """Return a configuration that was in force; ``None`` = it was not kept."""
        ...

    def kept(self) -> set[str]:
        """Return the digests of configurations that can be gone back to."""
        ...
