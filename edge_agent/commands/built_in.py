"""The commands that are built in: every family, with what it needs of the agent."""

from __future__ import annotations

from edge_agent.command_ports import Command
from edge_agent.commands import agent, clock, config, diag, profile, programs, queue
from edge_agent.services.queue_tools import QueueTools
from edge_agent.services.timekeeping import Timekeeping


def built_in(host: agent.Host, time: Timekeeping, jobs: list[Command], outbox: QueueTools) -> list[Command]:
    """Return them.

    Args:
        host: the agent.
        time: keeps it.
        jobs: the family of the jobs.
        outbox: what may be asked of it.
    """
    found = [
        *agent.commands(host),
        *clock.commands(time.report, time.hurry),
        *config.commands(host),
        *jobs,
        *queue.commands(outbox),
        *programs.commands(host),
        *profile.commands(host),
    ]
    return [*found, *diag.commands(host, found)]
