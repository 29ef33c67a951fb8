"""The command ``profile``: what the agent spends its time or its memory on."""

from __future__ import annotations

import threading
from collections import Counter

import orjson
from pydantic import Field
from typing_extensions import TypedDict

from edge_agent.adapters.profiler import MODES, Mode
from edge_agent.adapters.threads import in_daemon_thread
from edge_agent.command_ports import Call, Command
from edge_agent.commands.agent import Host
from edge_agent.core.config_types import Section
from edge_agent.core.timebase import seconds


class Profile(Section):
    """What is looked at, and how long."""

    seconds: int = Field(10, ge=1, le=60, description="How long.")
    mode: Mode = Field("cpu", description="cpu: where threads are; memory: what is allocated and kept.")


class Profiled(TypedDict):
    """Collapsed stacks, the greatest first: ``frame;frame count``, of samples or of bytes."""

    mode: str
    seconds: int
    unit: str
    total: int
    stacks: list[str]
    left_out: int


def commands(host: Host) -> list[Command]:
    """Return it."""

    async def profile(_call: Call, args: Profile) -> Profiled:
        stop = threading.Event()
        try:
            found: Counter[str] = await in_daemon_thread(
                lambda: MODES[args.mode](args.seconds, stop), name="profiler", late=lambda: None
            )
        finally:
            stop.set()
        room, stacks = host.room(), list[str]()
        for stack, count in found.most_common():
            line = f"{stack} {count}"
            room -= len(orjson.dumps(line)) + 1
            if room < 0:
                break
            stacks.append(line)
        return {
            "mode": args.mode,
            "seconds": args.seconds,
            "unit": "samples" if args.mode == "cpu" else "bytes",
            "total": found.total(),
            "stacks": stacks,
            "left_out": len(found) - len(stacks),
        }

    summary = "Look at what the agent spends its time or its memory on."
    return [Command("profile", summary, Profile, Profiled, profile, timeout=seconds(120), at_once=1)]
