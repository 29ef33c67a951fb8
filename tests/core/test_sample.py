"""Tests of ``core/sample.py``."""

from __future__ import annotations

from edge_agent.core.sample import Sample
from edge_agent.core.timebase import RawNs, UtcNs


def test_the_error_of_an_honest_source_is_bounded_by_half_the_delay_and_its_own_error() -> None:
    """RFC 5905 §11.2: the root distance."""
    assert Sample("a", RawNs(5), UtcNs(10**18), delay_ns=7_000, root_ns=300).max_error_ns == 3_800
