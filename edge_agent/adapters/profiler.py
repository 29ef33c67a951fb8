"""Looks at what the process does for a while, with the standard library alone; blocks, and belongs on a thread.

What it finds are collapsed stacks, ``frame;frame;frame count``, as flame graphs are drawn from.
"""

from __future__ import annotations

import gc
import re
import sys
import threading
from collections import Counter
from types import FrameType
from typing import Final, Literal

INTERVAL_S: Final = 0.01
DEPTH: Final = 64
ALLOCATED_DEPTH: Final = 8
"""Frames of an allocation that are noted down; each costs time and memory."""

_LIBRARY: Final = re.compile(r".*/(site-packages|python3\.\d+)/")


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


MODES: Final = {"cpu": sample, "memory": allocations}
Mode = Literal["cpu", "memory"]


def _stack(frame: FrameType | None) -> list[str]:
    """Return a stack, its outermost frame first."""
    frames: list[str] = []
    while frame is not None and len(frames) < DEPTH:
        frames.append(f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_qualname}")
        frame = frame.f_back
    return frames[::-1]
