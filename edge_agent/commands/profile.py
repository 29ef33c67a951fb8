"""The command ``profile``: what the agent spends its time or its memory on, with the standard library alone.

What is found are collapsed stacks, ``frame;frame;frame count``, as flame graphs are drawn from.
"""

from __future__ import annotations

import gc
import re
import sys
import threading
from collections import Counter
from types import FrameType
from typing import Final, Literal

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
ALLOCATED_DEPTH: Final = 8
"""Frames of an allocation that are noted down; each costs time and memory."""

Mode = Literal["cpu", "memory"]

_LIBRARY: Final = re.compile(r".*/(site-packages|python3\.\d+)/")


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
        stop, look = threading.Event(), sample if args.mode == "cpu" else allocations
        try:
            found: Counter[str] = await in_daemon_thread(
                lambda: look(args.seconds, stop), name="profiler", late=lambda: None
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


def allocations(seconds: float, stop: threading.Event) -> Counter[str]:
    """Return how many bytes were allocated from each stack meanwhile, and not freed."""
    import tracemalloc  # noqa: PLC0415  # with pickle: 0.3 MiB that few need

    tracemalloc.start(ALLOCATED_DEPTH)
    try:
        stop.wait(seconds)
        gc.collect()
        snapshot = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    ours = snapshot.filter_traces((tracemalloc.Filter(inclusive=False, filename_pattern=tracemalloc.__file__),))
    found: Counter[str] = Counter()
    for trace in ours.traces:
        frames = (f"{_LIBRARY.sub('', frame.filename)}:{frame.lineno}" for frame in trace.traceback)
        found[";".join(frames)] += trace.size
    return found


def _stack(frame: FrameType | None) -> list[str]:
    """Return a stack, its outermost frame first."""
    frames: list[str] = []
    while frame is not None and len(frames) < DEPTH:
        frames.append(f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_qualname}")
        frame = frame.f_back
    return frames[::-1]
