"""The topic tree: what the device says is under ``<prefix>/<device>/up/``, what it is told under ``…/down/``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MAX_FILTER: Final = 65_535  # bytes, MQTT 5 §1.5.4
MAX_FILTERS_PER_SUBSCRIBE = 8
"""AWS IoT Core accepts no more in one SUBSCRIBE packet."""


_LEVEL: Final = r"[^/+#\0\ud800-\udfff]*"
_FILTER: Final = re.compile(rf"(?:(?:{_LEVEL}|\+)/)*(?:{_LEVEL}|[+#])")


@dataclass(frozen=True, slots=True)
class Topics:
    """The names of one device's topics."""

    prefix: str
    device: str

    @property
    def status(self) -> str:
        """``online`` or ``offline`` as plain text, retained; also the Will."""
        return self.up("status")

    @property
    def health(self) -> str:
        """``edge.health.v1``, retained."""
        return self.up("health")

    @property
    def heartbeat(self) -> str:
        """``edge.heartbeat.v1``."""
        return self.up("heartbeat")

    def up(self, rest: str) -> str:
        """Return a topic that the device publishes to."""
        return f"{self.prefix}/{self.device}/up/{rest}"

    def filters(self, groups: tuple[str, ...]) -> tuple[str, ...]:
        """Return what the device subscribes to, the most needed first."""
        return (
            f"{self.prefix}/{self.device}/down/#",
            self.status,
            f"{self.prefix}/_all/down/cmd/#",
            *(f"{self.prefix}/_group/{group}/down/cmd/#" for group in groups),
        )


def fleet_filters(prefix: str) -> tuple[str, ...]:
    """Return what an operator subscribes to in order to see every device."""
    return tuple(f"{prefix}/+/up/{kind}" for kind in ("status", "health", "heartbeat"))


def is_filter(text: str) -> bool:
    """Return whether that can be subscribed to (MQTT 5 §4.7)."""
    return text != "" and _FILTER.fullmatch(text) is not None and len(text.encode()) <= MAX_FILTER


def parse_up(topic: str, prefix: str) -> tuple[str, str] | None:
    """Split a topic into the device and what follows ``up/``; ``None`` when it is no device's ``up`` topic."""
    if not topic.startswith(prefix + "/"):
        return None
    device, _, rest = topic[len(prefix) + 1 :].partition("/")
    branch, _, kind = rest.partition("/")
    return (device, kind) if device and branch == "up" and kind else None
