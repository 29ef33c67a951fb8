"""Tests of ``core/sample.py``."""

from __future__ import annotations

import pytest

from edge_agent.core.sample import Sample, host_vote
from edge_agent.core.timebase import RawNs, UtcNs, WallNs

AT = (RawNs(7), WallNs(10**18))


def test_the_error_of_an_honest_source_is_bounded_by_half_the_delay_and_its_own_error() -> None:
    """RFC 5905 §11.2: the root distance."""
    assert Sample("a", RawNs(5), UtcNs(10**18), delay_ns=7_000, root_ns=300).max_error_ns == 3_800


@pytest.mark.parametrize(
    ("state", "status", "max_error_us", "root_ns"),
    [
        (0, 0, 500, 1_500_000),
        (1, 0x2001, 99_999, 100_999_000),
        (5, 0, 500, None),  # TIME_ERROR
        (0, 0x40, 500, None),  # STA_UNSYNC
        (0, 0, 100_000, None),  # nobody has corrected it for long
        (0, 0, 16_000_000, None),
        (0, 0, -1, None),
    ],
)
def test_only_a_clock_that_somebody_keeps_right_has_a_vote(
    state: int, status: int, max_error_us: int, root_ns: int | None
) -> None:
    """Its bound is the kernel's, and a millisecond."""
    vote = host_vote("host", (state, status, max_error_us), AT)
    assert (None if vote is None else vote.root_ns) == root_ns
    if vote is not None:
        assert (vote.source, vote.raw, vote.utc, vote.delay_ns) == ("host", 7, 10**18, 0)


def test_where_the_kernel_may_not_be_asked_it_has_none() -> None:
    """As where nobody keeps its clock."""
    assert host_vote("host", None, AT) is None
