"""The whole agent, real brokers, and what befalls both: nothing that was confirmed is lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from edge_agent.core.connection import ProtocolVersion
from edge_agent.core.verification import Report
from tests.support.agents import HEALTH, HEARTBEAT, AgentProcess, agent, config_text, observer
from tests.support.brokers import free_port, mosquitto
from tests.support.delay_proxy import delay_proxy
from tests.support.feeding import Consumer, Feeder, consumer
from tests.support.netns import namespace
from tests.support.scripted_broker import Personality, ScriptedBroker

pytestmark = pytest.mark.broker
UNLIMITED = "[outbox]\nrate = 0\n"
PATIENT = ("max_queued_messages 0",)  # or mosquitto drops what a consumer has not taken beyond 1,000 messages


def socket_of(tmp_path: Path) -> Path:
    """Return where the agent of this test listens."""
    return tmp_path / "control.sock"


async def stop(process: AgentProcess) -> None:
    """End it gracefully."""
    process.signal(signal.SIGTERM)
    assert await process.wait() == 0


def dead_letters(tmp_path: Path) -> list[tuple[int, str]]:
    """Return the reason code and channel of each dead letter of an agent that was stopped."""
    with contextlib.closing(sqlite3.connect(tmp_path / "state" / "outbox.db")) as db:
        return list(db.execute("SELECT reason, channel FROM dead ORDER BY id"))


def assert_all_came(feeder: Feeder, seen: Consumer, report: Report) -> None:
    """Everything that was confirmed is there, and a consumer finds nothing wrong."""
    assert not feeder.refused
    assert not set(feeder.confirmed.values()) - seen.came
    assert report.ok, report


# ---------------------------------------------------------------- outages
@pytest.mark.parametrize(
    ("every_s", "for_s"),
    [
        pytest.param(6, 15, marks=pytest.mark.timeout_s(90)),
        pytest.param(10, 600, marks=[pytest.mark.slow, pytest.mark.timeout_s(700)]),
    ],
)
async def test_a_broker_that_restarts_again_and_again_costs_no_record(
    every_s: float, for_s: float, tmp_path: Path
) -> None:
    """100 records a second: 0 lost, flowing again within 5 s, repeats at most a window per restart."""
    restarts, waits = 0, []
    async with (
        mosquitto(tmp_path, config_lines=PATIENT) as broker,
        agent(tmp_path, config_text(broker.url, extra=UNLIMITED)),
        consumer(broker.url) as seen,
    ):
        feeder = Feeder(socket_of(tmp_path))
        feeding = asyncio.get_running_loop().create_task(feeder.put(int(for_s * 100), every_s=0.01))
        while not feeding.done():
            await asyncio.wait((feeding,), timeout=every_s)
            if not feeding.done():
                await broker.stop()
                await broker.start()
                restarts += 1
                back = time.monotonic()
                async with asyncio.timeout(15):
                    while (first := seen.first_after(back)) is None:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
                waits.append(first - back)
        await feeding
        report = await seen.until_settled(len(feeder.confirmed))
        assert_all_came(feeder, seen, report)
        assert len(feeder.confirmed) == for_s * 100
        repeats = sum(stream.duplicates for stream in report.streams)
        print(f"{restarts} restarts, flowing again after {max(waits):.1f} s at most, {repeats} repeats")
        assert max(waits) <= 5
        assert repeats <= 100 * restarts


@pytest.mark.root
@pytest.mark.timeout_s(90)
async def test_a_link_that_falls_silent_under_load_is_noticed_and_costs_no_record(tmp_path: Path) -> None:
    """At most 25 s while records are put; all come once it is healed."""
    with namespace() as space:
        port = free_port()
        url = f"mqtt://{space.outside}:{port}"
        text = config_text(url, keepalive="30s", extra=UNLIMITED)
        async with (
            mosquitto(tmp_path, host=space.outside, port=port, config_lines=PATIENT),
            consumer(url) as seen,
            agent(tmp_path, text, prefix=space.prefix) as process,
        ):
            feeder = Feeder(socket_of(tmp_path))
            await feeder.put(50)
            feeding = asyncio.get_running_loop().create_task(feeder.put(2700, every_s=0.01))
            space.cut()
            cut = time.monotonic()
            await process.logged("disconnected", within_s=30)
            noticed = time.monotonic() - cut
            await feeding
            space.heal()
            report = await seen.until_settled(len(feeder.confirmed), within_s=60)
            assert_all_came(feeder, seen, report)
            print(f"noticed after {noticed:.1f} s")
            assert noticed <= 25


# ---------------------------------------------------------------- the process dies
@pytest.mark.parametrize("online", [True, False])
@pytest.mark.timeout_s(90)
async def test_a_kill_loses_nothing_that_was_confirmed_and_names_what_nobody_knows(
    *, online: bool, tmp_path: Path
) -> None:
    """Five kills at any moment of a stream of records; the restarted agent names ``unclean_stop`` ranges."""
    rng = random.Random(1)  # noqa: S311  # no secret
    async with mosquitto(tmp_path, config_lines=PATIENT) as broker, consumer(broker.url) as seen:
        feeder = Feeder(socket_of(tmp_path))
        async with agent(tmp_path, config_text(broker.url, extra=UNLIMITED)) as process:
            for _ in range(5):
                await feeder.put(10)
                if not online:
                    await broker.stop()
                feeding = asyncio.get_running_loop().create_task(feeder.put(5000, every_s=0.001))
                await asyncio.sleep(rng.uniform(0.2, 1.5))
                process.signal(signal.SIGKILL)
                await process.wait()
                with contextlib.suppress(ConnectionError):
                    await feeding
                process.start()
                if not online:
                    await broker.start()
            await feeder.put(10)
            report = await seen.until_settled(len(feeder.confirmed), within_s=60)
            assert len(feeder.confirmed) > 100  # those that are waited for, and as many of the streams
            assert_all_came(feeder, seen, report)
            assert {gap["reason"] for gap in seen.gaps()} == {"unclean_stop"}


# ---------------------------------------------------------------- refusals
async def test_what_mosquitto_forbids_is_held_said_and_sent_once_it_is_allowed(tmp_path: Path) -> None:
    """An access list with a mistake in it, corrected later; the others flow meanwhile."""
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite edge/#\ntopic deny edge/dev-1/up/data/secret\n")
    async with mosquitto(tmp_path, config_lines=[f"acl_file {acl}"]) as broker, observer(broker.url) as seen:
        text = config_text(broker.url, extra=UNLIMITED)
        async with agent(tmp_path, text) as process:
            feeder = Feeder(socket_of(tmp_path))
            await feeder.put(10, channel="data/secret")
            await feeder.put(10)
            await seen.wait("edge/dev-1/up/data/n", count=10)
            assert not feeder.refused
            held = await seen.wait("edge/dev-1/up/event/outbox")
            assert held.data["held"] | {"stream": ""} == {
                "stream": "",
                "topic": "data/secret",
                "first": 1,
                "reason": 0x87,
            }
            await seen.until(
                lambda: [h for h in seen.on(HEALTH) if "channel_refused: data/secret" in h.data["reasons"]]
            )
            assert process.events("channel_refused")
            acl.write_text("topic readwrite edge/#\n")
            await stop(process)
            await broker.stop()
            await broker.start()
        assert dead_letters(tmp_path) == []
        async with observer(broker.url) as again, agent(tmp_path, text):
            await again.wait("edge/dev-1/up/data/secret", count=10)
            assert [one.data["n"] for one in again.on("edge/dev-1/up/data/secret")] == list(range(1, 11))


async def test_what_a_broker_has_no_quota_for_is_sent_again(tmp_path: Path) -> None:
    """Every tenth is answered with 0x97; all come, none is dead."""

    def puback(topic: str, n: int) -> int:
        return 0x97 if topic.endswith("data/n") and n % 10 == 0 else 0

    async with ScriptedBroker(Personality(puback=puback)) as broker:  # noqa: SIM117  # it outlives the agent
        async with agent(tmp_path, config_text(broker.url, extra=UNLIMITED)) as process, consumer(broker.url) as seen:
            feeder = Feeder(socket_of(tmp_path))
            await feeder.put(50)
            report = await seen.until_settled(50)
            assert_all_came(feeder, seen, report)
            await stop(process)
    assert dead_letters(tmp_path) == []


@pytest.mark.parametrize("protocol", [5, 4])
@pytest.mark.timeout_s(120)
async def test_a_record_that_is_too_large_for_the_broker_is_put_aside_and_the_others_flow(
    protocol: ProtocolVersion, tmp_path: Path
) -> None:
    """With MQTT 5 the broker has said so before; with 3.1.1 it just closes the connection, each time."""
    async with mosquitto(tmp_path, config_lines=["max_packet_size 4000"]) as broker, consumer(broker.url) as seen:
        text = config_text(broker.url, protocol=protocol, reconnect_max="2s", extra=UNLIMITED)
        async with agent(tmp_path, text.replace(f'protocol = "{protocol}"', f"protocol = {protocol}")) as process:
            feeder = Feeder(socket_of(tmp_path))
            await feeder.put(10)
            await feeder.put(1, padding=10_000, channel="data/large")
            begun = time.monotonic()
            await feeder.put(10)
            report = await seen.until_settled(20, within_s=100)
            took = seen.seen[-1][0] - begun
            others = max(at for at, topic, _ in seen.seen if topic.endswith("data/n")) - begun
            print(f"MQTT {protocol}: the others after {others:.1f} s, all settled after {took:.1f} s")
            assert others <= 60
            assert report.ok
            assert [gap["reason"] for gap in seen.gaps()] == ["dead_letter"]
            await stop(process)
    assert dead_letters(tmp_path) == [(0x95 if protocol == 5 else 0, "data/large")]


@pytest.mark.parametrize(("maximum", "most"), [(1, 1), (5, 5), (65535, 100)])
async def test_a_broker_s_receive_maximum_is_used_and_never_exceeded(maximum: int, most: int, tmp_path: Path) -> None:
    """A backlog presses against it, for a broker takes its time with each answer."""
    knobs = Personality(receive_maximum=maximum, enforce_receive_maximum=True, puback_delay_s=0.01 * most)
    async with ScriptedBroker(knobs) as broker:
        await broker.stop_listening()
        async with agent(tmp_path, config_text(broker.url, extra=UNLIMITED)):
            feeder = Feeder(socket_of(tmp_path))
            await feeder.put(300)
            await broker.listen_again()
            await broker.wait_for(lambda: len(broker.published("edge/dev-1/up/data/n")) >= 300)
            assert broker.max_unacknowledged == most
            assert len(broker.connections) == 1
            assert not broker.errors


# ---------------------------------------------------------------- amounts
@pytest.mark.timeout_s(90)
async def test_what_does_not_fit_is_named_exactly_and_nothing_critical_is_among_it(tmp_path: Path) -> None:
    """Ten times what there is room for, while offline; the file stays within its bounds."""
    quota = 256 * 1024
    limits = f'[outbox]\nrate = 0\nmax_bytes = "{quota // 1024}KiB"\nmax_record = "8KiB"\n'
    async with mosquitto(tmp_path, config_lines=PATIENT) as broker, consumer(broker.url) as seen:
        await broker.stop()
        async with agent(tmp_path, config_text(broker.url, extra=limits)):
            feeder = Feeder(socket_of(tmp_path))
            await feeder.put(1)
            for round_ in range(10):
                for priority, count in (("bulk", 120), ("normal", 120), ("critical", 5)):
                    await feeder.put(count, padding=1000, priority=priority)
                size = (tmp_path / "state" / "outbox.db").stat().st_size
                assert size <= quota * 1.25 + (4 << 20), round_
            await broker.start()
            report = await seen.until_settled(50, within_s=60)
            assert not feeder.refused
            came = seen.came
            named = {f"{gap['stream']}.{seq}" for gap in seen.gaps() for seq in range(gap["first"], gap["last"] + 1)}
            assert set(feeder.confirmed.values()) - came == named
            assert not named & came
            assert not [one for one in named if "critical" in one]
            assert {gap["reason"] for gap in seen.gaps()} == {"full"}
            assert all(gap["count"] == gap["last"] - gap["first"] + 1 for gap in seen.gaps())
            assert report.ok
            assert len(came) >= 0.5 * quota / 1100


@pytest.mark.parametrize(
    ("count", "least"),
    [(1500, 0), pytest.param(6000, 1200, marks=pytest.mark.slow)],  # a rate is judged where nothing else runs
)
@pytest.mark.timeout_s(90)
async def test_a_backlog_fills_the_window_over_a_long_way(count: int, least: int, tmp_path: Path) -> None:
    """50 ms round trip, a window of 100: of the 2,000 a second that are possible at least 1,200; all come in order."""
    lines = ["max_inflight_messages 100", "set_tcp_nodelay true", "max_queued_messages 0"]
    async with mosquitto(tmp_path, config_lines=lines) as broker, delay_proxy(broker.port, 25) as port:
        await broker.stop()
        async with agent(tmp_path, config_text(f"mqtt://127.0.0.1:{port}", extra=UNLIMITED)):
            feeder = Feeder(socket_of(tmp_path))
            await feeder.put(count)
            await broker.start()
            async with consumer(broker.url) as seen:
                report = await seen.until_settled(count, within_s=60)
                times = [at for at, topic, _ in seen.seen if topic.endswith("data/n")]
                rate = len(times) / (times[-1] - times[0])
                print(f"{rate:.0f} records a second")
                assert report.ok
                assert rate >= least


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(1500, marks=pytest.mark.timeout_s(90)),
        pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout_s(300)]),
    ],
)
async def test_a_backlog_at_the_default_rate_overruns_no_slow_subscriber(count: int, tmp_path: Path) -> None:
    """By default mosquitto drops what a subscriber has not taken beyond 1,000 messages; this one is slow."""
    async with mosquitto(tmp_path) as broker:
        await broker.stop()
        async with agent(tmp_path, config_text(broker.url, every="10s")):
            feeder = Feeder(socket_of(tmp_path))
            await feeder.put(count)
            await broker.start()
            async with consumer(broker.url, slow_s=0.01) as seen:
                report = await seen.until_settled(count, within_s=count / 75 + 40)
                assert_all_came(feeder, seen, report)
                times = [at for at, topic, _ in seen.seen if topic.endswith("data/n")]
                print(f"{count / (times[-1] - times[0]):.0f} records a second")
                assert HEARTBEAT in {topic for _, topic, _ in seen.seen}
