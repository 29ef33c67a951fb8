"""The commands queue-…; what they do is tested in tests/services/test_queue_tools."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.commands.queue import commands
from edge_agent.core.command_request import CommandError
from edge_agent.core.records import Priority
from edge_agent.core.submission import Submission
from edge_agent.services.queue_tools import QueueTools
from tests.fakes import FakeBroker
from tests.support.commands import asked
from tests.support.flow import Flow

pytestmark = pytest.mark.virtual


@pytest.mark.parametrize(
    ("command", "params", "words"),
    [
        ("queue-stat", {"x": 1}, "args.x: unknown key 'x'"),
        (
            "queue-purge",
            {"priority": "urgent"},
            'priority: found "urgent"; "critical", "normal" or "bulk" is allowed',
        ),
        ("queue-purge", {"channel": "up/#"}, "args.channel: channel 'up/#': data/NAME or event/NAME is needed"),
        ("queue-purge", {"dead": "no"}, "args.dead: found a string; true or false is needed"),
        ("queue-purge", {"dead": True, "channel": "data/x"}, "args: dead: all dead letters go at once"),
    ],
)
async def test_wrong_arguments_are_refused(tmp_path: Path, command: str, params: object, words: str) -> None:
    """With what is allowed; nothing happens."""
    flow = Flow(tmp_path, FakeBroker(up=False))
    async with flow.running():
        flow.outbox.put(Submission("data/x", b"{}"))
        with pytest.raises(CommandError) as refused:
            await asked(commands(QueueTools(flow.outbox, flow.keeping, device="dev-1")), command, params)
        assert words in str(refused.value)
        assert flow.outbox.measure().records == 1


async def test_what_is_chosen_is_dropped(tmp_path: Path) -> None:
    """By priority and channel; everything, if nothing is said."""
    flow = Flow(tmp_path, FakeBroker(up=False))
    family = commands(QueueTools(flow.outbox, flow.keeping, device="dev-1"))
    async with flow.running():
        for channel, priority in (("data/x", Priority.NORMAL), ("data/y", Priority.NORMAL), ("data/x", Priority.BULK)):
            flow.outbox.put(Submission(channel, b"{}", priority))
        assert await asked(family, "queue-purge", {"priority": "bulk", "channel": "data/y"}) == {"purged": 0}
        assert await asked(family, "queue-purge", {"priority": "bulk", "channel": "data/x"}) == {"purged": 1}
        assert await asked(family, "queue-purge", {"channel": "data/y"}) == {"purged": 1}
        assert (await asked(family, "queue-stat"))["records"] == 1
        assert await asked(family, "queue-purge") == {"purged": 1}
        assert await asked(family, "queue-purge", {"dead": True}) == {"purged": 0}
