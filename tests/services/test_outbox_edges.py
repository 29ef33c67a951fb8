"""What happens at the edges of the outbox: events that do not get through, changes at the wrong moment."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edge_agent.command_ports import NoArgs
from edge_agent.core.records import Gap, Priority
from edge_agent.core.submission import Submission
from edge_agent.errors import OutboxError, StoreError, StoreFault
from edge_agent.services.queue_tools import QueueTools
from tests.fakes import FakeBroker
from tests.support.flow import Flow, online

pytestmark = pytest.mark.virtual


def named(flow: Flow) -> set[int]:
    """Return the numbers of the normal stream that delivered events name."""
    gaps = [gap for event in flow.said("gaps") for gap in event if gap["stream"].endswith("normal")]
    return {number for gap in gaps for number in range(gap["first"], gap["last"] + 1)}


async def test_a_gap_whose_event_the_broker_does_not_take_stays_open_and_is_said_again(tmp_path: Path) -> None:
    """Until then nothing beyond it is settled."""
    broker = FakeBroker(puback=lambda topic: 0x99 if "event/outbox" in topic else 0)
    flow = Flow(tmp_path, broker)
    async with flow.running():
        await online(flow)
        for number in range(5):
            flow.put(number)
        await asyncio.sleep(3)
        flow.outbox.pending.lost.append(Gap("o1-normal", 3, 3, 1, "damaged"))
        flow.outbox.due.set()
        await asyncio.sleep(60)
        assert flow.outbox.settled()[Priority.NORMAL] == 2
        broker.puback = lambda _topic: 0
        await asyncio.sleep(60)
        assert named(flow) == {3}
        assert flow.outbox.settled()[Priority.NORMAL] == 5


@pytest.mark.parametrize(("bound", "value"), [("max_bytes", "256KiB"), ("max_age", "1m")])
async def test_what_is_held_for_a_refused_channel_stays_within_the_bounds(
    tmp_path: Path, bound: str, value: str
) -> None:
    """While the connection lasts and other channels flow; what is dropped is named, what was delivered is not."""
    flow = Flow(tmp_path, FakeBroker(puback=lambda topic: 0x87 if topic.endswith("data/a") else 0), **{bound: value})  # type: ignore[arg-type]
    async with flow.running():
        await online(flow)
        for number in range(1, 1001, 2):
            flow.put(number, "data/a", padding=1000)
            flow.put(number + 1, "data/b")
            if number % 20 == 1:
                await asyncio.sleep(1)
        await asyncio.sleep(180)
        assert flow.outbox.state.used <= flow.config.max_bytes
        assert flow.outbox.measure().records < 400
        flow.broker.puback = lambda _topic: 0
        await asyncio.sleep(1000)
        came = set(flow.numbers())
        assert set(range(2, 1001, 2)) <= came
        assert named(flow) == set(range(1, 1001)) - came
        assert named(flow)
        assert flow.outbox.settled()[Priority.NORMAL] == 1000


async def test_a_gap_event_that_is_purged_is_said_again(tmp_path: Path) -> None:
    """The numbers it named are named by another one."""
    flow = Flow(tmp_path, FakeBroker(up=False))
    async with flow.running():
        for number in range(5):
            flow.put(number)
        await flow.outbox.written()
        flow.outbox.pending.lost.append(Gap("o1-normal", 3, 3, 1, "damaged"))
        await flow.outbox.written()
        await flow.upkeep.announce()
        assert flow.outbox.announced
        tools = QueueTools(flow.outbox, flow.keeping, device="dev-1")
        assert await tools.purge(Priority.CRITICAL) == 1
        flow.broker.up = True
        await asyncio.sleep(120)
        assert named(flow) == {3}


async def test_many_gaps_are_said_although_records_must_be_small(tmp_path: Path) -> None:
    """In as many events as it takes."""
    flow = Flow(tmp_path, max_record="1KiB")
    async with flow.running():
        await online(flow)
        flow.put(1)
        flow.outbox.pending.lost += [Gap("o0-normal", n, n, 1, "damaged") for n in range(1, 80, 2)]
        await asyncio.sleep(120)
        assert named(flow) == set(range(1, 80, 2))


async def test_a_purge_that_has_to_wait_for_a_puback_does_not_spin(tmp_path: Path) -> None:
    """What is on its way stays; nothing is written over and over meanwhile."""
    flow = Flow(tmp_path, FakeBroker(puback=lambda topic: None if "/data/" in topic else 0))
    async with flow.running():
        await online(flow)
        flow.put(1)
        await asyncio.sleep(3)
        before = len(flow.keeping.batches)
        assert await QueueTools(flow.outbox, flow.keeping, device="dev-1").purge() == 0
        for _ in range(500):
            await asyncio.sleep(0)
        assert len(flow.keeping.batches) - before < 10


async def test_two_retries_at_once_return_each_dead_letter_once(tmp_path: Path) -> None:
    """The second finds none."""
    broker = FakeBroker(puback=lambda topic: 0x90 if "/data/" in topic else 0)
    flow = Flow(tmp_path, broker)
    async with flow.running():
        await online(flow)
        for number in range(3):
            flow.put(number)
        await asyncio.sleep(3)
        broker.puback = lambda _topic: 0
        tools = QueueTools(flow.outbox, flow.keeping, device="dev-1")
        assert list(await asyncio.gather(tools.retry(NoArgs()), tools.retry(NoArgs()))) == [
            {"retried": 3},
            {"retried": 0},
        ]
        await asyncio.sleep(10)
        assert flow.outbox.measure().records == 0
        assert flow.outbox.pending.lanes[Priority.NORMAL].next_seq == 7


async def test_a_new_value_does_not_take_the_number_of_one_that_has_to_go(tmp_path: Path) -> None:
    """The old one expires; the new one is delivered under a number of its own."""
    flow = Flow(tmp_path, FakeBroker(up=False))
    async with flow.running():
        flow.outbox.put(Submission("data/n", b'{"n":1}', latest=True))
        await flow.outbox.written()
        (key,) = flow.outbox.pending.latest.values()
        flow.outbox.pending.doom([key], "expired")
        new = flow.outbox.put(Submission("data/n", b'{"n":2}', latest=True))
        assert new.key == key + 1
        flow.broker.up = True
        await asyncio.sleep(60)
        assert flow.numbers() == [2]
        assert named(flow) == {1}


async def test_who_waits_until_all_is_written_is_told_when_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also who has begun to wait while the commit that fails was under way; and a key cannot be judged."""
    flow = Flow(tmp_path, FakeBroker(up=False))
    async with flow.running():
        flow.put(1)
        await flow.outbox.written()

        def fail(*_arguments: object) -> object:
            raise StoreError(StoreFault.IO, "it fails")

        monkeypatch.setattr(flow.keeping, "_commit", fail)
        flow.put(2)
        async with asyncio.timeout(5):
            await asyncio.gather(flow.outbox.written(), flow.outbox.written())
        monkeypatch.setattr("edge_agent.adapters.store_ledgers.SeenKeys.find", fail)
        with pytest.raises(OutboxError, match="not known"):
            await flow.outbox.accept(Submission("data/n", b"{}", key="k"))
