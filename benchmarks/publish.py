"""QoS 1 throughput of the agent's own link against plain aiomqtt at its best, on one mosquitto, interleaved.

``python -m benchmarks.publish`` starts the broker, measures every case once a round, each in a fresh process, and
prints medians. The clock runs from the first publish to the last acknowledgement; connecting is left out. A message
counts when its PUBACK has come and is no refusal; a run in which one is missing fails.

Both sides have TCP_NODELAY. aiomqtt is tuned: paho's window is as large as the number of publishers, and the warning
that it otherwise logs on every call past 10 pending ones is off. It is given several windows and judged by its best.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import socket
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import aiomqtt
from typing_extensions import override

from edge_agent.adapters.mqtt_connector import Login, MqttConnector
from edge_agent.adapters.mqtt_link import WINDOW, WINDOW_3_1_1
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.core.config_models import Tls
from edge_agent.core.config_types import parse_broker_url
from edge_agent.core.connection import Attempt, ProtocolVersion
from edge_agent.core.timebase import seconds
from edge_agent.ports import REFUSED_FROM, Connection, Message
from tests.support.brokers import RealBroker, TlsFiles, mosquitto, tls_files

# The requirement of the plan: our link at its window of 100 against aiomqtt's best. The study that the link rests on
# measured 25.5k against 15.8k messages a second (1.6) for publishing past aiomqtt's own publish(); 1.4 leaves room for
# what the link adds to that.
MIN_RATIO: Final = 1.4
REQUIRED_WINDOW: Final = 100

TOPIC: Final = "bench/dev-0001/data"
AIOMQTT_WINDOWS: Final = (10, 20, 50, 100)
BROKER_LINES: Final = (
    "max_inflight_messages 1000",  # announced as Receive Maximum, which our link obeys
    "max_queued_messages 0",
    "set_tcp_nodelay true",
    "log_type none",
)
ONE_WITHIN_S: Final = 120.0
MICROSECONDS: Final = 1e6


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured.

    Attributes:
        client: ``ours`` or ``aiomqtt``.
        window: unacknowledged messages at once.
        protocol: 5 or 4.
        tls: whether the connection is encrypted.
    """

    client: str
    window: int
    protocol: ProtocolVersion = 5
    tls: bool = False

    @override
    def __str__(self) -> str:
        version = "5" if self.protocol == 5 else "3.1.1"
        return f"{self.client} window {self.window}, MQTT {version}{', TLS' if self.tls else ''}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One run: messages a second, and CPU time of the client per message in microseconds."""

    rate: float
    cpu_us: float


JUDGED: Final = Case("ours", REQUIRED_WINDOW)
RIVALS: Final = tuple(Case("aiomqtt", window) for window in AIOMQTT_WINDOWS)
INFORMATION: Final = (
    Case("ours", WINDOW_3_1_1, protocol=4),
    Case("aiomqtt", WINDOW_3_1_1, protocol=4),
    Case("ours", WINDOW, tls=True),
    Case("aiomqtt", WINDOW, tls=True),
)


# ---------------------------------------------------------------- one run, in a process of its own
def payload(size: int) -> bytes:
    """Return a JSON object of exactly ``size`` bytes."""
    head, tail = b'{"id":"01J00000000000000000000000","ts":1730000000.123,"dev":"dev-0001","v":"', b'"}'
    return head + b"x" * (size - len(head) - len(tail)) + tail


class Stopwatch:
    """Wall and CPU time since it was made."""

    def __init__(self) -> None:
        self._cpu = _cpu_s()
        self._wall = time.perf_counter()

    def sample(self, count: int) -> Sample:
        """Return the rates for so many messages."""
        wall = time.perf_counter() - self._wall
        return Sample(count / wall, (_cpu_s() - self._cpu) / count * MICROSECONDS)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def run_ours(case: Case, url: str, ca: Path | None, *, count: int, size: int) -> Sample:
    """Publish through ``Connection.send``; the window is the link's own."""
    login = Login("bench-ours", seconds(60), seconds(0), seconds(0), Tls(ca=None if ca is None else str(ca)))
    attempt = Attempt(parse_broker_url(url), case.protocol, will_retained=True, wait=seconds(0))
    connection = await MqttConnector(login, clock=SystemClock()).connect(attempt, None)
    own = WINDOW if case.protocol == 5 else WINDOW_3_1_1
    if min(own, connection.limits.receive_maximum) != case.window:
        raise SystemExit(f"the link's window is {own}, the broker's {connection.limits.receive_maximum}: not {case}")
    sample = await _send_all(connection, Message(TOPIC, payload(size)), count)
    await connection.disconnect()
    return sample


async def _send_all(connection: Connection, message: Message, count: int) -> Sample:
    acknowledged = 0
    done = asyncio.get_running_loop().create_future()

    def note(answer: asyncio.Future[int | None]) -> None:
        nonlocal acknowledged
        reason = answer.result()
        if reason is None or reason >= REFUSED_FROM:
            done.set_exception(RuntimeError(f"a message was not accepted: {reason}"))
            return
        acknowledged += 1
        if acknowledged == count:
            done.set_result(None)

    watch = Stopwatch()
    for _ in range(count):
        if not connection.has_room():
            await connection.room()
        connection.send(message).add_done_callback(note)
    await done
    return watch.sample(count)


async def run_aiomqtt(case: Case, url: str, ca: Path | None, *, count: int, size: int) -> Sample:
    """Publish with as many tasks as the window has places, each awaiting one publish at a time."""
    broker = parse_broker_url(url)
    body = payload(size)
    client = aiomqtt.Client(
        broker.host,
        broker.port,
        protocol=aiomqtt.ProtocolVersion.V5 if case.protocol == 5 else aiomqtt.ProtocolVersion.V311,
        max_inflight_messages=case.window,
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        tls_context=None if ca is None else ssl.create_default_context(cafile=str(ca)),
    )
    client.pending_calls_threshold = 1 << 30
    turns = iter(range(count))

    async def publisher() -> None:
        for _ in turns:
            await client.publish(TOPIC, body, qos=1)

    async with client:
        watch = Stopwatch()
        await asyncio.gather(*(publisher() for _ in range(case.window)))
        return watch.sample(count)


def run_one(args: argparse.Namespace) -> int:
    """Measure one case and print it as JSON."""
    case = Case(**json.loads(args.one))
    run = run_ours if case.client == "ours" else run_aiomqtt
    print(json.dumps(asdict(asyncio.run(run(case, args.url, args.ca, count=args.messages, size=args.size)))))
    return 0


# ---------------------------------------------------------------- all of them
async def measure(case: Case, broker: RealBroker, tls: TlsFiles, args: argparse.Namespace) -> Sample:
    """Measure a case once in a fresh process."""
    argv = [sys.executable, "-m", "benchmarks.publish", "--one", json.dumps(asdict(case))]
    argv += ["--messages", str(args.messages), "--size", str(args.size)]
    argv += ["--url", broker.tls_url, "--ca", str(tls.ca)] if case.tls else ["--url", broker.url]
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    try:
        out, _ = await asyncio.wait_for(process.communicate(), ONE_WITHIN_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise SystemExit(f"{case}: failed")
    return Sample(**json.loads(out))


async def measure_all(args: argparse.Namespace) -> dict[Case, list[Sample]]:
    """Measure every case ``--rounds`` times, in turns, so that a noisy neighbour meets all of them."""
    cases = (JUDGED, *RIVALS) + (() if args.brief else INFORMATION)
    samples: dict[Case, list[Sample]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as folder:
        tls = tls_files(Path(folder))
        async with mosquitto(Path(folder), config_lines=BROKER_LINES, persistence=False, tls=tls) as broker:
            for number in range(args.rounds):
                for case in cases:
                    _progress(f"round {number + 1} of {args.rounds}: {case}")
                    samples[case].append(await measure(case, broker, tls, args))
    _progress("")
    return samples


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


def _rates(samples: list[Sample]) -> list[float]:
    return [sample.rate for sample in samples]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Our median rate over that of the best rival, and the least and greatest such ratio of one round."""

    rival: Case
    ratio: float
    least: float
    greatest: float

    @property
    def ok(self) -> bool:
        """Whether the requirement is met."""
        return self.ratio >= MIN_RATIO


def judge(samples: dict[Case, list[Sample]]) -> Verdict:
    """Compare the judged case with the best rival."""
    rival = max(RIVALS, key=lambda case: statistics.median(_rates(samples[case])))
    ours, theirs = _rates(samples[JUDGED]), _rates(samples[rival])
    by_round = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return Verdict(rival, statistics.median(ours) / statistics.median(theirs), min(by_round), max(by_round))


def table(samples: dict[Case, list[Sample]], verdict: Verdict) -> Iterator[str]:
    """Yield the lines of the report."""
    best = statistics.median(_rates(samples[verdict.rival]))
    yield "| case | msg/s median (min..max) | x best aiomqtt | client CPU us/msg |"
    yield "|---|---|---|---|"
    for case, runs in samples.items():
        rates = _rates(runs)
        median = statistics.median(rates)
        cpu = statistics.median(run.cpu_us for run in runs)
        yield f"| {case} | {median:,.0f} ({min(rates):,.0f}..{max(rates):,.0f}) | {median / best:.2f} | {cpu:.0f} |"
    yield ""
    yield (
        f"{JUDGED} over {verdict.rival}: {verdict.ratio:.2f} (by round {verdict.least:.2f}..{verdict.greatest:.2f}), "
        f"required {MIN_RATIO}: {'ok' if verdict.ok else 'MISSED'}"
    )


def report(samples: dict[Case, list[Sample]], verdict: Verdict) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    return {
        "cases": [asdict(case) | {"samples": [asdict(run) for run in runs]} for case, runs in samples.items()],
        "rival": asdict(verdict.rival),
        "ratio": round(verdict.ratio, 3),
        "ratio_by_round": [round(verdict.least, 3), round(verdict.greatest, 3)],
        "required": MIN_RATIO,
        "ok": verdict.ok,
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.publish", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="runs of every case (default: 5)")
    parser.add_argument("--messages", type=int, default=20_000, help="messages a run (default: 20000)")
    parser.add_argument("--size", type=int, default=200, help="bytes of a payload (default: 200)")
    parser.add_argument("--brief", action="store_true", help="only what is judged: no MQTT 3.1.1, no TLS")
    parser.add_argument("--check", action="store_true", help=f"exit with 1 if the ratio is below {MIN_RATIO}")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    for hidden in ("--one", "--url"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--ca", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Run the benchmark."""
    args = _parse()
    if args.one:
        return run_one(args)
    os.environ["CI"] = "1"  # of the test support: a missing mosquitto is an error, there is no test to skip
    samples = asyncio.run(measure_all(args))
    verdict = judge(samples)
    if args.json:
        print(json.dumps(report(samples, verdict), indent=2))
    else:
        print(*table(samples, verdict), sep="\n")
    return 1 if args.check and not verdict.ok else 0


if __name__ == "__main__":
    sys.exit(main())
