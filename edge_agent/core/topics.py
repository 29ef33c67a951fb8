"""The topic tree: what the device says is under ``<prefix>/<device>/up/``, what it is told under ``…/down/``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MAX_FILTER: Final = 65_535  # bytes, MQTT 5 §1.5.4
MAX_RESPONSE_TOPIC: Final = 1024  # characters; a journal has to keep it
MAX_FILTERS_PER_SUBSCRIBE = 8
"""AWS IoT Core accepts no more in one SUBSCRIBE packet."""


_LEVEL: Final = r"[^/+#\0\ud800-\udfff]*"
_FILTER: Final = re.compile(rf"(?:(?:{_LEVEL}|\+)/)*(?:{_LEVEL}|[+#])")


ELSEWHERE: Final = "reply//"
TAKEN: Final = frozenset({"status", "health", "heartbeat", "commands", "config", "data", "event", ""})
"""Below ``up/``: what consumers take for something that it is not must not be published there."""


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

    @property
    def commands(self) -> str:
        """``edge.commands.v1``, retained."""
        return self.up("commands")

    @property
    def config(self) -> str:
        """``edge.config.v1``, retained."""
        return self.up("config")

    @property
    def desired(self) -> str:
        """What the cloud wants the configuration to be, retained."""
        return f"{self.prefix}/{self.device}/down/config"

    def up(self, rest: str) -> str:
        """Return a topic that the device publishes to; what begins with ``reply//`` is one somewhere else."""
        return rest.removeprefix(ELSEWHERE) if rest.startswith(ELSEWHERE) else f"{self.prefix}/{self.device}/up/{rest}"

    def command(self, topic: str) -> tuple[str, str] | None:
        """Split a command's topic into what it addresses and the command; ``None`` when it is none.

        What it addresses is the device's id, ``_group/GROUP`` or ``_all``.
        """
        address, found, command = topic.removeprefix(self.prefix + "/").partition("/down/cmd/")
        return (address, command) if found and topic.startswith(self.prefix + "/") else None

    def channel(self, topic: str, elsewhere: tuple[str, ...]) -> str | None:
        """Return the channel of a topic to which a reply may go; ``None`` = it may not.

        Args:
            topic: named in a command: below the device's own ``up/``, and no topic that says something else.
            elsewhere: filters of topics that are allowed, too.
        """
        if len(topic) > MAX_RESPONSE_TOPIC or not is_filter(topic) or "+" in topic or "#" in topic:
            return None
        if topic.startswith(self.up("reply/")) and not topic.startswith(f"{self.up('reply')}//"):
            return topic.removeprefix(self.up(""))
        own = topic.startswith(self.up("")) and topic.removeprefix(self.up("")).partition("/")[0] not in TAKEN
        allowed = own or any(matches(one, topic) for one in elsewhere)
        return ELSEWHERE + topic if allowed else None

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


def matches(pattern: str, topic: str) -> bool:
    """Return whether a topic is one of those that a filter stands for (MQTT 5 §4.7)."""
    wanted, levels = pattern.split("/"), topic.split("/")
    if topic.startswith("$") != pattern.startswith("$"):
        return False
    if wanted[-1] == "#":
        wanted.pop()
        levels = levels[: len(wanted)]
    return len(wanted) == len(levels) and all(want in ("+", level) for want, level in zip(wanted, levels, strict=True))


def parse_up(topic: str, prefix: str) -> tuple[str, str] | None:
    """Split a topic into the device and what follows ``up/``; ``None`` when it is no device's ``up`` topic."""
    if not topic.startswith(prefix + "/"):
        return None
    device, _, rest = topic[len(prefix) + 1 :].partition("/")
    branch, _, kind = rest.partition("/")
    return (device, kind) if device and branch == "up" and kind else None
