"""The profiler, on this process."""

from __future__ import annotations

import threading
import tracemalloc

from edge_agent.adapters.profiler import allocations, sample


def test_a_thread_is_found_where_it_is() -> None:
    """Under its name, from the outermost frame on; the sampler itself is not."""
    stop, done = threading.Event(), threading.Event()
    waiting = threading.Thread(target=done.wait, name="a-waiting-one", daemon=True)
    waiting.start()
    found = sample(0.1, stop)
    done.set()
    waiting.join()
    (stack,) = (stack for stack in found if stack.startswith("a-waiting-one;"))
    assert stack.split(";")[1] == "threading.Thread._bootstrap"
    assert stack.endswith("threading.Condition.wait")
    assert found[stack] == 10
    assert not any("profiler" in stack for stack in found)


def test_it_ends_when_it_is_told_to() -> None:
    """Whatever it was asked for; tracing is off afterwards."""
    stop = threading.Event()
    stop.set()
    assert sample(60, stop) == {}
    allocations(60, stop)
    assert not tracemalloc.is_tracing()
