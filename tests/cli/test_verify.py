"""The verb verify, as a process of its own: on a real broker, on a scripted one, and on files."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.cli import verify
from edge_agent.core.events import HEARTBEAT
from edge_agent.core.verification import Verification
from edge_agent.ports import Message
from tests.support.agents import connect
from tests.support.brokers import free_port, mosquitto
from tests.support.scripted_broker import Personality, ScriptedBroker

STREAM = "0b-normal"


def record(seq: int, device: str = "dev-1", **data: object) -> bytes:
    """Return a record as it is published."""
    event = {
        "specversion": "1.0",
        "type": "edge.data.v1",
        "source": f"/devices/{device}",
        "id": f"{STREAM}.{seq}",
        "sequence": f"{seq:016d}",
        "subject": "temp",
        "data": data or {"n": seq},
    }
    return json.dumps(event).encode()


def beat(number: int, settled: int, *, records: int = 0, device: str = "dev-1") -> bytes:
    """Return a heartbeat as it is published."""
    outbox = {"records": records, "oldest_age_s": None, "settled": {STREAM: settled}}
    event = {"type": HEARTBEAT, "source": f"/devices/{device}", "id": f"s.{number}", "data": {"outbox": outbox}}
    return json.dumps(event).encode()


async def start(*arguments: str, stderr: int | None = None) -> asyncio.subprocess.Process:
    """Start the verb."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edge_agent", "verify", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr or asyncio.subprocess.PIPE,
    )


@contextlib.asynccontextmanager
async def listening(broker: ScriptedBroker, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the verb until it has subscribed; in the end nothing of it is left."""
    process = await start("--broker", broker.url, *arguments)
    try:
        await broker.wait_for(lambda: bool(broker.connections) and bool(broker.connections[-1].subscribes))
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def read(*arguments: str, stdin: bytes = b"") -> tuple[int | None, str, str]:
    """Run the verb on what it is given; return its exit code, its output and its errors."""
    process = await start(*arguments)
    out, err = await process.communicate(stdin)
    return process.returncode, out.decode(), err.decode()


# ---------------------------------------------------------------- a broker
@pytest.mark.broker
async def test_on_a_real_broker_it_finds_what_is_missing(tmp_path: Path) -> None:
    """By device and stream; where nothing is, it ends with 0."""
    async with mosquitto(tmp_path) as broker:
        url = f"mqtt://127.0.0.1:{broker.port}"
        device = await connect(url, client_id="device")

        async def publish(kind: str, payload: bytes) -> None:
            await device.room()
            assert await device.send(Message(f"edge/dev-1/up/{kind}", payload)) is not None

        for run, lost in enumerate((frozenset({3, 4, 9}), frozenset[int]()), 1):
            process = await start("--broker", url, "--json", "--seconds", "3", "--from-start")
            while broker.log.count("Sending SUBACK to edge-agent-verify-") < run:  # noqa: ASYNC110  # another process's
                await asyncio.sleep(0.01)
            await publish("heartbeat", beat(1, 0, records=5))
            for seq in range(1, 12):
                if seq not in lost:
                    await publish("data/temp", record(seq))
            await publish("heartbeat", beat(2, 11))
            out, err = await process.communicate()
            assert (process.returncode, err) == (1 if lost else 0, b"")
            report = json.loads(out)
            (stream,) = report["streams"]
            ranges = [[3, 4, 2], [9, 9, 1]] if lost else []
            assert (report["ok"], report["messages"]) == (not lost, 13 - len(lost))
            assert (stream["device"], stream["stream"], stream["missing_ranges"]) == ("dev-1", STREAM, ranges)
        await device.disconnect()


async def test_it_subscribes_to_what_is_asked_for() -> None:
    """Every device, or any filters; it has no session."""
    for arguments, filters in (
        (["--prefix", "p"], ("p/+/up/#",)),
        (["--filter", "x/#", "--filter", "y/+"], ("x/#", "y/+")),
    ):
        async with ScriptedBroker() as broker, listening(broker, *arguments):
            assert broker.connections[-1].subscribes[0].filters == filters


async def test_a_signal_ends_it_with_the_verdict() -> None:
    """A table, and what is missing."""
    async with ScriptedBroker() as broker, listening(broker, "--from-start") as process:
        for payload in (record(1), record(4), record(4), beat(1, 4)):
            broker.inject("edge/dev-1/up/x", payload)
        broker.inject("edge/dev-1/up/status", b"online")
        broker.inject("edge/dev-1/up/data/x", b"nonsense")
        await broker.wait_for(lambda: len(broker.connections[-1].pubacks) >= 6)
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert (process.returncode, err) == (1, b"")
    assert out.decode() == (
        "device  stream     delivered  named  missing  duplicates  conflicting  out of order\n"
        "dev-1   0b-normal  2          0      2        1           0            0\n"
        "missing: dev-1 0b-normal 2 of 2-3\n"
        "NOT OK: 4 messages, 1 unreadable\n"
    )


async def test_its_own_lost_connection_is_said_and_blames_nobody() -> None:
    """What passed meanwhile is not missing."""
    async with ScriptedBroker() as broker, listening(broker, "--from-start") as process:
        broker.inject("edge/dev-1/up/data/x", record(1))
        await broker.wait_for(lambda: len(broker.connections[-1].pubacks) >= 1)
        broker.drop_clients()
        await broker.wait_for(lambda: len(broker.connections) > 1 and bool(broker.connections[-1].subscribes))
        for payload in (record(4), beat(1, 4)):
            broker.inject("edge/dev-1/up/x", payload)
        await broker.wait_for(lambda: len(broker.connections[-1].pubacks) >= 2)
        process.terminate()
        out, _ = await process.communicate()
    assert process.returncode == 0
    assert "note: this program's connection was lost 1x; " in out.decode()
    assert "note: 1 streams are not judged yet" in out.decode()
    assert "ok: 3 messages, 0 unreadable\n" in out.decode()


async def test_a_refused_subscription_is_1() -> None:
    """Nothing would be heard."""
    refusing = Personality(suback=lambda _: 0x87)
    async with ScriptedBroker(refusing) as broker, listening(broker) as process:
        out, err = await process.communicate()
    assert (process.returncode, out) == (1, b"")
    assert err.startswith(b"edge-agent: subscription refused: edge/+/up/#: 0x87")


@pytest.mark.parametrize("options", [[], ["--seconds", "0.5"]])
async def test_a_broker_that_cannot_be_reached_is_69(options: list[str]) -> None:
    """With the reason; it does not try for ever."""
    url = f"mqtt://127.0.0.1:{free_port()}"
    code, out, err = await read("--broker", url, *options)
    assert (code, out) == (69, "")
    assert err == f"edge-agent: not reached: {url}: nothing listens there; check the port, is the broker up?\n"


# ---------------------------------------------------------------- files
def lines(*messages: Any) -> bytes:  # noqa: ANN401  # whatever JSON has
    """Return JSON lines."""
    return b"".join(json.dumps(message).encode() + b"\n" for message in messages)


async def test_a_file_is_read_line_by_line(tmp_path: Path) -> None:
    """Events and arrays of them, as mosquitto_sub writes them; the status is no event."""
    first, *rest = (json.loads(record(seq)) for seq in range(1, 6))
    file = tmp_path / "messages"
    file.write_bytes(b"online\n" + lines(first, rest) + b"\n" + beat(1, 5))
    code, out, err = await read("--file", str(file), "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert (report["messages"], report["unreadable"], report["streams"][0]["delivered"]) == (6, 0, 5)


async def test_standard_input_is_a_file() -> None:
    """By the name ``-``; whether it holds all from the first number on has to be said."""
    text = lines(*(json.loads(one) for one in (record(2), record(2, n=9), beat(1, 2))))
    code, out, _ = await read("--file", "-", "--from-start", stdin=text)
    assert code == 1
    assert "missing: dev-1 0b-normal 1 of 1-1\nNOT OK" in out
    code, out, _ = await read("--file", "-", stdin=lines(json.loads(record(2)), json.loads(beat(1, 2))))
    assert (code, "ok: 2 messages" in out) == (0, True)


async def test_what_is_wrong_is_named_and_what_there_is_to_say_is_said() -> None:
    """Coarse gaps, disorder, and that there was nothing at all."""
    note = {"stream": STREAM, "first": 4, "last": 9, "count": 2, "reason": "damaged"}
    event = json.loads(record(1, gaps=[note])) | {"type": "edge.event.v1", "subject": "outbox"}
    text = lines(*(json.loads(record(seq)) for seq in (3, 2, 10)), event, json.loads(beat(1, 10)))
    code, out, _ = await read("--file", "-", "--from-start", stdin=text)
    assert code == 1
    assert "missing: dev-1 0b-normal 4 of 4-9\nout of order: dev-1 0b-normal 1-2\nNOT OK" in out
    code, out, _ = await read("--file", "-")
    assert (code, out) == (0, "note: no record was seen\nok: 0 messages, 0 unreadable\n")


async def test_only_the_first_of_many_ranges_are_printed() -> None:
    """All with ``--json``."""
    text = lines(*(json.loads(record(seq)) for seq in range(2, 62, 2)), json.loads(beat(1, 60)))
    code, out, _ = await read("--file", "-", "--from-start", stdin=text)
    assert (code, out.count("missing: "), "note: 10 more; --json has all\n" in out) == (1, 20, True)
    _, out, _ = await read("--file", "-", "--from-start", "--json", stdin=text)
    assert len(json.loads(out)["streams"][0]["missing_ranges"]) == 30


def test_lines_of_any_length_and_any_content_are_survived(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each counts as one that cannot be read; those behind it are read."""
    monkeypatch.setattr(verify, "MAX_LINE", 1000)
    file = tmp_path / "messages"
    bad = (b"x" * 1000, b"x" * 999, b"x" * 5000, b"\xff\x00", b"[" * 900, b'"x"', b"5", b'{"topic":"a","payload":7}')
    file.write_bytes(b"\n".join([*bad, record(1), b"x" * 2000]))
    verification = Verification(from_start=True)
    verify._read_file(str(file), verification)
    report = verification.report()
    assert report.messages == 1
    assert report.unreadable > len(bad)


async def test_an_interrupt_ends_a_pipe_that_does_not() -> None:
    """As ^C does behind a program that never ends."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in the background
    process = await start("--file", "-")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"".join(record(seq) + b"\n" for seq in range(1, 10_001)))
    await process.stdin.drain()
    reading = asyncio.get_running_loop().create_task(process.stdout.read())
    while not reading.done():  # the first may come while it still starts, as one of a person may
        process.send_signal(signal.SIGINT)
        await asyncio.wait((reading,), timeout=2)
    assert await process.wait() == 0
    assert reading.result().endswith(b" messages, 0 unreadable\n")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--file", "/none"], "/none: No such file or directory"),
        (["--file", "/"], "/: Is a directory"),
        (["--file", "-", "--filter", "x"], "--file does not go with"),
        (["--file", "-", "--seconds", "0"], "--file does not go with"),
        (["--broker", "x"], "--broker: found"),
        (["--broker", "mqtt://127.0.0.1:1", "--filter", "a", "--filter", "a/#/b"], "--filter 'a/#/b': a topic filter"),
    ],
)
async def test_a_wrong_option_is_64(arguments: list[str], text: str) -> None:
    """In one line."""
    code, out, err = await read(*arguments)
    assert (code, out) == (64, "")
    assert err.startswith(f"edge-agent: {text}")
    assert err.count("\n") == 1
