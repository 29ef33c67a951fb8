"""Round trips of the command ``ping``: one after another, and as many as go; against a program that only echoes.

``python -m benchmarks.commands`` starts mosquitto, once with ``set_tcp_nodelay true`` and once as it is installed, the
real agent with its journal on this disk, and the echo: our own MQTT connection in a process of its own, which answers
each message with one of QoS 1 and writes nothing down. A round trip goes from the command's publish to the arrival of
its last reply; both ends have TCP_NODELAY. Agent and echo are measured turn by turn.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks.footprint import Row
from benchmarks.workload import report
from edge_agent.ports import Connection, Message
from tests.support.agents import DEVICE, HEARTBEAT, agent, config_text, connect, observer
from tests.support.brokers import mosquitto
from tests.support.clock_simulation import percentile

MAX_PING_MS: Final = 5.0  # plan; the median, journal synchronised
MIN_RATE: Final = 500.0  # plan; commands a second, sustained
PINGS: Final = 200
BURST: Final = 2000
OUTSTANDING: Final = 50
ROUNDS: Final = 3
NODELAY: Final = ("set_tcp_nodelay true",)
ECHO: Final = "echo-1"


class Sender:
    """Sends commands to a device and waits for their last replies."""

    def __init__(self, connection: Connection, device: str) -> None:
        self._connection = connection
        self._device = device
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._number = 0

    async def listen(self) -> None:
        """Take the replies."""
        while (delivery := await self._connection.receive()) is not None:
            self._connection.acknowledge(delivery)
            state = b'"state":"succeeded"' in delivery.payload
            waiting = self._waiting.get(delivery.topic.rpartition("/")[2])
            if state and waiting is not None and not waiting.done():
                waiting.set_result(None)

    async def ping(self) -> float:
        """Return how many milliseconds one took; fail if that is for ever."""
        self._number += 1
        name = f"b-{self._number}"
        self._waiting[name] = asyncio.get_running_loop().create_future()
        begun = time.perf_counter()
        await self._connection.room()
        _ = self._connection.send(Message(f"edge/{self._device}/down/cmd/ping", json.dumps({"id": name}).encode()))
        async with asyncio.timeout(60):
            await self._waiting[name]
        del self._waiting[name]
        return (time.perf_counter() - begun) * 1000

    async def burst(self, count: int) -> float:
        """Return how many a second were answered, so many under way at a time."""
        numbers = iter(range(count))

        async def worker() -> None:
            for _ in numbers:
                await self.ping()

        begun = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(OUTSTANDING):
                group.create_task(worker())
        return count / (time.perf_counter() - begun)


@contextlib.asynccontextmanager
async def sender(url: str, device: str) -> AsyncIterator[Sender]:
    """Connect a sender to a device, which has to be there."""
    connection = await connect(url, client_id=f"sender-{device}")
    await connection.subscribe_to([f"edge/{device}/up/reply/#"])
    one = Sender(connection, device)
    task = asyncio.get_running_loop().create_task(one.listen())
    try:
        yield one
    finally:
        await connection.disconnect()
        await task


async def echo(url: str) -> None:
    """Answer every command at once, until killed."""
    connection = await connect(url, client_id=ECHO)
    await connection.subscribe_to([f"edge/{ECHO}/down/#"])
    print("ready", flush=True)
    names: asyncio.Queue[str] = asyncio.Queue()
    async with asyncio.TaskGroup() as group:
        group.create_task(answer(connection, names))  # who waits for room must not be who makes it
        while (delivery := await connection.receive()) is not None:
            names.put_nowait(json.loads(delivery.payload)["id"])
            connection.acknowledge(delivery)
        raise ConnectionError(f"the echo's connection ended: {await connection.closed()}")


async def answer(connection: Connection, names: asyncio.Queue[str]) -> None:
    """Send the replies."""
    while True:
        name = await names.get()
        await connection.room()
        data = {"data": {"id": name, "state": "succeeded"}}
        _ = connection.send(Message(f"edge/{ECHO}/up/reply/{name}", json.dumps(data, separators=(",", ":")).encode()))


async def compare(folder: Path, lines: Sequence[str]) -> tuple[list[float], list[float], list[float], list[float]]:
    """Return the agent's and the echo's round trips in milliseconds, and their rates."""
    folder.mkdir()
    async with mosquitto(folder, config_lines=lines) as broker, observer(broker.url) as seen:
        argv = [sys.executable, "-m", "benchmarks.commands", "--echo", broker.url]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                await asyncio.to_thread(process.stdout.readline)
                async with (
                    agent(folder, config_text(broker.url, every="10s")),
                    sender(broker.url, DEVICE) as ours,
                    sender(broker.url, ECHO) as theirs,
                ):
                    await seen.wait(HEARTBEAT)
                    trips: tuple[list[float], list[float]] = ([], [])
                    rates: tuple[list[float], list[float]] = ([], [])
                    for _ in range(ROUNDS):
                        for which, one in enumerate((ours, theirs)):
                            trips[which].extend([await one.ping() for _ in range(PINGS)])
                            rates[which].append(await one.burst(BURST))
            finally:
                process.kill()
    return *trips, *rates


async def measure() -> list[Row]:
    """Return all that is measured."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="commands-") as folder:
        for name, lines in (("set_tcp_nodelay", NODELAY), ("as installed", ())):
            ours, theirs, rate, echo_rate = await compare(Path(folder) / name.partition(" ")[0], lines)
            judged = lines is NODELAY
            median, sustained = statistics.median(ours), statistics.median(rate)
            text = (
                f"p50 {median:.2f} ms, p99 {percentile(sorted(ours), 0.99):.2f}; echo {statistics.median(theirs):.2f}"
            )
            fast, steady = (median <= MAX_PING_MS, sustained >= MIN_RATE) if judged else (None, None)
            rows.append(Row(f"ping, {name}", text, median, f"<= {MAX_PING_MS:g} ms" if judged else "", fast))
            text = f"{sustained:.0f}/s; echo {statistics.median(echo_rate):.0f}/s"
            rows.append(Row(f"commands, {name}", text, sustained, f">= {MIN_RATE:g}/s" if judged else "", steady))
    return rows


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit 1 if a requirement is missed")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--echo", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.echo:
        asyncio.run(echo(args.echo))
        return 0
    return report(asyncio.run(measure()), args)


if __name__ == "__main__":
    sys.exit(main())
