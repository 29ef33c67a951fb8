"""What is remembered of the configuration, on disk: files that are each replaced as a whole."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

import orjson

from edge_agent.adapters.durable_file import put_file, sync
from edge_agent.adapters.threads import in_daemon_thread
from edge_agent.core.config_memory import ConfigMemory, Snapshot, read_memory, read_snapshot
from edge_agent.errors import ConfigError

T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_BYTES: Final = 8 << 20
"""Of one file: two configurations from the cloud, and the changes."""

MAX_KEPT: Final = 16 << 20
"""Of all configurations that can be gone back to; beyond it the oldest go."""

MEMORY: Final = "config/memory.json"
"""The file below the state directory that has all but those."""

_DIGEST: Final = re.compile(r"[0-9a-f]{12}")


class ConfigStore:
    """The folder ``config`` in the state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "config"
        self._lock = threading.Lock()  # whoever is cancelled while it waits for a thread may write again at once

    def load(self) -> ConfigMemory:
        """Return what is remembered; what is damaged is logged and as good as nothing."""
        return self._read("memory.json", read_memory) or ConfigMemory()

    def save(self, memory: ConfigMemory) -> None:
        """Replace what is remembered; blocks.

        Raises:
            OSError: it cannot be written; what was there before still is.
        """
        with self._lock:
            self._write("memory.json", memory.document())

    async def save_soon(self, memory: ConfigMemory, snapshots: Mapping[str, Snapshot]) -> None:
        """Keep configurations by their digests, then replace what is remembered, without blocking the loop.

        Raises:
            OSError: it cannot be written; what was there before still is.
        """

        def write() -> None:
            with self._lock:
                for digest, snapshot in snapshots.items():
                    self._write(f"{digest}.json", snapshot.document())
                self._write("memory.json", memory.document())
                self._prune(memory)

        await in_daemon_thread(write, name="config-store", late=lambda: None)

    def snapshot(self, digest: str) -> Snapshot | None:
        """Return a configuration that was in force; ``None`` = it was not kept."""
        return self._read(f"{digest}.json", read_snapshot) if _DIGEST.fullmatch(digest) else None

    def kept(self) -> set[str]:
        """Return the digests of configurations that can be gone back to."""
        return {path.stem for path in self._snapshots()}

    def _prune(self, memory: ConfigMemory) -> None:
        """Let go of what nobody remembers, the oldest where there is too much, and what a crash left unfinished."""
        with suppress(OSError):
            for unfinished in self._folder.glob(".*.json"):
                unfinished.unlink()
        wanted = list(dict.fromkeys(entry.digest for entry in reversed(memory.history)))
        if memory.pin is not None:
            wanted.insert(0, memory.pin.digest)
        age = {digest: number for number, digest in enumerate(wanted)}
        room = MAX_KEPT
        for path in sorted(self._snapshots(), key=lambda one: age.get(one.stem, len(age))):
            with suppress(OSError):
                room -= path.stat().st_size
                if path.stem not in age or (room < 0 and path.stem != memory.in_force):
                    path.unlink()

    def _snapshots(self) -> list[Path]:
        try:
            return [path for path in self._folder.glob("*.json") if _DIGEST.fullmatch(path.stem)]
        except OSError:
            return []

    def _read(self, name: str, read: Callable[[object], T]) -> T | None:
        path = self._folder / name
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
            return read(orjson.loads(data if len(data) <= MAX_BYTES else b""))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, ConfigError) as error:
            log.warning("config_memory_unusable", extra={"file": str(path), "reason": str(error)})
            return None

    def _write(self, name: str, document: object) -> None:
        if not self._folder.is_dir():
            self._folder.mkdir(mode=0o700)
            sync(self._folder.parent)
        put_file(self._folder / name, orjson.dumps(document))
