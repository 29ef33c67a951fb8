"""JSON from outside."""

from __future__ import annotations

import pytest

from edge_agent.errors import JobError
from edge_agent.jobs.json_value import MAX_SHOWN, json_value


def test_a_value_is_laid_out_in_one_line() -> None:
    """And means what it meant."""
    assert json_value(b' {"a":\n [1, 2.50, "\xc3\xa9"]}\n', of="it") == '{"a":[1,2.5,"é"]}'.encode()


@pytest.mark.parametrize("raw", [b"", b"NaN", b"{", b"\xff", b"1 2", b"[" * 10_000, b"x" * 100_000])
def test_what_is_none_is_shown(raw: bytes) -> None:
    """The beginning of it, in one line."""
    with pytest.raises(JobError) as bad:
        json_value(raw, of="the answer")
    assert str(bad.value).startswith("the answer is no JSON (")
    assert len(str(bad.value)) < MAX_SHOWN + 200
