"""From put to PUBACK, in virtual time, with the real store: order, refusals, poison, pace, batches, and the stop."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from edge_agent.core.records import Priority
from edge_agent.core.submission import Submission
from edge_agent.errors import OutboxError, StoreFault
from edge_agent.ports import Limits
from edge_agent.services.drain import BATCH_BYTES, BATCH_CONTENT_TYPE
from tests.fakes import FakeBroker
from tests.support.flow import Flow, online

pytestmark = pytest.mark.virtual


def refusing(*channels: str, reason: int = 0x87) -> Callable[[str], int]:
    """Return a broker's rule that refuses some channels."""
    topics = {f"edge/dev-1/up/{channel}" for channel in channels}
    return lambda topic: reason if topic in topics else 0


def stored(flow: Flow) -> int:
    """Return how many records are stored."""
    return flow.outbox.state.records


# ---------------------------------------------------------------- order
async def test_what_is_put_before_during_and_after_outages_comes_once_and_in_order(tmp_path: Path) -> None:
    """Three outages, records put in each and between; per stream the numbers ascend without a hole."""
    flow = Flow(tmp_path, FakeBroker(up=False))
    async with flow.running():
        n = 0
        for _ in range(3):
            for _ in range(20):
                n += 1
                flow.put(n)
                flow.put(n, "data/bulk", priority=Priority.BULK)
                await asyncio.sleep(0.3)
            flow.broker.up = True
            await online(flow)
            for _ in range(20):
                n += 1
                flow.put(n)
                await asyncio.sleep(0.3)
            flow.broker.crash()
            await asyncio.sleep(1)
        flow.broker.up = True
        await asyncio.sleep(90)
        assert flow.numbers("data/n") == list(range(1, n + 1))
        sequences = [int(event["sequence"]) for event in flow.events("data/bulk")]
        assert sequences == list(range(1, 61))
        assert stored(flow) == 0


async def test_the_more_urgent_stream_goes_first(tmp_path: Path) -> None:
    """Put the other way round while offline."""
    flow = Flow(tmp_path, FakeBroker(up=False))
    async with flow.running():
        for priority in (Priority.BULK, Priority.NORMAL, Priority.CRITICAL):
            for n in range(3):
                flow.put(n, f"data/{priority.name}", priority=priority)
        flow.broker.up = True
        await online(flow)
        await asyncio.sleep(1)
        came = [event["subject"] for event in flow.events("data/")]
        assert came == ["CRITICAL"] * 3 + ["NORMAL"] * 3 + ["BULK"] * 3


async def test_nothing_is_deleted_before_its_puback_and_what_lost_it_comes_again_under_the_same_id(
    tmp_path: Path,
) -> None:
    """The broker takes messages and loses the PUBACKs."""
    flow = Flow(tmp_path, FakeBroker(mute=True))
    async with flow.running():
        flow.broker.mute = False
        await online(flow)
        flow.broker.mute = True
        for n in range(5):
            flow.put(n)
        await asyncio.sleep(5)
        assert stored(flow) == 5  # not acknowledged within `commit`
        flow.broker.cut()
        await asyncio.sleep(0.1)
        flow.broker.mute = False
        await asyncio.sleep(30)
        assert flow.numbers() == [*range(5), *range(5)]
        ids = [event["id"] for event in flow.events("data/")]
        assert ids[:5] == ids[5:]
        assert stored(flow) == 0


async def test_no_matching_subscribers_is_an_acceptance(tmp_path: Path) -> None:
    """Reason code 0x10 of MQTT 5."""
    flow = Flow(tmp_path, FakeBroker(puback=lambda _topic: 0x10))
    async with flow.running():
        await online(flow)
        assert await asyncio.wait_for(flow.outbox.durable(flow.put(1)), 0.5) == "o1-normal.1"
        await asyncio.sleep(3)
        assert flow.numbers() == [1]
        assert flow.outbox.measure().records == 0


# ---------------------------------------------------------------- refusals
async def test_a_refused_channel_waits_and_comes_back_in_order_while_the_others_flow(tmp_path: Path) -> None:
    """0x87: held, said once, tried again after 45 to 60 s and at most doubling pauses."""
    flow = Flow(tmp_path, FakeBroker(puback=refusing("data/a", "data/b")))
    async with flow.running():
        await online(flow)
        for n in range(30):
            flow.put(n, f"data/{'abc'[n % 3]}")
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        assert flow.numbers("data/c") == list(range(2, 30, 3))
        assert flow.said("held") == [
            {"stream": "o1-normal", "topic": "data/a", "first": 1, "reason": 0x87},
            {"stream": "o1-normal", "topic": "data/b", "first": 2, "reason": 0x87},
        ]
        assert flow.pauses.channels() == ["data/a", "data/b"]
        assert "o1-normal" not in flow.outbox.measure().settled
        await asyncio.sleep(46)
        flow.broker.puback = refusing("data/b")
        await asyncio.sleep(46 * 3)
        assert flow.numbers("data/a") == list(range(0, 30, 3))
        assert flow.numbers("data/b") == []
        assert "o1-normal" in flow.outbox.measure().settled
        flow.broker.puback = refusing()
        await asyncio.sleep(900)
        assert flow.numbers("data/b") == list(range(1, 30, 3))
        assert flow.pauses.channels() == []
        assert len(flow.said("held")) == 2
        assert flow.outbox.measure().settled["o1-normal"] == 30


async def test_a_refused_channel_is_asked_ever_more_rarely(tmp_path: Path) -> None:
    """After 1, 2, 4, 8 and then every 15 minutes, with no more than may be in flight at once."""
    tried: list[float] = []

    def puback(topic: str) -> int:
        if not topic.endswith("data/a"):
            return 0
        tried.append(asyncio.get_running_loop().time())
        return 0x87

    flow = Flow(tmp_path, FakeBroker(puback=puback), uniform=1.0)
    async with flow.running():
        await online(flow)
        for n in range(200):
            flow.put(n, "data/a")
        await asyncio.sleep(3600)
        began = [at for before, at in zip([-60.0, *tried], tried, strict=False) if at - before > 30]
        waits = [round(after - before) for before, after in itertools.pairwise(began)]
        assert waits == [60, 120, 240, 480, 900, 900]
        assert len(tried) <= 100 * len(began)


async def test_what_waits_for_a_channel_is_said_of_each_stream(tmp_path: Path) -> None:
    """Without that a consumer would find the records of the second stream out of order."""
    flow = Flow(tmp_path, FakeBroker(puback=refusing("data/a")))
    async with flow.running():
        await online(flow)
        flow.put(1, "data/a")
        await asyncio.sleep(0.1)
        flow.put(2, "data/a", priority=Priority.BULK)
        flow.put(3, "data/b", priority=Priority.BULK)
        await asyncio.sleep(0.1)
        assert [(held["stream"], held["first"]) for held in flow.said("held")] == [("o1-normal", 1), ("o1-bulk", 1)]


async def test_a_refused_channel_stays_held_over_reconnects_without_being_said_again(tmp_path: Path) -> None:
    """The pause goes on; the event is not repeated."""
    flow = Flow(tmp_path, FakeBroker(puback=refusing("data/a")))
    async with flow.running():
        await online(flow)
        flow.put(1, "data/a")
        for n in range(3):
            flow.put(n, "data/b")
            await asyncio.sleep(1)
            flow.broker.cut()
            await asyncio.sleep(5)
        assert len(flow.said("held")) == 1
        assert flow.numbers("data/b") == [0, 1, 2]
        flow.broker.puback = refusing()
        await asyncio.sleep(60)
        assert flow.numbers("data/a") == [1]


@pytest.mark.parametrize("reason", [0x80, 0x83, 0x97])
async def test_what_a_broker_cannot_take_now_is_kept_and_taken_later(tmp_path: Path, reason: int) -> None:
    """Every third is refused for 20 s; all come, none is a dead letter, and what was overtaken is named."""
    refuse = True
    count = 0

    def puback(topic: str) -> int:
        nonlocal count
        count += topic.endswith("data/n")
        return reason if refuse and topic.endswith("data/n") and count % 3 == 0 else 0

    flow = Flow(tmp_path, FakeBroker(puback=puback))
    async with flow.running():
        await online(flow)
        for n in range(30):
            flow.put(n)
        await asyncio.sleep(20)
        refuse = False
        await asyncio.sleep(120)
        numbers = flow.numbers()
        assert sorted(numbers) == list(range(30))
        assert numbers != sorted(numbers)
        late = {seq for one in flow.said("late") for note in one for seq in range(note["first"], note["last"] + 1)}
        highest = 0
        for event in flow.events("data/"):
            seq = int(event["sequence"])
            assert seq > highest or seq in late
            highest = max(highest, seq)
        assert flow.outbox.state.dead == 0
        assert flow.outbox.measure().settled["o1-normal"] == 30


async def test_what_was_put_off_is_named_even_if_the_connection_ends_before_it_goes_again(tmp_path: Path) -> None:
    """The first of two is refused, the second taken, then the connection ends: now the first comes after it."""
    refused: list[str] = []

    def puback(topic: str) -> int:
        if topic.endswith("data/a") and not refused:
            refused.append(topic)
            return 0x97
        return 0

    flow = Flow(tmp_path, FakeBroker(puback=puback))
    async with flow.running():
        await online(flow)
        flow.put(1, "data/a")
        flow.put(2, "data/b")
        await asyncio.sleep(0.5)
        flow.broker.cut()
        await asyncio.sleep(60)
        assert flow.numbers() == [2, 1]
        ((note,),) = flow.said("late")
        assert note["first"] <= 1 <= note["last"]


@pytest.mark.parametrize("reason", [0x90, 0x95, 0x99])
async def test_what_no_broker_will_take_becomes_a_dead_letter_and_is_named(tmp_path: Path, reason: int) -> None:
    """The next ones flow; the number is settled once the event that names it is delivered."""
    flow = Flow(tmp_path, FakeBroker(puback=refusing("data/bad", reason=reason)))
    async with flow.running():
        await online(flow)
        flow.put(1)
        bad = flow.outbox.durable(flow.put(2, "data/bad"))
        flow.put(3)
        assert await asyncio.wait_for(bad, 1) == "o1-normal.2"
        assert flow.outbox.measure().settled["o1-normal"] == 1
        await asyncio.sleep(15)
        assert flow.numbers() == [1, 3]
        assert flow.said("gaps") == [
            [{"stream": "o1-normal", "first": 2, "last": 2, "count": 1, "reason": "dead_letter"}]
        ]
        letters = await flow.keeping.read(lambda store: store.dead_letters())
        assert letters is not None
        assert [(letter.reason, letter.record.seq, json.loads(letter.record.body)) for letter in letters] == [
            (reason, 2, {"n": 2})
        ]
        await asyncio.sleep(2)
        assert flow.outbox.measure().settled["o1-normal"] == 3
        assert flow.outbox.measure().dropped == 1


async def test_what_is_larger_than_the_broker_takes_is_not_even_sent(tmp_path: Path) -> None:
    """The CONNACK has said so."""
    flow = Flow(tmp_path, FakeBroker(limits=Limits(maximum_packet_size=2000)))
    async with flow.running():
        await online(flow)
        flow.put(1, padding=3000)
        flow.put(2)
        await asyncio.sleep(15)
        assert flow.numbers() == [2]
        assert flow.outbox.state.dead == 1
        assert [gap["reason"] for (gap,) in flow.said("gaps")] == ["dead_letter"]


# ---------------------------------------------------------------- poison
def closing_over(word: bytes) -> Callable[[Any], bool]:
    """Return a broker's rule that closes the connection over a word in the payload."""
    return lambda message: word in message.payload


@pytest.mark.parametrize("urgent_every_s", [None, 0.5])
async def test_a_record_over_which_the_broker_closes_the_connection_is_found_and_the_others_flow(
    tmp_path: Path, urgent_every_s: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Also while something more urgent is accepted on every connection before; no other client is suspected for it."""
    flow = Flow(tmp_path, FakeBroker(closes_on=closing_over(b'"n": 66,')))
    async with flow.running():
        await online(flow)
        for n in (1, 2):
            flow.put(n)
        flow.put(66, padding=1)
        for n in (3, 4, 5):
            flow.put(n)
        for n in range(600):
            if urgent_every_s is not None:
                flow.put(n, "data/urgent", priority=Priority.CRITICAL)
            await asyncio.sleep(0.5)
        assert flow.numbers("data/n") == [1, 2, 3, 4, 5]
        assert "client_id_taken_over" not in caplog.messages
        letters = await flow.keeping.read(lambda store: store.dead_letters())
        assert letters is not None
        assert [(letter.reason, letter.record.seq) for letter in letters] == [(0, 3)]
        assert [gap["reason"] for (gap,) in flow.said("gaps")] == ["dead_letter"]
        assert flow.outbox.measure().settled["o1-normal"] == 6


async def test_a_channel_over_which_the_broker_closes_the_connection_is_held(tmp_path: Path) -> None:
    """One dead letter at most, not one of each record."""
    flow = Flow(tmp_path, FakeBroker(closes_on=lambda message: message.topic.endswith("data/bad")))
    async with flow.running():
        await online(flow)
        for n in range(50):
            flow.put(n, "data/bad" if n % 2 else "data/n")
        await asyncio.sleep(300)
        assert flow.numbers("data/n") == list(range(0, 50, 2))
        assert flow.outbox.state.dead == 1
        assert flow.pauses.channels() == ["data/bad"]
        flow.broker.closes_on = lambda _message: False
        await asyncio.sleep(1800)
        assert flow.numbers("data/bad") == list(range(3, 50, 2))


async def test_a_link_that_breaks_between_answers_buries_nothing(tmp_path: Path) -> None:
    """Twenty connections that end with something in flight, but each makes progress."""
    flow = Flow(tmp_path, FakeBroker(up=False))
    left = 0

    def puback(topic: str) -> int | None:
        nonlocal left
        if not topic.endswith("data/n"):
            return 0
        left -= 1
        return 0 if left >= 0 else None

    flow.broker.puback = puback
    async with flow.running():
        for n in range(60):
            flow.put(n)
        flow.broker.up = True
        for _ in range(20):
            left = 3
            await online(flow)
            await asyncio.sleep(40)  # or it looks as if another client used the same name
            flow.broker.cut()
            await asyncio.sleep(0.01)
        assert flow.numbers() == list(range(60))
        assert flow.outbox.state.dead == 0


# ---------------------------------------------------------------- batches
async def test_a_message_of_many_is_an_array_of_one_channel_of_bounded_size(tmp_path: Path) -> None:
    """The content type says so; order is kept."""
    flow = Flow(tmp_path, FakeBroker(up=False), batch=50)
    async with flow.running():
        for n in range(400):
            flow.put(n, "data/a" if n < 200 else f"data/{'ab'[n % 2]}", padding=1000 if n >= 300 else 0)
        flow.broker.up = True
        await online(flow)
        await asyncio.sleep(5)
        sizes: list[int] = []
        for message in flow.messages("data/"):
            assert message.content_type == BATCH_CONTENT_TYPE
            events = orjson.loads(message.payload)
            assert {f"edge/dev-1/up/data/{event['subject']}" for event in events} == {message.topic}
            assert sum(len(orjson.dumps(event["data"])) for event in events) <= BATCH_BYTES
            sizes.append(len(events))
        assert sizes[:4] == [50] * 4
        assert flow.numbers() == list(range(400))


async def test_a_refused_array_is_taken_apart(tmp_path: Path) -> None:
    """Only the record that is meant is buried, and the others are not out of order without a word."""
    broker = FakeBroker(up=False)
    flow = Flow(tmp_path, broker, batch=10)
    bad = closing_over(b'"n":13}')
    broker.verdict = lambda message: 0x99 if bad(message) else 0
    async with flow.running():
        for n in range(100):
            flow.outbox.put(Submission("data/n", orjson.dumps({"n": n})))
        broker.up = True
        await online(flow)
        await asyncio.sleep(30)
        assert sorted(flow.numbers()) == [n for n in range(100) if n != 13]
        assert flow.outbox.state.dead == 1
        late = {seq for one in flow.said("late") for note in one for seq in range(note["first"], note["last"] + 1)}
        highest = 0
        for event in flow.events("data/"):
            seq = int(event["sequence"])
            assert seq > highest or seq in late
            highest = max(highest, seq)


# ---------------------------------------------------------------- pace
async def test_a_backlog_goes_out_at_the_configured_rate(tmp_path: Path) -> None:
    """80 +- 5 a second over a minute, with nothing being put."""
    flow = Flow(tmp_path, FakeBroker(up=False), rate=80)
    async with flow.running():
        for n in range(10_000):
            flow.put(n)
        flow.broker.up = True
        await online(flow)
        await asyncio.sleep(30)
        before = len(flow.broker.log)
        await asyncio.sleep(60)
        assert 75 * 60 <= len(flow.broker.log) - before <= 85 * 60


async def test_a_backlog_starts_slowly_somewhere_in_the_first_five_seconds(tmp_path: Path) -> None:
    """Nothing for 2.5 s, then a tenth of the rate, doubled every 5 s."""
    flow = Flow(tmp_path, FakeBroker(up=False), rate=80, uniform=0.5)
    async with flow.running():
        for n in range(3000):
            flow.put(n)
        flow.broker.up = True
        await online(flow)
        counts = []
        await asyncio.sleep(2.4)
        counts.append(len(flow.numbers()))
        await asyncio.sleep(0.1)
        for _ in range(5):
            before = len(flow.numbers())
            await asyncio.sleep(5)
            counts.append(len(flow.numbers()) - before)
        assert counts[0] == 0
        for count, expected in zip(counts[1:], (40, 80, 160, 320, 400), strict=True):
            assert abs(count - expected) <= 21


async def test_new_records_and_critical_ones_are_not_slowed_down(tmp_path: Path) -> None:
    """50 a second on top of a rate of 5; and without a backlog each leaves at once."""
    flow = Flow(tmp_path, rate=5)
    async with flow.running():
        await online(flow)
        for n in range(500):
            flow.put(n)
            await asyncio.sleep(0.02)
            assert len(flow.numbers()) == n + 1
        flow.broker.crash()
        await asyncio.sleep(1)
        for n in range(1000):
            flow.put(n, "data/old")
        flow.put(0, "data/urgent", priority=Priority.CRITICAL)
        flow.broker.up = True
        await online(flow)
        await asyncio.sleep(0.1)
        assert flow.numbers("data/urgent") == [0]
        before = len(flow.numbers("data/old"))
        for n in range(500):
            flow.put(n, "data/new")
            await asyncio.sleep(0.02)
        assert 500 <= len(flow.numbers("data/old")) - before <= 500 + 5 * 10 + 1


# ---------------------------------------------------------------- the latest of a channel
async def test_a_newer_one_takes_the_number_of_the_unsent_one_alone(tmp_path: Path) -> None:
    """What was sent, perhaps in vain, is not replaced: a consumer may have it."""
    flow = Flow(tmp_path, FakeBroker())
    async with flow.running():
        await online(flow)
        flow.broker.mute = True
        flow.put(1, latest=True)
        await asyncio.sleep(2)
        assert flow.numbers() == [1]
        flow.broker.mute = False
        flow.broker.crash()
        await asyncio.sleep(0.1)
        for n in (2, 3, 4):
            assert flow.put(n, latest=True).seq == 2
            await asyncio.sleep(1)
        flow.put(5, "data/other", latest=True)
        flow.broker.up = True
        await online(flow)
        await asyncio.sleep(5)
        assert [(event["id"], event["data"]["n"]) for event in flow.events("data/")[1:]] == [
            ("o1-normal.1", 1),
            ("o1-normal.2", 4),
            ("o1-normal.3", 5),
        ]
        assert flow.outbox.measure().records == 0


async def test_the_replaced_form_of_a_stored_record_never_comes(tmp_path: Path) -> None:
    """Stored, replaced, and the newer form acknowledged before it is written: the older one must go with it."""
    flow = Flow(tmp_path, FakeBroker(up=False), commit="10s", rate=10, uniform=0.5)
    async with flow.running():
        flow.put(1, latest=True)
        await asyncio.sleep(1)
        flow.broker.up = True
        await online(flow)
        flow.put(2, latest=True)  # held back by the pace for some seconds, but not for the commit's ten
        await asyncio.sleep(8)
        assert flow.numbers() == [2]
        await asyncio.sleep(3)
        flow.broker.cut()
        await asyncio.sleep(120)
        assert flow.numbers() == [2]
        assert flow.outbox.measure().records == 0


# ---------------------------------------------------------------- disk and receipts
async def test_always_is_on_the_disk_before_it_is_sent(tmp_path: Path) -> None:
    """Seen with a store that stalls."""
    flow = Flow(tmp_path)
    async with flow.running():
        await online(flow)
        flow.put(0)
        await asyncio.sleep(3)
        with flow.worker.stalled():
            receipt = flow.outbox.durable(flow.put(1, always=True))
            await asyncio.sleep(5)
            assert flow.numbers() == [0]
            assert not receipt.done()
        await asyncio.sleep(0.1)
        assert flow.numbers() == [0, 1]
        assert any(record.always for batch in flow.keeping.batches for record in batch.records)


async def test_always_waits_for_a_disk_that_was_full_and_can_be_written_again(tmp_path: Path) -> None:
    """What is wrong with it may still be told while it works; when it does not, nothing waits for it."""
    flow = Flow(tmp_path)
    async with flow.running():
        await online(flow)
        flow.put(0)
        await asyncio.sleep(3)
        flow.keeping.fault = StoreFault.FULL
        with flow.worker.stalled():
            flow.put(1, always=True)
            await asyncio.sleep(1)
            assert flow.numbers() == [0]
        await asyncio.sleep(0.1)
        assert flow.numbers() == [0, 1]
        flow.keeping.fails = True
        flow.put(2, always=True)
        await asyncio.sleep(0.1)
        assert flow.numbers() == [0, 1, 2]


async def test_online_a_receipt_comes_with_the_puback_and_nothing_is_written(tmp_path: Path) -> None:
    """After the first record of a run, for which numbers are reserved."""
    flow = Flow(tmp_path)
    async with flow.running():
        await online(flow)
        await flow.outbox.durable(flow.put(0))
        await asyncio.sleep(3)
        flow.keeping.batches.clear()
        for n in range(1, 1000):
            assert await asyncio.wait_for(flow.outbox.durable(flow.put(n)), 0.1) == f"o1-normal.{n + 1}"
        await asyncio.sleep(10)
        assert flow.keeping.batches == []


async def test_a_dead_letter_does_not_make_the_next_record_be_written(tmp_path: Path) -> None:
    """What had to be written at once was the letter."""
    flow = Flow(tmp_path, FakeBroker(puback=refusing("data/bad", reason=0x99)))
    async with flow.running():
        await online(flow)
        flow.put(0, "data/bad")
        await asyncio.sleep(15)
        flow.keeping.batches.clear()
        flow.put(1)
        await asyncio.sleep(5)
        assert flow.numbers("data/n") == [1]
        assert flow.keeping.batches == []


async def test_offline_a_receipt_comes_with_the_disk_at_once(tmp_path: Path) -> None:
    """And many are written together."""
    flow = Flow(tmp_path, FakeBroker(up=False))
    async with flow.running():
        receipts = [flow.outbox.durable(flow.put(n)) for n in range(100)]
        assert await asyncio.wait_for(asyncio.gather(*receipts), 0.01)
        assert len(flow.keeping.batches) <= 2
        assert stored(flow) == 100


async def test_online_what_is_not_acknowledged_in_time_goes_to_the_disk(tmp_path: Path) -> None:
    """Within ``commit``."""
    flow = Flow(tmp_path, commit="2s")
    async with flow.running():
        await online(flow)
        flow.broker.mute = True
        begun = asyncio.get_running_loop().time()
        await flow.outbox.durable(flow.put(1))
        assert asyncio.get_running_loop().time() - begun == pytest.approx(2, abs=0.1)


async def test_a_stop_sends_what_is_there_and_keeps_what_is_not_acknowledged(tmp_path: Path) -> None:
    """The first goes out on the way, the second waits on the disk; the stop was a clean one."""
    flow = Flow(tmp_path)
    async with flow.running():
        await online(flow)
        flow.put(0, priority=Priority.NORMAL)
        await asyncio.sleep(1)
        flow.put(1)
    assert flow.numbers() == [0, 1]
    flow.broker.mute = False
    second = Flow(tmp_path, flow.broker)
    async with second.running():
        await online(second)
        second.broker.mute = True
        second.put(2)
        await asyncio.sleep(0)
    flow.broker.mute = False
    third = Flow(tmp_path, flow.broker)
    async with third.running():
        await online(third)
        await asyncio.sleep(15)
        assert [event["id"] for event in third.events("data/")] == [f"o1-normal.{seq}" for seq in (1, 2, 3, 3)]
        assert third.said("gaps") == []
        assert third.outbox.measure().records == 0


async def test_who_waits_for_a_record_that_memory_has_no_room_for_is_told(tmp_path: Path) -> None:
    """The disk fails and memory is full: the oldest of the lowest priority goes, and the others stay."""
    tmp_path.joinpath("file").write_text("")
    flow = Flow(tmp_path / "file" / "store", FakeBroker(up=False))
    async with flow.running():
        first = flow.outbox.durable(flow.put(0, padding=100_000))
        for n in range(1, 10):
            flow.put(n, padding=100_000)
        gone_meanwhile = flow.outbox.durable(flow.put(10, padding=1000))
        gone_meanwhile.cancel()
        for n in range(11, 25):
            flow.put(n, padding=100_000)
        with pytest.raises(OutboxError, match="memory is full"):
            await first
        assert flow.outbox.measure().dropped >= 10
        flow.broker.up = True
        await online(flow)
        await asyncio.sleep(15)
        came = flow.numbers()
        assert came == list(range(25 - len(came), 25))
        assert len(came) >= 9
