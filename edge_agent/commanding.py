"""The commands' part of the agent: builds all commands, the dispatcher, and the door of MQTT to it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from edge_agent.command_ports import Command, Registry
from edge_agent.commands import advertised, agent, clock, diag, profile, programs, queue, registry
from edge_agent.commands import config as config_commands
from edge_agent.core.authority import Authority, Grant
from edge_agent.core.config_models import Commands, Config
from edge_agent.core.topics import Topics
from edge_agent.ports import Clock
from edge_agent.services.command_door import CommandDoor
from edge_agent.services.dispatcher import Dispatcher
from edge_agent.services.outbox import Outbox
from edge_agent.services.queue_tools import QueueTools
from edge_agent.services.timekeeping import Timekeeping


class Commanding:
    """Commands: who may give which, and what becomes of them.

    Attributes:
        dispatcher: obeys them.
    """

    def __init__(
        self, config: Config, registry: Registry, outbox: Outbox, *, clock: Clock, new_name: Callable[[], str]
    ) -> None:
        """Prepare; see ``Dispatcher``."""
        self._clock = clock
        self._said: dict[str, Any] | None = None
        self.dispatcher = Dispatcher(registry, _authority(config), outbox, clock=clock, new_name=new_name)

    def configure(self, config: Config) -> None:
        """Go by another configuration from now on."""
        self.dispatcher.authority, self._said = _authority(config), None

    def door(self, config: Config) -> CommandDoor:
        """Return the door of MQTT."""
        topics = Topics(config.mqtt.prefix, config.device.id)
        return CommandDoor(self.dispatcher, topics, self._advertised, self._clock)

    def _advertised(self) -> dict[str, Any]:
        if self._said is None:
            self._said = advertised(self.dispatcher.registry, partial(_is_allowed, self.dispatcher.authority.commands))
        return self._said


def all_commands(host: agent.Host, time: Timekeeping, jobs: list[Command], outbox: QueueTools) -> Registry:
    """Return the commands that are built in, every family with what it needs of the agent, and those of packages.

    Args:
        host: the agent.
        time: keeps it.
        jobs: the family of the jobs.
        outbox: what may be asked of it.
    """
    found = [
        *agent.commands(host),
        *clock.commands(time.report, time.hurry),
        *config_commands.commands(host),
        *jobs,
        *queue.commands(outbox),
        *programs.commands(host),
        *profile.commands(host),
    ]
    return registry([*found, *diag.commands(host, found)])


def _authority(config: Config) -> Authority:
    """Return who may command; the library that verifies signatures is loaded only for those who have keys."""
    verify = import_module("edge_agent.adapters.jose").verify if config.commands.keys else None
    return Authority(config.commands, config.device.id, config.device.groups, verify)


def _is_allowed(commands: Commands, name: str) -> bool:
    """Return whether anybody may give a command from afar."""
    allowed = [commands.allow if key.allow is None else key.allow for key in commands.keys.values()] or [commands.allow]
    return any(Grant(allow, "").allows(name) for allow in allowed)
