"""The same key is one record, whoever hands it in however often, and whoever goes away meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import pytest

from edge_agent.core.submission import Submission
from edge_agent.errors import OutboxError
from edge_agent.services.once_only import OnceOnly
from tests.fakes import FakeBroker
from tests.support.flow import Flow, online

pytestmark = pytest.mark.virtual

KEYED: Final = Submission("data/n", b'{"n":1}', key="k")


def offline(folder: Path) -> Flow:
    """Return an outbox whose broker is away."""
    return Flow(folder, FakeBroker(up=False), boot="b")


async def turns() -> None:
    """Let everything happen that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_key_is_one_record_at_once_later_and_after_a_restart(tmp_path: Path) -> None:
    """Also when it was sent long ago; another key is another record, also with a character that UTF-8 lacks."""
    flow = offline(tmp_path)
    async with flow.running():
        ids = set(await asyncio.gather(*(flow.outbox.accept(KEYED) for _ in range(5))))
        assert ids == {"o1-normal.1"}
        assert await flow.outbox.accept(KEYED) == "o1-normal.1"
        assert flow.outbox.state.records == 1
    again = offline(tmp_path)
    async with again.running():
        assert await again.outbox.accept(KEYED) == "o1-normal.1"
        again.broker.up = True
        await online(again)
        await asyncio.sleep(10)
        assert await again.outbox.accept(KEYED) == "o1-normal.1"
        assert await again.outbox.accept(Submission("data/n", b'{"n":2}', key="\ud800")) == "o1-normal.2"
        await asyncio.sleep(10)
        assert again.numbers() == [1, 2]


async def test_whoever_goes_away_while_it_is_written_takes_nothing_with_him(tmp_path: Path) -> None:
    """The record arrives; the one who comes next gets its id."""
    flow = offline(tmp_path)
    async with flow.running():
        first = asyncio.ensure_future(flow.outbox.accept(KEYED))
        while not flow.outbox.pending.seen:  # noqa: ASYNC110  # it was put
            await asyncio.sleep(0)
        with flow.worker.stalled():
            await turns()
            second = asyncio.ensure_future(flow.outbox.accept(KEYED))
            await turns()
            assert first.cancel()
            await turns()
        assert await second == "o1-normal.1"
        assert first.cancelled()
        assert flow.outbox.state.records == 1


async def test_whoever_goes_away_before_it_is_put_takes_nothing_from_the_others(tmp_path: Path) -> None:
    """It is taken in for them."""
    flow = offline(tmp_path)
    async with flow.running():
        with flow.worker.stalled():  # the store is asked whether it knows the key
            callers = [asyncio.ensure_future(flow.outbox.accept(KEYED)) for _ in range(3)]
            await turns()
            assert callers[0].cancel()
            await turns()
        assert await asyncio.gather(*callers[1:]) == ["o1-normal.1"] * 2
        assert flow.outbox.measure().records == 1


async def test_a_failure_is_everybody_s_and_not_remembered(tmp_path: Path) -> None:
    """What is lost on its way is lost for all who wait; after that the key is as new."""
    flow = offline(tmp_path)
    async with flow.running():
        futures: list[asyncio.Future[str]] = []

        def put(_digest: bytes, _submission: Submission) -> asyncio.Future[str]:
            futures.append(asyncio.get_running_loop().create_future())
            return futures[-1]

        once = OnceOnly(flow.keeping, dict, put)
        callers = [asyncio.ensure_future(once.accept("k", KEYED)) for _ in range(3)]
        await turns()
        futures[0].set_exception(OutboxError("no room", word="full"))
        for caller in callers:
            with pytest.raises(OutboxError, match="no room"):
                await caller
        again = asyncio.ensure_future(once.accept("k", KEYED))
        await turns()
        futures[1].set_result("o1-normal.1")
        assert await again == "o1-normal.1"
        assert len(futures) == 2


async def test_a_key_is_known_while_the_disk_fails_and_only_the_broker_has_its_record(tmp_path: Path) -> None:
    """The store cannot be told of it yet, and is asked all the same."""
    flow = Flow(tmp_path, FakeBroker(), boot="b")
    async with flow.running():
        await online(flow)
        flow.put(0)
        await asyncio.sleep(10)
        flow.keeping.fails = True
        flow.put(5, always=True)
        await asyncio.sleep(1)
        assert not flow.keeping.can_write
        assert [await flow.outbox.accept(KEYED) for _ in range(2)] == ["o1-normal.3"] * 2
        flow.keeping.fails = False
        await asyncio.sleep(30)
        assert await flow.outbox.accept(KEYED) == "o1-normal.3"
        assert flow.numbers() == [0, 5, 1]
