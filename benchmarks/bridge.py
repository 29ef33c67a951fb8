"""What a local mosquitto with a bridge and what the agent loses of records that were acknowledged while offline.

``python -m benchmarks.bridge`` hands the same records, QoS 1, to a mosquitto with persistence and a bridge to a remote
broker that is down, and to an agent whose broker is down. Once all are acknowledged the process is killed (SIGKILL),
started again with the remote broker up, and what arrives there is counted. A last record is handed in then: when it
has arrived, so has all that was before it.

The remote broker knows its subscriber from before, so that nothing is lost there.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.workload import TOPIC, control, encoded, put_all, sections, socket_path
from edge_agent.adapters.mqtt_connector import Login, MqttConnector
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.core.config_models import Tls
from edge_agent.core.config_types import parse_broker_url
from edge_agent.core.connection import Attempt
from edge_agent.core.timebase import seconds
from edge_agent.ports import REFUSED_FROM, Connection, Message
from tests.support.agents import AgentProcess, agent, config_text, connect
from tests.support.brokers import LOOPBACK, RealBroker, free_port, mosquitto

MAX_LOST: Final = 0  # contract, promise 1: of acknowledged records, by the agent

PUTTERS: Final = 100
LAST_EVERY_S: Final = 1.0  # a full bridge drops the last record, too: it is handed in again until one arrives
ARRIVES_WITHIN_S: Final = 120.0
UNLIMITED: Final = "max_queued_messages 0"


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured.

    Attributes:
        name: as the report calls it.
        lines: of the local mosquitto's configuration; ``None`` = the agent.
        kill: whether it is killed after the last acknowledgement.
    """

    name: str
    lines: tuple[str, ...] | None
    kill: bool = True


CASES: Final = (
    Case("mosquitto bridge, defaults, not killed", (), kill=False),
    Case("mosquitto bridge, max_queued_messages 0, not killed", (UNLIMITED,), kill=False),
    Case("mosquitto bridge, defaults, kill -9", ()),
    Case("mosquitto bridge, max_queued_messages 0, kill -9", (UNLIMITED,)),
    Case("mosquitto bridge, the same with autosave_interval 1, kill -9", (UNLIMITED, "autosave_interval 1")),
    Case("edge-agent, kill -9", None),
)


@dataclass(frozen=True, slots=True)
class Result:
    """Counts of records; ``acknowledged`` and ``lost`` are the report, the others explain it."""

    acknowledged: int
    lost: int
    repeated: int
    acknowledged_per_s: float


# ---------------------------------------------------------------- the remote broker
@dataclass
class Remote:
    """A broker that is down until it is needed, and remembers one subscriber.

    Attributes:
        folder: where its files go.
        count: how many records are counted: those with a lower number.
        numbers: of what has arrived, in order.
        last: set when a record that is not counted has arrived.
    """

    folder: Path
    count: int
    port: int = field(default_factory=free_port)
    numbers: list[int] = field(default_factory=list)
    last: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        """Where it will be."""
        return f"mqtt://{LOOPBACK}:{self.port}"

    @contextlib.asynccontextmanager
    async def prepared(self) -> AsyncIterator[RealBroker]:
        """Let the subscriber subscribe, and take the broker down; it is gone when the block ends."""
        lines = ("log_type none", UNLIMITED)
        async with mosquitto(self.folder, port=self.port, config_lines=lines) as broker:
            subscriber = await self._connect()
            await subscriber.subscribe_to([TOPIC])
            await subscriber.disconnect()
            await broker.stop()  # writes its state
            yield broker

    async def collect(self) -> None:
        """Note the numbers of the records that arrive, for ever."""
        connection = await self._connect()
        while (delivery := await connection.receive()) is not None:
            event = json.loads(delivery.payload)
            self.numbers.append(event.get("data", event)["n"])
            if self.numbers[-1] >= self.count:
                self.last.set()
            connection.acknowledge(delivery)

    async def _connect(self) -> Connection:
        login = Login("subscriber", seconds(60), seconds(86_400), seconds(0), Tls())
        attempt = Attempt(parse_broker_url(self.url), 5, will_retained=True, wait=seconds(0))
        return await MqttConnector(login, clock=SystemClock()).connect(attempt, None)

    def result(self, acknowledged: int, took_s: float) -> Result:
        """Return what became of the records."""
        arrived = [number for number in self.numbers if number < self.count]
        distinct = len(set(arrived))
        return Result(acknowledged, acknowledged - distinct, len(arrived) - distinct, acknowledged / took_s)


# ---------------------------------------------------------------- the two who keep records
class Bridge:
    """A local mosquitto with a bridge."""

    def __init__(self, broker: RealBroker) -> None:
        self._broker = broker

    async def hand_in(self, first: int, count: int) -> int:
        """Publish records; return how many the local broker acknowledged."""
        connection = await connect(self._broker.url, client_id="program")
        acknowledged = 0

        async def put(number: int) -> None:
            nonlocal acknowledged
            await connection.room()
            reason = await connection.send(Message(TOPIC, encoded(first + number)))
            acknowledged += reason is not None and reason < REFUSED_FROM

        await put_all(put, count, putters=20)  # the window that it announces
        await connection.disconnect()
        return acknowledged

    async def kill(self) -> None:
        """End it."""
        await self._broker.kill()

    async def start(self) -> None:
        """Start it again."""
        await self._broker.start()


@contextlib.asynccontextmanager
async def bridge(folder: Path, remote: Remote, lines: tuple[str, ...]) -> AsyncIterator[Bridge]:
    """Run a mosquitto with a bridge to the remote broker."""
    bridging = (
        "log_type none",
        *lines,
        "connection up",
        f"address {LOOPBACK}:{remote.port}",
        f"topic {TOPIC} out 1",
        "cleansession false",
        "bridge_protocol_version mqttv50",
        "restart_timeout 1",
        "notifications false",
    )
    async with mosquitto(folder, config_lines=bridging) as broker:
        yield Bridge(broker)


class Agent:
    """An agent in a child process."""

    def __init__(self, folder: Path, process: AgentProcess) -> None:
        self._folder = folder
        self._process = process

    async def hand_in(self, first: int, count: int) -> int:
        """Publish records over the control socket; return how many the agent acknowledged."""
        acknowledged = 0
        async with control(socket_path(self._folder)) as client:

            async def put(number: int) -> None:
                nonlocal acknowledged
                await client.publish(first + number)
                acknowledged += 1

            await put_all(put, count, putters=PUTTERS)
        return acknowledged

    async def kill(self) -> None:
        """End it."""
        self._process.signal(signal.SIGKILL)
        await self._process.wait()

    async def start(self) -> None:
        """Start it again."""
        self._process.start()


@contextlib.asynccontextmanager
async def edge_agent(folder: Path, remote: Remote) -> AsyncIterator[Agent]:
    """Run an agent whose broker is the remote one."""
    async with agent(folder, config_text(remote.url, every="1m", extra=sections(folder, rate=0))) as process:
        yield Agent(folder, process)


# ---------------------------------------------------------------- all of it
async def measure(case: Case, folder: Path, count: int) -> Result:
    """Measure one case."""
    remote = Remote(folder, count)
    keeper = edge_agent(folder, remote) if case.lines is None else bridge(folder, remote, case.lines)
    async with remote.prepared() as broker, keeper as local:
        begun = time.perf_counter()
        acknowledged = await local.hand_in(0, count)
        took_s = time.perf_counter() - begun
        if case.kill:
            await local.kill()
        await broker.start()
        if case.kill:
            await local.start()
        collecting = asyncio.get_running_loop().create_task(remote.collect())
        async with asyncio.timeout(ARRIVES_WITHIN_S):
            await _reach_last(local, remote)
        collecting.cancel()
        await asyncio.wait((collecting,))
    return remote.result(acknowledged, took_s)


async def _reach_last(local: Bridge | Agent, remote: Remote) -> None:
    """Hand in a last record until one of those has arrived, and with it what was before it."""
    number = remote.count
    while not remote.last.is_set():
        await local.hand_in(number, 1)
        number += 1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_EVERY_S):
                await remote.last.wait()


async def measure_all(args: argparse.Namespace) -> dict[str, Result]:
    """Measure every case."""
    results: dict[str, Result] = {}
    for case in CASES:
        if args.only in case.name:
            with tempfile.TemporaryDirectory() as folder:
                results[case.name] = await measure(case, Path(folder), args.records)
    return results


def table(results: dict[str, Result]) -> Iterator[str]:
    """Yield the lines of the report."""
    yield "| case | acknowledged | lost | arrived twice | acknowledged/s |"
    yield "|---|---|---|---|---|"
    for name, one in results.items():
        yield f"| {name} | {one.acknowledged:,} | {one.lost:,} | {one.repeated:,} | {one.acknowledged_per_s:,.0f} |"


def missed(results: dict[str, Result], count: int) -> list[str]:
    """Return what the agent was to do and did not."""
    ours = [results[case.name] for case in CASES if case.lines is None and case.name in results]
    return [
        text
        for one in ours
        for text, ok in (
            (f"edge-agent acknowledged {one.acknowledged} of {count} records", one.acknowledged == count),
            (f"edge-agent lost {one.lost} records, allowed {MAX_LOST}", one.lost <= MAX_LOST),
        )
        if not ok
    ]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bridge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=10_000, help="records in each case (default: 10000)")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--check", action="store_true", help="exit with 1 if the agent lost a record")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    return parser.parse_args()


def main() -> int:
    """Run the benchmark."""
    args = _parse()
    os.environ["CI"] = "1"  # of the test support: what is missing is an error, there is no test to skip
    results = asyncio.run(measure_all(args))
    if args.json:
        print(json.dumps({name: asdict(one) for name, one in results.items()}, indent=2))
    else:
        print(*table(results), sep="\n")
    failures = missed(results, args.records)
    print(*failures, sep="\n", file=sys.stderr, end="\n" if failures else "")
    return 1 if args.check and failures else 0


if __name__ == "__main__":
    sys.exit(main())
