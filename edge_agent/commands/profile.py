"""The command ``profile``: what the agent spends its time on, with the standard library alone.

What is found are collapsed stacks, ``frame;frame;frame count``, as flame graphs are drawn from.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from types import FrameType
from typing import Final

import orjson
from pydantic import Field
from typing_extensions import TypedDict

from edge_agent.adapters.threads import in_daemon_thread
from edge_agent.command_ports import Call, Command
from edge_agent.commands.agent import Host
from edge_agent.core.config_types import Section
from edge_agent.core.timebase import seconds

INTERVAL_S: Final = 0.01
DEPTH: Final = 64


class Profile(Section):
    """How long it is looked."""

    seconds: int = Field(10, ge=1, le=60, description="How long.")


class Profiled(TypedDict):
    """Collapsed stacks, the most frequent first: ``frame;frame count``."""

    seconds: int
    total: int
    stacks: list[str]
    left_out: int


def commands(host: Host) -> list[Command]:
    """Return it."""

    async def profile(_call: Call, args: Profile) -> Profiled:
        stop = threading.Event()
        try:
            found: Counter[str] = await in_daemon_thread(
                lambda: sample(args.seconds, stop), name="profiler", late=lambda: None
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
            "seconds": args.seconds,
            "total": found.total(),
            "stacks": stacks,
            "left_out": len(found) - len(stacks),
        }

    summary = "Look at what the agent spends its time on."
    return [Command("profile", summary, Profile, Profiled, profile, timeout=seconds(120), at_once=1)]


def sample(seconds: float, stop: threading.Event) -> Counter[str]:
    """Return how often each thread was found with each stack, about 100 times a second, until ``stop`` is set."""
    found: Counter[str] = Counter()
    own = threading.get_ident()
    for _ in range(round(seconds / INTERVAL_S)):
        if stop.wait(INTERVAL_S):
            break
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():  # noqa: SLF001  # its documented use is this
            if ident != own:
                found[";".join([names.get(ident, "thread"), *_stack(frame)])] += 1
    return found


def _stack(frame: FrameType | None) -> list[str]:
    """Return a stack, its outermost frame first."""
    frames: list[str] = []
    while frame is not None and len(frames) < DEPTH:
        frames.append(f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_qualname}")
        frame = frame.f_back
    return frames[::-1]
