"""The commands clock-…; what they answer is tested in tests/services/test_timekeeping."""

from __future__ import annotations

from typing import Any

import pytest

from edge_agent.commands.clock import commands
from edge_agent.core.command_request import CommandError
from tests.support.commands import asked

REPORT: dict[str, Any] = {
    "time": "2027-01-15T08:00:00.000000Z",
    "state": "os",
    "offset_ms": None,
    "error_ms": 1.5,
    "frequency_ppm": None,
    "source": None,
    "steps": 0,
    "alarm": False,
    "restarts": 0,
    "uncertainty_ms": 0.0,
    "sources": [],
}


@pytest.mark.virtual
async def test_servers_are_asked_at_once_only_by_the_one_that_says_so() -> None:
    """Both answer with what is known now."""
    hurried: list[None] = []
    family = commands(REPORT.copy, lambda: hurried.append(None))
    assert (await asked(family, "clock-status"), hurried) == (REPORT, [])
    assert (await asked(family, "clock-sync"), hurried) == (REPORT, [None])
    with pytest.raises(CommandError):
        await asked(family, "clock-sync", {"now": True})
