"""Bad commands without end: none is obeyed, few are answered, nothing grows, and a good one in between is obeyed."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import signal
import sqlite3
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.agents import DEVICE, HEARTBEAT, agent
from tests.support.brokers import mosquitto
from tests.support.commanding import Effects, Operator, acknowledged, device_text, known_time, operator
from tests.support.tokens import Key

pytestmark = pytest.mark.broker
EVERY_S: Final = 0.2
BATCH: Final = 100
Bad = tuple[str, bytes, dict[str, Any]]
"""A command, its payload, and how it is sent."""

GARBAGE: Final = (
    b"",
    b"{",
    b"null",
    b"[" * 30_000,
    b'{"id":' * 5_000,
    b"\x00" * 1000,
    b"\xff\xfe{}",
    b'{"id": 1e999}',
    b'{"id": "\\ud800"}',
    b'{"args": {"before_ms": 123456789012345678901234567890}}',
    b'{"ttl": "99999999999999999999d"}',
    b"eyJhbGciOiJFZERTQSJ9.e30.AAAA",
    b"e" * 60_000,
    b"e30.e30.",
)


def plain(past: str) -> Iterator[Bad]:
    """Yield bad commands without end for a device that has no keys: a hundredth of them is too large."""
    stranger = Key("ops")
    number = 0
    while True:
        name = f"f-{(number := number + 1)}"
        said = json.dumps({"id": name}).encode()
        yield "append", said, {"retain": True}
        yield "append", GARBAGE[number % len(GARBAGE)] or b"{", {}
        yield "append", json.dumps({"id": name, "expires": past}).encode(), {}
        yield "append", json.dumps({"id": name, "args": {"x": number}}).encode(), {}
        yield f"no-such-{number % 100}", said, {}
        yield "fail", said, {}
        yield "append", said, {"mqtt": {"ResponseTopic": "answers/x", "CorrelationData": said}, "retain": True}
        if number % 100 == 0:
            yield "append", b"x" * (70_000 if number % 200 else 300_000), {}
            yield "append", stranger.token({"jti": name, "cmd": "append", "aud": DEVICE, "exp": 1}), {}


def signed(key: Key) -> Iterator[Bad]:
    """Yield bad commands without end for a device that obeys only what its key has signed."""
    now = round(time.time())
    good = {"aud": DEVICE, "exp": now + 3600, "cmd": "append"}
    stranger = Key("ops")
    forged = [stranger.token(good | {"jti": f"f-{n}"}) for n in range(300)]
    expired = [key.token(good | {"jti": f"e-{n}", "exp": now - 60}) for n in range(300)]
    unknown = [key.token(good | {"jti": f"u-{n}", "cmd": "no-such"}) for n in range(300)]
    wrong = [key.token(good | {"jti": f"w-{n}", "args": {"x": n}}) for n in range(300)]
    torn = [token[: n - 350] for n, token in enumerate(forged)]
    number = 0
    while True:
        number += 1
        for command, tokens in (("append", forged), ("append", expired), ("append", wrong), ("append", torn)):
            yield command, tokens[number % 300], {"retain": number % 7 == 0 and tokens is forged}
        yield "no-such", unknown[number % 300], {}
        yield "append", GARBAGE[number % len(GARBAGE)], {}
        yield "append", json.dumps({"id": f"f-{number}"}).encode(), {}


async def flood(one: Operator, bad: Iterator[Bad], count: int, good: Callable[[int], bytes]) -> list[str]:
    """Send so many bad commands, and a good one after each hundred of them; return the ids of those.

    No more is sent than the device can take: a broker that does not mind the device's Receive Maximum (mosquitto
    2.0.11) would send it all at once, and whatever it then answers, also to heartbeats, stands in line behind that.
    """
    ids: list[str] = []
    for number in range(0, count, BATCH):
        for command, payload, how in itertools.islice(bad, BATCH):
            _ = one.send(command, payload, **how)
        ids.append(f"good-{number}")
        _ = one.send("append", good(number))
        if len(ids) > 1:
            _ = await one.final(ids[-2], within_s=60)
    _ = await one.final(ids[-1], within_s=60)
    return ids


def beats(one: Operator) -> list[tuple[float, dict[str, Any]]]:
    """Return the heartbeats so far, with when they came."""
    return [(at, json.loads(payload)) for at, topic, payload in one.other if topic == HEARTBEAT]


def lateness(begun: float, ended: float, came: list[float]) -> list[float]:
    """Return by how many seconds each heartbeat of a span is late; one that never came, until the next one."""
    before = [at for at in came if at < begun]
    phase = min(at - number * EVERY_S for number, at in enumerate(before))
    grid = [phase + number * EVERY_S for number in range(math.ceil((ended - phase) / EVERY_S))]
    due = [at for at in grid if at >= begun]
    return [max(came[bisect_left(came, at - EVERY_S / 4)] - at, 0) for at in due if at <= came[-1]]


@pytest.mark.parametrize("keys", [False, True])
@pytest.mark.parametrize(
    "count",
    [
        pytest.param(1_500, marks=pytest.mark.timeout_s(120)),
        pytest.param(50_000, marks=[pytest.mark.slow, pytest.mark.timeout_s(900)]),
    ],
)
async def test_a_flood_of_bad_commands_costs_neither_memory_nor_heartbeats_nor_a_good_command(
    count: int, *, keys: bool, tmp_path: Path
) -> None:
    """Retained, oversized, malformed, unsigned, wrongly signed, expired, unknown, not allowed."""
    effects, key = Effects(tmp_path), Key("ops")
    section = f'[commands.keys.ops]\npublic = "{key.public}"' if keys else ""
    bad = signed(key) if keys else plain((datetime.now(UTC) - timedelta(hours=1)).isoformat())
    exp = round(time.time()) + 3600

    def good(number: int) -> bytes:
        claims = {"jti": f"good-{number}", "aud": DEVICE, "exp": exp, "cmd": "append"}
        return key.token(claims) if keys else json.dumps({"id": f"good-{number}"}).encode()

    async with mosquitto(tmp_path, config_lines=("max_queued_messages 0", "max_inflight_messages 1000")) as broker:
        text = device_text(
            broker.url, allow=["append"], commands=section, extra=known_time(tmp_path), every=f"{EVERY_S * 1000:.0f}ms"
        )
        async with agent(tmp_path, text, **effects.environ) as process, operator(broker.url) as one:
            await one.until(lambda: len(beats(one)) > 12, "heartbeats", within_s=20)
            begun, rss_before = time.monotonic(), beats(one)[-1][1]["data"]["agent"]["rss_bytes"]
            ids = await flood(one, bad, count, good)
            ended = time.monotonic()
            assert sorted(effects()) == sorted(ids)
            refused = [reply for reply in one.replies if reply.state in ("rejected", "expired")]
            assert len(one.finals(ids[-1])) == 1
            rss = [beat["data"]["agent"]["rss_bytes"] for at, beat in beats(one) if at >= begun]
            _ = await one.until(lambda: beats(one)[-1][0] > ended, "a heartbeat after it")
            process.signal(signal.SIGTERM)
            assert await process.wait(30) == 0
            assert not process.events("disconnected")
            late = sorted(lateness(begun, ended, [at for at, _ in beats(one)]))
            codes = Counter(reply.code for reply in refused)
            print(
                f"{count} in {ended - begun:.1f} s; answered {len(refused)} {dict(codes)}; memory "
                f"{rss_before / 2**20:.1f} -> {max(rss) / 2**20:.1f} MiB; heartbeats due {len(late)}, late by "
                f"{late[len(late) // 2] * 1000:.0f} ms, 99 %: {late[len(late) * 99 // 100] * 1000:.0f} ms"
            )
            check_refusals(reply.event["time"] for reply in refused)
            own = {"bad_signature"} if keys else {"retained", "not_allowed"}
            assert set(codes) >= own | {"expired", "invalid_args", "unknown_command"}
            assert max(rss) - rss_before < 12 << 20
            if count > 10_000:
                assert max(rss[len(rss) // 2 :]) - max(rss[: len(rss) // 2]) < 4 << 20, "it grows on"
                assert late[len(late) * 99 // 100] < 0.25
        assert len(notes(tmp_path)) == len(ids)


def check_refusals(instants: Iterable[str]) -> None:
    """Ask that there are at most a hundred a second; whatever its second begins with, so many in two."""
    times = sorted(datetime.fromisoformat(one).timestamp() for one in instants)
    assert 20 <= len(times) <= 100 * (times[-1] - times[0] + 2)
    for first, last in zip(times, times[200:], strict=False):
        assert last - first >= 1


@pytest.mark.timeout_s(90)
async def test_at_most_a_hundred_refusals_a_second_are_told(tmp_path: Path) -> None:
    """Of 1,500 that have waited for the device."""
    async with (
        mosquitto(tmp_path, config_lines=("max_queued_messages 0",)) as broker,
        agent(tmp_path, device_text(broker.url)) as process,
        operator(broker.url) as one,
    ):
        await process.logged("health")
        process.signal(signal.SIGKILL)
        await process.wait()
        for _ in range(1500):
            _ = one.send("no-such")
        await one.delivered()
        process.start()
        await one.until(lambda: len(acknowledged(broker)) >= 1500, "all PUBACKs", within_s=60)
        check_refusals(event["time"] for event in process.events("command_refused"))


def notes(tmp_path: Path) -> list[str]:
    """Return the names of what a stopped agent remembers of commands."""
    with contextlib.closing(sqlite3.connect(tmp_path / "state" / "outbox.db")) as db:
        return [name for (name,) in db.execute("SELECT name FROM note WHERE name LIKE 'command/%'")]


@pytest.mark.timeout_s(60)
async def test_the_same_command_again_and_again_does_not_grow_while_it_runs(tmp_path: Path) -> None:
    """300 times, each with much to be sent back: memory and disk have their limits, and not all need be said."""
    effects = Effects(tmp_path)
    said: dict[str, Any] = {"id": "same", "args": {"before_ms": 600_000}}
    async with mosquitto(tmp_path, config_lines=("max_queued_messages 0",)) as broker:
        text = device_text(broker.url, every="200ms")
        async with agent(tmp_path, text, **effects.environ) as process, operator(broker.url) as one:
            await process.logged("health")
            _ = one.send("append", **said)
            _ = await one.said("same", "running")
            before = (await one.until(lambda: beats(one), "a heartbeat"))[-1][1]["data"]["agent"]["rss_bytes"]
            for number in range(300):
                _ = one.send("append", mqtt={"CorrelationData": f"{number:<30000}".encode()}, **said)
            await one.until(lambda: len(acknowledged(broker)) > 300, "all PUBACKs", within_s=40)
            count = len(beats(one))
            after = (await one.until(lambda: beats(one)[count:], "a heartbeat"))[-1][1]["data"]["agent"]["rss_bytes"]
            stored = sum(file.stat().st_size for file in (tmp_path / "state").iterdir())
            print(f"memory {before / 2**20:.1f} -> {after / 2**20:.1f} MiB, store {stored / 2**20:.1f} MiB")
            process.signal(signal.SIGKILL)
            await process.wait()
            assert after - before < 8 << 20
            assert stored < 8 << 20
