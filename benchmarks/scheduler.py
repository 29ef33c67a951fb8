"""The scheduler against others, in one run: ten thousand jobs a second that do nothing.

``python -m benchmarks.scheduler`` lets each contender run 10,000 jobs, each due once a second, for ten seconds, once
with their phases spread evenly over the second and once with all of them due at one instant:

- ours: the scheduler, the runner and the kinds as the agent builds them (trace ids, contexts, history, outcomes),
  without a timeout and with the log of runs off; and again with a timeout and a JSON line for each run.
- APScheduler 3.11: AsyncIOScheduler, memory store, its defaults.
- bare asyncio: ``call_at``, and a task for each run.
- threads: ``threading.Timer``, a thread for each run; with a tenth of the jobs, for each holds a thread while it waits.

CPU is of the whole process from the first slot to the end, over the runs that it got done by then. Lateness is from the
slot to the job's first line. Each case is a fresh process; the rounds are interleaved, and medians compared.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from benchmarks.footprint import Row, at_most
from benchmarks.workload import report
from edge_agent.adapters.logs import configure
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.adapters.timerfd import make_alarm
from edge_agent.core.config_jobs import Job
from edge_agent.core.config_jobs import Runner as Limits
from edge_agent.core.config_types import Section
from edge_agent.core.discipline import Discipline, Policy
from edge_agent.core.job_entry import Place
from edge_agent.core.saved_clock import SavedClock
from edge_agent.core.submission import Submission
from edge_agent.core.timebase import NANOSECONDS_PER_SECOND, DurationNs, UtcNs, seconds
from edge_agent.core.triggers import own_part
from edge_agent.job_ports import Context, Kind, Locals
from edge_agent.scheduling import new_trace
from edge_agent.services.device_clock import DeviceClock
from edge_agent.services.kinds import Kinds
from edge_agent.services.run_context import RunContexts
from edge_agent.services.runner import Runner, runs_log
from edge_agent.services.scheduler import Scheduler
from edge_agent.services.timers import Timers

# The requirements, all of the plan.
MAX_OF_APSCHEDULER: Final = 0.5  # CPU per run, with no timeout and the log of runs off
MAX_OF_APSCHEDULER_BOTH: Final = 1.0  # the same with both on
MAX_LATE_MS: Final = 10.0  # 99th percentile

JOBS: Final = 10_000
THREADS: Final = JOBS // 10
PERIOD: Final = seconds(1)
SECONDS: Final = 10
DEVICE: Final = "gw-1"
SETTLES_S: Final = 1.0
ONE_WITHIN_S: Final = 300.0


class Plan:
    """What is due when, and how late it was.

    Attributes:
        jobs: how many.
        begin: before the first slot, of the operating system's clock, as is all time here.
        end: after the last slot.
        first: the first slot of each job; with ``spread`` they have the phases that ours give them, else none.
        spread: whether they have.
        late: of each run of these slots, in nanoseconds.
    """

    def __init__(self, jobs: int, length_s: int, *, begin: UtcNs, spread: bool) -> None:
        self.jobs = jobs
        self.begin = begin
        self.end = UtcNs(begin + length_s * PERIOD)
        self.spread = spread
        self.first = [UtcNs(begin + own_part(DEVICE, str(number), PERIOD) * spread) for number in range(jobs)]
        self.late: list[int] = []

    async def work(self, number: int) -> None:
        """Do nothing but see how late it is; what is more than a period late does not count as this run."""
        self.late.append((time.time_ns() - self.first[number]) % PERIOD)


@dataclass(frozen=True, slots=True)
class Sample:
    """What came of it: CPU in microseconds per run, runs that were due and that were made, and lateness."""

    cpu_us: float
    due: int
    made: int
    p50_ms: float
    p99_ms: float


# ---------------------------------------------------------------- the contenders
Contender = Callable[[Plan], Awaitable[object]]


async def ours(plan: Plan) -> object:
    """Run ours with neither a timeout nor a line in the log."""
    runs_log.setLevel(logging.ERROR)
    return _ours(plan, {"timeout": None})


async def ours_with_both(plan: Plan) -> object:
    """Run ours with both, as by default."""
    configure("info", "json", stream=Path(os.devnull).open("w"))  # noqa: SIM115  # for the life of the process
    return _ours(plan, {})


class _Blank:
    """A notebook for jobs of which nothing has to be noted down."""

    notes: Mapping[str, bytes] = {}

    def note(self, name: str, text: bytes | None) -> None:
        raise NotImplementedError(name, text)

    async def written(self) -> None:
        raise NotImplementedError

    def put(self, submission: Submission) -> object:
        """Lose what is said of missed slots: they are counted anyway."""


def _ours(plan: Plan, changes: Mapping[str, object]) -> object:
    """Build what the agent builds, with a kind of its own and no outbox."""
    clocks = SystemClock()
    saved = SavedClock("boot", clocks.raw(), UtcNs(clocks.wall()), 1_000_000, 0.0, 1e-6)
    clock = DeviceClock(clocks, Discipline(Policy(("server",)), saved=saved, boot="boot"))

    async def no_op(context: Context, _options: Section) -> None:
        if plan.begin <= context.slot < plan.end:
            plan.late.append(time.time_ns() - context.slot)

    async def accept(submission: Submission) -> str:
        raise NotImplementedError(submission)

    runner = Runner(
        Limits(max_concurrent=64, max_waiting=10_000),
        work=Kinds(
            lambda: {"no-op": Kind("no-op", Section, no_op)},
            RunContexts(accept, clock, Path("state"), Locals({}, {}, {}), 1000).of,
        ).begin,
        clock=clock,
        uniform=random.random,
        ended=lambda run, outcome: scheduler.ended(run, outcome),  # noqa: PLW0108  # it is made below
        host="bench",
    )
    timers = Timers(make_alarm, lambda: clock.now().time)
    scheduler = Scheduler(timers, runner, _Blank(), clock=clock, new_trace=new_trace)
    job = Job.model_validate({"kind": "no-op", "every": "1s", "splay": "1s" if plan.spread else "0s"})
    jobs = {str(number): job.model_copy(update=changes) for number in range(plan.jobs)}
    scheduler.configure(jobs, Place(DEVICE, "UTC", UTC), lambda _name, document: Job.model_validate(document))

    return asyncio.get_running_loop().create_task(scheduler.run(first_sync_wait=DurationNs(0)))


async def apscheduler(plan: Plan) -> object:
    """Run APScheduler."""
    scheduler = AsyncIOScheduler(timezone=UTC)
    for number in range(plan.jobs):
        first = datetime.fromtimestamp(plan.first[number] / NANOSECONDS_PER_SECOND, UTC)
        end = first + timedelta(seconds=(plan.end - plan.begin) / NANOSECONDS_PER_SECOND - 0.5)
        scheduler.add_job(plan.work, IntervalTrigger(seconds=1, start_date=first, end_date=end), args=(number,))
    scheduler.start()
    return scheduler


async def call_at(plan: Plan) -> object:
    """Run what asyncio has: a call for each slot, and a task for each run."""
    loop = asyncio.get_running_loop()
    offset = time.time_ns() - seconds(loop.time())
    tasks: set[asyncio.Task[None]] = set()

    def due(number: int, slot: int) -> None:
        task = loop.create_task(plan.work(number))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        wait(number, slot + PERIOD)

    def wait(number: int, slot: int) -> None:
        if slot < plan.end:
            loop.call_at((slot - offset) / NANOSECONDS_PER_SECOND, due, number, slot)

    for number in range(plan.jobs):
        wait(number, plan.first[number])
    return tasks


async def threads(plan: Plan) -> object:
    """Run a thread for each slot."""

    def due(number: int, slot: int) -> None:
        plan.late.append(time.time_ns() - slot)
        wait(number, slot + PERIOD)

    def wait(number: int, slot: int) -> None:
        if slot < plan.end:
            threading.Timer((slot - time.time_ns()) / NANOSECONDS_PER_SECOND, due, (number, slot)).start()

    for number in range(plan.jobs):
        wait(number, plan.first[number])
    return None


CONTENDERS: Final[dict[str, Contender]] = {
    "ours": ours,
    "ours, timeout and log": ours_with_both,
    "APScheduler": apscheduler,
    "call_at": call_at,
    "threads": threads,
}
BASE: Final = "APScheduler"


# ---------------------------------------------------------------- one case, in a process of its own
async def run_one(name: str, *, jobs: int, length_s: int, spread: bool) -> Sample:
    """Run a contender."""
    set_up_s = 1 + jobs / 2000
    begin = time.time_ns() + seconds(set_up_s)
    plan = Plan(jobs, length_s, begin=UtcNs(begin - begin % PERIOD), spread=spread)
    kept = await CONTENDERS[name](plan)
    gc.collect()
    gc.freeze()
    left_s = (plan.begin - time.time_ns()) / NANOSECONDS_PER_SECOND
    if left_s < 0:
        raise RuntimeError(f"{name}: it took longer than {set_up_s:g} s to set up")
    await asyncio.sleep(left_s - 0.01)
    before = time.process_time()
    await asyncio.sleep(length_s + 0.01)
    cpu_us, made = 1e6 * (time.process_time() - before), len(plan.late)
    await asyncio.sleep(SETTLES_S)
    if isinstance(kept, asyncio.Task):
        kept.cancel()
        await asyncio.wait((kept,))
    late = sorted(plan.late)
    p50, p99 = (late[int(len(late) * part)] / 1e6 for part in (0.5, 0.99))
    return Sample(cpu_us / made, jobs * length_s, len(late), p50, p99)


# ---------------------------------------------------------------- all of them
def _ask(name: str, length_s: int, *, spread: bool) -> Sample:
    jobs = THREADS if name == "threads" else JOBS
    phases = ["--spread"] if spread else []
    done = subprocess.run(
        [sys.executable, "-m", __spec__.name, "--one", name, "--jobs", str(jobs), "--seconds", str(length_s), *phases],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # APScheduler says of each run that it missed it
        timeout=ONE_WITHIN_S,
        check=True,
    )
    return Sample(**json.loads(done.stdout))


def measure_all(rounds: int, length_s: int) -> list[Row]:
    """Return the lines of the report."""
    rows = []
    for spread in (True, False):
        samples: dict[str, list[Sample]] = {name: [] for name in CONTENDERS}
        for _ in range(rounds):
            for name, taken in samples.items():
                taken.append(_ask(name, length_s, spread=spread))
        rows += _rows(samples, spread=spread)
    return rows


def _rows(samples: dict[str, list[Sample]], *, spread: bool) -> list[Row]:
    base = statistics.median(sample.cpu_us for sample in samples[BASE])
    rows = []
    for name, taken in samples.items():
        where = f"{name}, {'phases spread' if spread else 'all at one instant'}"
        where += f", {THREADS} jobs" if name == "threads" else ""
        cpu_us = statistics.median(sample.cpu_us for sample in taken)
        p99_ms = statistics.median(sample.p99_ms for sample in taken)
        p50_ms = statistics.median(sample.p50_ms for sample in taken)
        missed = max(sample.due - sample.made for sample in taken)
        of_base = f"{cpu_us:.0f} us of CPU a run, {cpu_us / base:.2f} of {BASE}'s"
        late = f"late by {p50_ms:.2f} ms (p50), {p99_ms:.2f} ms (p99)"
        if spread and name.startswith("ours"):
            most = MAX_OF_APSCHEDULER if name == "ours" else MAX_OF_APSCHEDULER_BOTH
            rows += [
                at_most(where, of_base, cpu_us / base, most, ""),
                at_most(f"{where}: lateness", late, p99_ms, MAX_LATE_MS, "ms"),
                at_most(f"{where}: missed", f"{missed}", missed, 0, ""),
            ]
        else:
            rows.append(Row(where, f"{of_base}; {late}; {missed} missed", cpu_us))
    return rows


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scheduler", description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="exit with 1 when a requirement is missed")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured; default: 3")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="how long each run lasts; default: 10")
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--jobs", type=int, default=JOBS, help=argparse.SUPPRESS)
    parser.add_argument("--spread", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Run the benchmark."""
    args = _parse()
    if args.one:
        sample = asyncio.run(run_one(args.one, jobs=args.jobs, length_s=args.seconds, spread=args.spread))
        print(json.dumps(asdict(sample)))
        return 0
    return report(measure_all(args.rounds, args.seconds), args)


if __name__ == "__main__":
    sys.exit(main())
