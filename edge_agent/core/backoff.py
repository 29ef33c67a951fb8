"""How long to wait before trying again: exponential, capped, with full jitter.

Full jitter (a uniform draw between nothing and the bound) spreads a fleet that lost its broker at one instant evenly
over the whole interval, where a jitter of a few per cent would bring it back in waves.
"""

from __future__ import annotations

from collections.abc import Callable

from edge_agent.core.timebase import DurationNs

Uniform = Callable[[], float]
"""A source of randomness: each call returns a number in [0, 1)."""


def full_jitter(attempt: int, *, base: DurationNs, cap: DurationNs, uniform: Uniform) -> DurationNs:
    """Return the wait before try number ``attempt`` (from 0): uniform in [0, min(cap, base * 2**attempt)).

    The exponent is bounded before it is applied: a device that has been offline for weeks gets to numbers at which
    two to the power of the attempt no longer fits a float.
    """
    assert attempt >= 0, "attempts are counted from 0"
    bound = min(cap, base << min(attempt, cap.bit_length()))
    return DurationNs(int(bound * uniform()))
