"""What is remembered of the configuration over restarts, as documents that damage or a newer version makes void."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from edge_agent.core.cloud_config import CloudConfig
from edge_agent.core.cloud_config import read as read_cloud
from edge_agent.core.config_document import Source
from edge_agent.core.config_remote import Desired, parse_desired
from edge_agent.core.units import parse_instant
from edge_agent.errors import ConfigError

VERSION: Final = 1
MAX_ENTRIES: Final = 20
"""Changes that are remembered; so many configurations can be gone back to."""

_DAMAGED: Final = "not what was written"


@dataclass(frozen=True, slots=True)
class Entry:
    """A change of the configuration.

    Attributes:
        time: when, RFC 3339.
        digest: of the configuration that it led to.
        by: who changed it: ``files``, ``cloud`` or ``rollback``; ``start`` = it was so when the agent started.
        version: of what the cloud says in it; ``None`` = nothing.
        changes: the keys, and their values before and after as they may be shown.
    """

    time: str
    digest: str
    by: str
    version: int | None
    changes: Sequence[Mapping[str, Any]] = ()

    def document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "time": self.time,
            "digest": self.digest,
            "by": self.by,
            "version": self.version,
            "changes": list(self.changes),
        }


@dataclass(frozen=True, slots=True)
class Pin:
    """A configuration that somebody has gone back to, and what the files say that is left out for it.

    Attributes:
        digest: of the configuration.
        files: the ``fingerprint`` of the files; once they say something else, they count again.
    """

    digest: str
    files: str


@dataclass(frozen=True, slots=True)
class ConfigMemory:
    """What is remembered.

    Attributes:
        cloud: what became of configuration from the cloud.
        pin: what somebody has gone back to; ``None`` = the files count.
        history: the last changes, the oldest first; the last one led to what is in force.
        device: the id of the device that remembers it; empty = nothing was written yet.
    """

    cloud: CloudConfig = field(default_factory=CloudConfig)
    pin: Pin | None = None
    history: tuple[Entry, ...] = ()
    device: str = ""

    @property
    def in_force(self) -> str | None:
        """The digest of the configuration that was in force last."""
        return self.history[-1].digest if self.history else None

    def document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "form": VERSION,
            "cloud": self.cloud.document(),
            "pin": None if self.pin is None else {"digest": self.pin.digest, "files": self.pin.files},
            "history": [entry.document() for entry in self.history],
            "device": self.device,
        }

    def of(self, device: str) -> ConfigMemory:
        """Return what a device remembers: what the cloud told one of another id is not for it."""
        is_other = self.device not in ("", device)
        return replace(self, device=device, cloud=CloudConfig() if is_other else self.cloud)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A configuration that was in force, as it was said: the files, and the cloud's."""

    sources: tuple[Source, ...]
    desired: Desired | None

    def document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "form": VERSION,
            "sources": [[source.name, source.text.decode()] for source in self.sources],
            "desired": None
            if self.desired is None
            else {"version": self.desired.version, "config": self.desired.config},
        }


def read_memory(document: object) -> ConfigMemory:
    """Return what a document says.

    Raises:
        ValueError: it is damaged, or of a newer version.
    """
    match document:
        case {"form": 1, "cloud": dict(cloud), "pin": dict() | None as pin, "history": list(history), **rest}:
            entries = tuple(_entry(one) for one in history)
            device = str(rest.get("device", ""))  # it was not always written
            return ConfigMemory(read_cloud(cloud), None if pin is None else _pin(pin), entries, device)
        case _:
            raise ValueError(_DAMAGED)


def read_snapshot(document: object) -> Snapshot:
    """Return what a document says.

    Raises:
        ValueError: it is damaged, or of a newer version.
    """
    match document:
        case {"form": 1, "sources": [_, *_] as sources, "desired": dict() | None as desired}:
            said = [_source(one) for one in sources]
            return Snapshot(tuple(said), None if desired is None else parse_desired(desired))
        case _:
            raise ValueError(_DAMAGED)


def fingerprint(found: Sequence[Source] | ConfigError) -> str:
    """Return what tells files from other files, or from those that cannot be read."""
    hashed = hashlib.sha256()
    for part in (str(found).encode(),) if isinstance(found, ConfigError) else _parts(found):
        hashed.update(len(part).to_bytes(8) + part)
    return hashed.hexdigest()


def _parts(sources: Sequence[Source]) -> list[bytes]:
    return [part for source in sources for part in (source.name.encode(errors="surrogateescape"), source.text)]


def _entry(document: object) -> Entry:
    match document:
        case {
            "time": str(time),
            "digest": str(digest),
            "by": str(by),
            "version": int() | None as version,
            "changes": list(changes),
        } if all(isinstance(one, dict) for one in changes):
            parse_instant(time)
            return Entry(time, digest, by, version, changes)
        case _:
            raise ValueError(_DAMAGED)


def _pin(document: object) -> Pin:
    match document:
        case {"digest": str(digest), "files": str(files)}:
            return Pin(digest, files)
        case _:
            raise ValueError(_DAMAGED)


def _source(document: object) -> Source:
    match document:
        case [str(name), str(text)]:
            return Source(name, text.encode())
        case _:
            raise ValueError(_DAMAGED)
