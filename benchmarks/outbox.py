"""The outbox against other durable queues, against the link that it feeds, and with a backlog of a million records.

``python -m benchmarks.outbox`` measures three things:

- put: tasks that each await a durable put before the next, against other queues and against a bare SQLite table that
  commits groups of as many rows. The other queues are synchronous and take one record a call, whoever calls. How often
  each synchronises to the disk is counted with strace, where that is installed, in a run of its own.
- end to end: from the put over a real mosquitto's PUBACK to the answer, against what the link publishes by itself.
- drain: the real daemon, started on a backlog, until it is empty.

Each run is a fresh process; the runs of put and end to end are interleaved, and medians are compared. Everything is
below the folder for temporary files: where that is in memory, ``--folder`` has to name one on a disk.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from typing_extensions import override

from benchmarks import publish
from benchmarks.footprint import MB, MIB, Row, at_most
from benchmarks.peers import BARE, PEERS
from benchmarks.publish import Sample, Stopwatch
from benchmarks.workload import CHANNEL, encoded, put_all, report, sections, state_dir
from edge_agent.agent import Agent
from edge_agent.cli.run import make
from edge_agent.core.records import Encoder, Record
from edge_agent.core.submission import Submission
from edge_agent.core.timebase import UtcNs
from tests.support.agents import DEVICE, HEARTBEAT, agent, config_text, connect
from tests.support.brokers import LOOPBACK, RealBroker, free_port, mosquitto

# The requirements, all of the plan.
MIN_OVER_PEERS: Final = 10.0  # puts by 100 tasks, times those of the best durable queue
MIN_OF_BARE: Final = 0.4  # puts by 100 tasks, of what a bare table takes in groups of 100
MIN_OF_LINK: Final = 0.7  # end to end, of what the link publishes by itself
MIN_DRAINED: Final = {1: 10_000.0, 50: 100_000.0}  # records a second, by records in a message
MAX_RSS_MB: Final = 40.0  # peak, from the start on a backlog until it is empty; MB = 10^6
MAX_READY_S: Final = 1.0  # from spawn to the first heartbeat at an observer
MAX_FILE_MIB: Final = 1.0  # of the drained store
SHRINKS_WITHIN_S: Final = 60.0

COUNTS: Final = {1: 2_000, 10: 10_000, 100: 50_000}  # records in a run, by tasks
JUDGED: Final = 100
END_TO_END: Final = 20_000
END_TO_END_PUTTERS: Final = 200  # twice the link's window: it is never empty
BACKLOG: Final = 1_000_000
QUICK: Final = 100_000
FILL_PUTTERS: Final = 1000
BROKER_LINES: Final = publish.BROKER_LINES
SAY_EVERY: Final = "100ms"
SPEAKS_WITHIN_S: Final = 15.0
ONE_WITHIN_S: Final = 600.0
POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured.

    Attributes:
        what: ``outbox``, the name of a peer, ``end to end``, ``link``, or ``fill``.
        putters: tasks that put, or records in a group.
        count: records.
    """

    what: str
    putters: int
    count: int

    @override
    def __str__(self) -> str:
        return f"{self.what}, {self.putters} at once" if self.putters > 1 else self.what


def _put_case(what: str, putters: int) -> Case:
    return Case(what, putters, COUNTS[putters])


OURS: Final = tuple(_put_case("outbox", putters) for putters in COUNTS)
THEIRS: Final = tuple(
    _put_case(peer.name, putters) for peer in PEERS for putters in COUNTS if putters == 1 or peer.groups
)
LINK: Final = Case("link", 1, END_TO_END)
WHOLE: Final = Case("end to end", END_TO_END_PUTTERS, END_TO_END)


# ---------------------------------------------------------------- one run, in a process of its own
@contextlib.asynccontextmanager
async def running(folder: Path, broker: str) -> AsyncIterator[Agent]:
    """Run all of an agent in this process."""
    config = folder / "edge-agent.toml"
    config.write_text(config_text(broker, every="1m", extra=sections(folder, rate=0, max_bytes="4GiB")))
    logging.disable(logging.WARNING)  # that its broker is away is no news
    own = make(str(config), {})
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(own.run(stop=stop, reload=asyncio.Event()))
        while not own._outbox.lanes:  # noqa: ASYNC110  # it opens its store
            await asyncio.sleep(0.001)
        yield own
        stop.set()


async def run_ours(case: Case, folder: Path, broker: str) -> Sample:
    """Put records, each awaited; end to end, also until the outbox is empty."""
    async with running(folder, broker) as own:
        bodies = [encoded(number) for number in range(min(case.count, END_TO_END))]

        async def put(number: int) -> None:
            await own._outbox.accept(Submission(CHANNEL, bodies[number % END_TO_END]))

        if case == WHOLE:
            await own._link.session()
        await put(0)
        watch = Stopwatch()
        await put_all(put, case.count, putters=case.putters)
        while case == WHOLE and own._measure().outbox.records:  # noqa: ASYNC110  # the agent's own parts do the work
            await asyncio.sleep(0.001)
        return watch.sample(case.count)


def run_peer(case: Case, folder: Path) -> Sample:
    """Put records in groups."""
    put = next(peer for peer in PEERS if peer.name == case.what).open(folder)
    bodies = [encoded(number) for number in range(case.count)]
    watch = Stopwatch()
    for start in range(0, case.count, case.putters):
        put(bodies[start : start + case.putters])
    return watch.sample(case.count)


def run_one(args: argparse.Namespace) -> int:
    """Measure one case and print it as JSON."""
    case = Case(**json.loads(args.one))
    if case.what == LINK.what:
        record = Record(1, CHANNEL, encoded(0), 0, UtcNs(time.time_ns()))  # as large as the event that one becomes
        size = len(Encoder(DEVICE, "0123456789abcdef").encode(record))
        found = asyncio.run(publish.run_ours(publish.JUDGED, args.url, None, count=case.count, size=size))
    elif case.what in (peer.name for peer in PEERS):
        found = run_peer(case, args.folder)
    else:
        found = asyncio.run(run_ours(case, args.folder, args.url))
    print(json.dumps(asdict(found)))
    return 0


async def measure(case: Case, folder: Path, url: str, *, prefix: Sequence[str] = ()) -> Sample:
    """Measure a case once in a fresh process."""
    argv = [*prefix, sys.executable, "-m", "benchmarks.outbox", "--one", json.dumps(asdict(case))]
    argv += ["--folder", str(folder), "--url", url]
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(ONE_WITHIN_S):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise SystemExit(f"{case}: failed")
    return Sample(**json.loads(out))


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


@contextlib.contextmanager
def _folder(args: argparse.Namespace) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        yield Path(folder)


async def interleaved(cases: Sequence[Case], url: str, args: argparse.Namespace) -> dict[Case, Sample]:
    """Return each case's medians over ``--rounds`` rounds."""
    samples: dict[Case, list[Sample]] = {case: [] for case in cases}
    for number in range(args.rounds):
        for case in cases:
            _progress(f"round {number + 1} of {args.rounds}: {case}")
            with _folder(args) as folder:
                samples[case].append(await measure(case, folder, url))
    _progress("")
    return {case: _median(found) for case, found in samples.items()}


def _median(samples: Sequence[Sample]) -> Sample:
    return Sample(
        statistics.median(sample.rate for sample in samples), statistics.median(sample.cpu_us for sample in samples)
    )


def _text(sample: Sample) -> str:
    return f"{sample.rate:,.0f}/s, {sample.cpu_us:.0f} us of CPU each"


# ---------------------------------------------------------------- put
async def count_syncs(case: Case, args: argparse.Namespace) -> float | None:
    """Return how often a record is synchronised to the disk; ``None`` without strace."""
    if shutil.which("strace") is None:
        return None
    with _folder(args) as folder:
        counts = folder / "strace"
        prefix = ("strace", "-f", "-qq", "-c", "-e", "trace=fsync,fdatasync", "-o", str(counts))
        await measure(case, folder, _nowhere(), prefix=prefix)
        lines = [line.split() for line in counts.read_text().splitlines()]
    return sum(int(words[3]) for words in lines if words and words[-1] in ("fsync", "fdatasync")) / case.count


def _nowhere() -> str:
    return f"mqtt://{LOOPBACK}:{free_port()}"


def at_least(what: str, value: float, limit: float) -> Row:
    """Return the line of a ratio that is required."""
    return Row(what, f"{value:.2f}", value, f">= {limit:g}", value >= limit)


async def measure_put(args: argparse.Namespace) -> list[Row]:
    """Compare durable puts."""
    found = await interleaved((*OURS, *THEIRS), _nowhere(), args)
    rows = []
    for case, sample in found.items():
        syncs = await count_syncs(case, args)
        durable = case in OURS or any(peer.durable for peer in PEERS if peer.name == case.what)
        text = "" if syncs is None else f", {syncs:.3f} syncs each"
        name = f"put: {case}" if durable else f"put: {case} (not durable)"
        rows.append(Row(name, f"{_text(sample)}{text}", sample.rate))
    durable_peers = [_put_case(peer.name, 1) for peer in PEERS if peer.durable and peer is not BARE]
    best = max(durable_peers, key=lambda case: found[case].rate)
    ours = found[_put_case("outbox", JUDGED)].rate
    bare = found[_put_case(BARE.name, JUDGED)].rate
    return [
        *rows,
        at_least(f"put: outbox, {JUDGED} at once, over {best}", ours / found[best].rate, MIN_OVER_PEERS),
        at_least(f"put: outbox, {JUDGED} at once, over {BARE.name}", ours / bare, MIN_OF_BARE),
    ]


# ---------------------------------------------------------------- end to end
async def measure_end_to_end(args: argparse.Namespace) -> list[Row]:
    """Compare records that go through the outbox with messages that the link publishes."""
    with _folder(args) as folder:
        async with mosquitto(folder, config_lines=BROKER_LINES, persistence=False) as broker:
            found = await interleaved((LINK, WHOLE), broker.url, args)
    return [
        Row("link by itself", _text(found[LINK]), found[LINK].rate),
        Row(f"{WHOLE}", _text(found[WHOLE]), found[WHOLE].rate),
        at_least("end to end over the link by itself", found[WHOLE].rate / found[LINK].rate, MIN_OF_LINK),
    ]


# ---------------------------------------------------------------- drain
async def measure_drain(args: argparse.Namespace) -> list[Row]:
    """Start the daemon on a backlog, once for each size of a message."""
    count = QUICK if args.quick else BACKLOG
    rows: list[Row] = []
    with _folder(args) as filled:
        _progress(f"filling {count:,} records")
        fill = await measure(Case("fill", FILL_PUTTERS, count - 1), filled, _nowhere())  # it puts one before
        rows.append(Row(f"fill: {count:,} records, {FILL_PUTTERS} at once", f"{fill.rate:,.0f}/s", fill.rate))
        for batch in MIN_DRAINED:
            _progress(f"draining {count:,} records, {batch} in a message")
            with _folder(args) as folder:
                shutil.copytree(state_dir(filled), state_dir(folder))
                rows += await drain(folder, batch, count)
    _progress("")
    return rows


async def drain(folder: Path, batch: int, count: int) -> list[Row]:
    """Measure one session on a backlog."""
    async with mosquitto(folder, config_lines=BROKER_LINES, persistence=False) as broker:
        text = config_text(
            broker.url, every=SAY_EVERY, extra=sections(folder, rate=0, max_bytes="4GiB", batch=batch, commit="1s")
        )
        heard = heartbeats(broker)
        await anext(heard)  # listens
        begun = time.monotonic()
        async with agent(folder, text) as process:
            told = [await _within(heard)]
            while told[-1].records:
                told.append(await _within(heard))
            ready_s = told[0].at - begun
            # what was delivered is deleted up to a second later
            delivered_at = next(one.at for one in told if one.bytes_sent == told[-1].bytes_sent)
            rate = count / (delivered_at - told[0].at)
            size, shrunk_s = await shrink(state_dir(folder), told[-1].at)
            peak = _peak_bytes(process.pid) / MB
    name = f"drain, batch = {batch}"
    return [
        Row(name, f"{rate:,.0f}/s", rate, f">= {MIN_DRAINED[batch]:,.0f}/s", rate >= MIN_DRAINED[batch]),
        at_most(f"{name}: peak RSS", f"{peak:.1f} MB", peak, MAX_RSS_MB, "MB"),
        at_most(f"{name}: start to first heartbeat", f"{ready_s:.3f} s", ready_s, MAX_READY_S, "s"),
        at_most(f"{name}: store {shrunk_s:.0f} s later", f"{size / MIB:.2f} MiB", size / MIB, MAX_FILE_MIB, "MiB"),
    ]


@dataclass(frozen=True, slots=True)
class Told:
    """What a heartbeat says of the outbox, and when it came."""

    at: float
    records: int
    bytes_sent: int


async def heartbeats(broker: RealBroker) -> AsyncIterator[Told]:
    """Yield what the agent says of its outbox; first of all, once this listens, nothing."""
    connection = await connect(broker.url, client_id="heartbeats")
    await connection.subscribe_to([HEARTBEAT])
    yield Told(0, 0, 0)
    while (delivery := await connection.receive()) is not None:
        connection.acknowledge(delivery)
        said = json.loads(delivery.payload)["data"]["outbox"]
        yield Told(time.monotonic(), said["records"], said["bytes_sent"])


async def _within(heard: AsyncIterator[Told]) -> Told:
    async with asyncio.timeout(SPEAKS_WITHIN_S):  # or else it has gone
        return await anext(heard)


async def shrink(state: Path, since: float) -> tuple[int, float]:
    """Wait until the store is small enough, but not for ever; return its bytes, and how long that took."""
    while True:
        size = sum(file.stat().st_size for file in state.glob("outbox.db*"))
        waited = time.monotonic() - since
        if size <= MAX_FILE_MIB * MIB or waited > SHRINKS_WITHIN_S:
            return size, waited
        await asyncio.sleep(POLL_S)


def _peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


# ---------------------------------------------------------------- all of it
PARTS: Final = {"put": measure_put, "end-to-end": measure_end_to_end, "drain": measure_drain}


async def measure_all(args: argparse.Namespace) -> list[Row]:
    """Run the parts, one after the other."""
    rows: list[Row] = []
    for name in args.only or PARTS:
        rows += await PARTS[name](args)
    return rows


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.outbox", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS, action="append", help="only this part; may be repeated")
    parser.add_argument("--rounds", type=int, default=5, help="runs of every case of put and end-to-end (default: 5)")
    parser.add_argument("--quick", action="store_true", help=f"drain {QUICK:,} records instead of {BACKLOG:,}")
    parser.add_argument("--folder", type=Path, help="where the stores are made (default: that for temporary files)")
    parser.add_argument("--check", action="store_true", help="exit with 1 and name what is missed")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    for hidden in ("--one", "--url"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Run the benchmark."""
    args = _parse()
    if args.one:
        return run_one(args)
    os.environ["CI"] = "1"  # of the test support: what is missing is an error, there is no test to skip
    return report(asyncio.run(measure_all(args)), args)


if __name__ == "__main__":
    sys.exit(main())
