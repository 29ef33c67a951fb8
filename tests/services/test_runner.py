"""Runs and what becomes of them, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.config_jobs import Job
from edge_agent.core.config_jobs import Runner as Limits
from edge_agent.core.runs import Cause, Outcome, Run, Status
from edge_agent.core.timebase import UtcNs, rfc3339, seconds
from edge_agent.core.waiting_line import URGENCIES
from edge_agent.errors import JobError, OutboxError
from edge_agent.services.runner import KILLING, Runner, runs_log
from tests.fakes import EPOCH, FakeClock

HOST: Final = "gw-1"
GRACE_S: Final = 5
KILLING_S: Final = KILLING / 1e9
END_S: Final = 86_400

Deed = Callable[[], Awaitable[Mapping[str, object] | None]]


def job(**settings: object) -> Job:
    """Return a job with these settings; it has a minute."""
    return Job.model_validate({"kind": "test", "every": "1m", "timeout": "1m"} | settings)


def works(for_s: float, *, after_cancel_s: float = 0) -> Deed:
    """Return what works for so long, and takes so long to end when it is cancelled."""

    async def work() -> Mapping[str, object]:
        try:
            await asyncio.sleep(for_s)
        except asyncio.CancelledError:
            await asyncio.sleep(after_cancel_s)
            raise
        return {"worked_s": for_s}

    return work


def raises(error: BaseException, *, times: int = sys.maxsize) -> Deed:
    """Return what fails so often, then succeeds."""
    left = times

    async def fail() -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise error

    return fail


class Shop:
    """A runner and what it runs; a job that nobody told what to do works for ten seconds.

    Attributes:
        does: what each job does.
        began: the jobs whose attempts began, and when, in seconds.
        outcomes: what was reported, in order.
        most: how many were at work at one time, and how many waited, at most.
    """

    def __init__(self, places: int, waiting: int) -> None:
        self.clock = FakeClock()
        self.does: dict[str, Deed] = {}
        self.began: list[tuple[str, float]] = []
        self.outcomes: list[tuple[Run, Outcome]] = []
        self.at_work = 0
        self.most = [0, 0]
        self.released = asyncio.Event()
        self.runner = Runner(
            Limits(max_concurrent=places, max_waiting=waiting),
            work=self._work,
            clock=self.clock,
            uniform=lambda: 0.5,
            ended=lambda run, outcome: self.outcomes.append((run, outcome)),
            host=HOST,
        )

    async def _work(self, run: Run, _job: Job) -> Mapping[str, object] | None:
        self.began.append((run.job, self.now_s()))
        self.at_work += 1
        self._look()
        try:
            return await self.does.get(run.job, works(10))()
        finally:
            self.at_work -= 1

    def _look(self) -> None:
        self.most = [max(self.most[0], self.at_work), max(self.most[1], len(self.runner._line))]

    def now_s(self) -> float:
        """Return the seconds since the start."""
        return asyncio.get_running_loop().time()

    def submit(
        self,
        name: str,
        spare: Job | None = None,
        *,
        cause: Cause = "schedule",
        **settings: Any,  # noqa: ANN401  # whatever a job may say
    ) -> Run:
        """Submit a run that is due now."""
        run = Run(name, self.clock.now().time, f"{len(self.began):032x}", cause)
        self.runner.submit(run, job(**settings), spare)
        self._look()
        return run

    async def hang(self) -> None:
        """Do what cannot be cancelled, until it is released."""
        while not self.released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.released.wait()

    def said(self) -> list[tuple[str, Status]]:
        """Return what was reported."""
        return [(run.job, outcome.status) for run, outcome in self.outcomes]

    def reason(self) -> str:
        """Return the reason of the last outcome."""
        return self.outcomes[-1][1].reason or ""


@contextlib.asynccontextmanager
async def open_shop(*, places: int = 2, waiting: int = 2) -> AsyncIterator[Shop]:
    """Run a shop; at the end whatever hangs is released."""
    shop = Shop(places, waiting)
    try:
        yield shop
    finally:
        shop.released.set()
        await shop.runner.stop()


# ---------------------------------------------------------------- one run
@pytest.mark.virtual
async def test_a_run_that_succeeds_is_told_with_its_times_and_its_result() -> None:
    """It was due 2 s ago and took 10 s."""
    async with open_shop() as shop:
        await asyncio.sleep(2)
        run = Run("sync", EPOCH, "a" * 32)
        shop.runner.submit(run, job())
        await asyncio.sleep(60)
        assert shop.outcomes == [
            (
                run,
                Outcome(
                    "succeeded",
                    started=UtcNs(EPOCH + seconds(2)),
                    finished=UtcNs(EPOCH + seconds(12)),
                    lateness_ms=2_000.0,
                    result={"worked_s": 10},
                ),
            )
        ]
        assert list(shop.runner.history.jobs["sync"].last) == shop.outcomes


@pytest.mark.virtual
@pytest.mark.parametrize(
    ("error", "reason", "tracebacks"),
    [
        (JobError("no such host\nat all"), "no such host", []),
        (OutboxError("the outbox is full", word="full"), "the outbox is full", []),
        (RuntimeError("a bug"), "RuntimeError: a bug", ["bad"]),
        (SystemExit(3), "SystemExit: 3", ["bad"]),
        (asyncio.CancelledError(), "it was cancelled, but not by the agent", []),
    ],
)
async def test_a_run_that_raises_fails_alone(
    error: BaseException, reason: str, tracebacks: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A reason outside is one line; a bug of the kind's is logged with its traceback; the others go on."""
    async with open_shop() as shop:
        shop.does["bad"] = raises(error)
        shop.submit("good")
        shop.submit("bad")
        await asyncio.sleep(20)
        assert shop.said() == [("bad", "failed"), ("good", "succeeded")]
        assert shop.outcomes[0][1].reason == reason
        assert [vars(record)["task_name"] for record in caplog.records if record.exc_info] == tracebacks


@pytest.mark.virtual
async def test_a_run_that_lasts_too_long_is_timed_out() -> None:
    """When its time is up, not later."""
    async with open_shop() as shop:
        shop.does["slow"] = works(100)
        shop.submit("slow", timeout="30s")
        await asyncio.sleep(31)
        assert shop.said() == [("slow", "timed_out")]
        assert shop.reason() == "it ran longer than 30 s"
        assert shop.outcomes[0][1].duration_ms == 30_000


@pytest.mark.virtual
async def test_a_job_without_a_timeout_may_run_for_a_day() -> None:
    """And no timer is made for it."""
    async with open_shop() as shop:
        shop.does["slow"] = works(END_S)
        shop.runner.submit(Run("slow", EPOCH, "0" * 32), job().model_copy(update={"timeout": None}))
        assert shop.runner._active["slow"].timer is None
        await asyncio.sleep(END_S + 1)
        assert shop.said() == [("slow", "succeeded")]


@pytest.mark.virtual
async def test_a_run_that_ignores_its_timeout_and_returns_has_timed_out_all_the_same() -> None:
    """Nobody relies on what it returned."""

    async def stubborn() -> Mapping[str, object]:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(100)
        return {"late": True}

    async with open_shop() as shop:
        shop.does["slow"] = stubborn
        shop.submit("slow", timeout="30s")
        await asyncio.sleep(31)
        assert shop.outcomes[0][1][0] == "timed_out"
        assert shop.outcomes[0][1].result is None


@pytest.mark.virtual
async def test_a_bug_of_whoever_is_told_is_not_the_runs_and_is_not_swallowed() -> None:
    """It comes out of a callback, which is how the agent learns of its own bugs."""
    bugs: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: bugs.append(context["exception"]))
    bug = ValueError("a bug of ours")

    def ended(_run: Run, _outcome: Outcome) -> None:
        raise bug

    async with open_shop() as shop:
        shop.runner._ended = ended
        shop.does["quick"] = raises(JobError(""), times=0)
        shop.submit("quick")
        await asyncio.sleep(1)
        assert bugs == [bug]


# ---------------------------------------------------------------- places
@pytest.mark.virtual
async def test_who_waits_begins_by_urgency_and_then_by_age() -> None:
    """As places become free."""
    async with open_shop(places=1, waiting=10) as shop:
        for name, priority in (("a", "bulk"), ("b", "bulk"), ("c", "normal"), ("d", "critical"), ("e", "normal")):
            shop.submit(name, priority=priority)
        assert [shop.runner.state(name) for name in "abx"] == ["running", "waiting", "idle"]
        await asyncio.sleep(100)
        assert shop.began == [("a", 0), ("d", 10), ("c", 20), ("e", 30), ("b", 40)]


@pytest.mark.virtual
async def test_more_places_are_taken_at_once() -> None:
    """By those who wait; fewer are there only when some have ended."""
    async with open_shop(places=1, waiting=10) as shop:
        for name in "abcd":
            shop.submit(name)
        await asyncio.sleep(1)
        shop.runner.allow(Limits(max_concurrent=3, max_waiting=10))
        await asyncio.sleep(1)
        shop.runner.allow(Limits(max_concurrent=1, max_waiting=10))
        await asyncio.sleep(100)
        assert shop.began == [("a", 0), ("b", 1), ("c", 1), ("d", 11)]


@pytest.mark.virtual
async def test_when_the_line_is_full_the_least_urgent_newest_is_skipped() -> None:
    """It is reported at once, and counted."""
    async with open_shop(places=1, waiting=2) as shop:
        for name, priority in (("a", "normal"), ("b", "bulk"), ("c", "bulk"), ("d", "critical"), ("e", "bulk")):
            shop.submit(name, priority=priority)
        assert shop.said() == [("c", "skipped"), ("e", "skipped")]
        assert shop.reason() == "no place in the waiting line; runner.max_waiting is 2"
        assert shop.outcomes[0][1].started is None
        assert shop.runner.history.counts == {"skipped": 2}


# ---------------------------------------------------------------- overlap
@pytest.mark.virtual
async def test_a_job_that_still_runs_skips_its_next_run() -> None:
    """The default."""
    async with open_shop() as shop:
        shop.submit("slow")
        shop.submit("slow")
        await asyncio.sleep(20)
        assert shop.said() == [("slow", "skipped"), ("slow", "succeeded")]
        assert len(shop.began) == 1


@pytest.mark.virtual
async def test_with_queue_one_run_waits_for_the_end_of_the_one_before() -> None:
    """A third one is skipped; that one has an end, too."""
    async with open_shop() as shop:
        for _ in range(3):
            shop.submit("slow", overlap="queue")
        await asyncio.sleep(60)
        assert shop.said() == [("slow", "skipped"), ("slow", "succeeded"), ("slow", "succeeded")]
        assert shop.began == [("slow", 0), ("slow", 10)]


@pytest.mark.virtual
async def test_with_queue_a_run_in_the_line_is_the_one_that_waits() -> None:
    """No job has two in it."""
    async with open_shop(places=1) as shop:
        shop.submit("other")
        shop.submit("slow", overlap="queue")
        shop.submit("slow", overlap="queue")
        assert shop.said() == [("slow", "skipped")]


@pytest.mark.virtual
async def test_with_cancel_the_next_run_ends_the_one_before() -> None:
    """And begins when that has ended; of those that wait for this the newest wins."""
    async with open_shop() as shop:
        shop.does["slow"] = works(10, after_cancel_s=2)
        for _ in range(3):
            shop.submit("slow", overlap="cancel")
            await asyncio.sleep(1)
        await asyncio.sleep(60)
        assert shop.said() == [("slow", "cancelled"), ("slow", "cancelled"), ("slow", "succeeded")]
        assert shop.began == [("slow", 0), ("slow", 3)]


@pytest.mark.virtual
async def test_with_cancel_the_next_run_takes_the_place_of_one_in_the_line() -> None:
    """At the end of the line, for it is the newest."""
    async with open_shop(places=1) as shop:
        shop.submit("other")
        first = shop.submit("slow", overlap="cancel")
        second = shop.submit("slow", overlap="cancel")
        assert [run for run, _ in shop.outcomes] == [first]
        await asyncio.sleep(60)
        assert shop.outcomes[-1][0] == second
        assert len(shop.began) == 2


# ---------------------------------------------------------------- attempts
@pytest.mark.virtual
async def test_a_failed_run_is_tried_again_with_longer_and_longer_pauses() -> None:
    """Half of 5, 10 and 20 s with this jitter; one run, one outcome, and the number of its last attempt."""
    async with open_shop() as shop:
        shop.does["flaky"] = raises(JobError("no"), times=3)
        shop.submit("flaky", retry={"attempts": 5, "backoff": "5s"})
        await asyncio.sleep(60)
        assert shop.began == [("flaky", at) for at in (0, 2.5, 7.5, 17.5)]
        assert shop.said() == [("flaky", "succeeded")]
        assert shop.outcomes[0][0].attempt == 4
        assert shop.outcomes[0][1].duration_ms == 17_500


@pytest.mark.virtual
async def test_a_run_that_pauses_gives_up_its_place() -> None:
    """There is but one, and another job uses it."""
    async with open_shop(places=1) as shop:
        shop.does["flaky"] = raises(JobError("no"))
        shop.submit("flaky", retry={"attempts": 2, "backoff": "10s"})
        await asyncio.sleep(1)
        assert shop.runner.state("flaky") == "pausing"
        shop.submit("other")
        await asyncio.sleep(60)
        assert shop.began == [("flaky", 0), ("other", 1), ("flaky", 11)]
        assert shop.said() == [("other", "succeeded"), ("flaky", "failed")]


@pytest.mark.virtual
async def test_each_attempt_has_its_own_timeout() -> None:
    """And one that timed out is tried again."""
    async with open_shop() as shop:
        shop.does["slow"] = works(100)
        shop.submit("slow", timeout="10s", retry={"attempts": 2, "backoff": "10s"})
        await asyncio.sleep(60)
        assert shop.began == [("slow", 0), ("slow", 15)]
        assert shop.said() == [("slow", "timed_out")]


@pytest.mark.virtual
async def test_another_attempt_for_which_there_is_no_place_has_failed() -> None:
    """It did run, so it was not skipped; the reason names both."""
    async with open_shop(places=1, waiting=0) as shop:
        shop.does["flaky"] = raises(JobError("no such host"))
        shop.submit("flaky", retry={"attempts": 2, "backoff": "10s"})
        await asyncio.sleep(1)
        shop.submit("other")
        await asyncio.sleep(5)
        assert shop.said() == [("flaky", "failed")]
        assert shop.reason().startswith("no such host; for another attempt no place in the waiting line")


# ---------------------------------------------------------------- cancel, grace, stop
@pytest.mark.virtual
async def test_a_run_is_cancelled_wherever_it_is() -> None:
    """At work, in the line, in the pause between two attempts; and the one that follows it with it."""
    async with open_shop(places=1) as shop:
        shop.does["flaky"] = raises(JobError("no"))
        shop.submit("flaky", retry={"attempts": 9, "backoff": "1h"})
        await asyncio.sleep(1)
        shop.submit("at work", overlap="queue")
        await asyncio.sleep(1)
        shop.submit("at work", overlap="queue")
        shop.submit("waits")
        assert all(shop.runner.cancel(name, "so said ops") for name in ("flaky", "at work", "waits"))
        await asyncio.sleep(END_S)
        assert sorted(shop.said()) == [(name, "cancelled") for name in ("at work", "at work", "flaky", "waits")]
        assert {outcome.reason for _, outcome in shop.outcomes} == {"so said ops"}
        assert shop.began == [("flaky", 0), ("at work", 1)]


@pytest.mark.virtual
async def test_a_run_that_is_cancelled_before_its_first_step_has_an_end_all_the_same() -> None:
    """A task that is cancelled so early never runs, and could tell nobody."""
    async with open_shop() as shop:
        shop.submit("slow")
        shop.runner.cancel("slow")
        await asyncio.sleep(1)
        assert shop.said() == [("slow", "cancelled")]
        assert (shop.reason(), shop.runner.state("slow")) == ("it was cancelled", "idle")


@pytest.mark.virtual
async def test_another_attempt_that_is_cancelled_before_its_first_step_has_an_end_all_the_same() -> None:
    """It has just taken the place of a run of which somebody is told."""
    async with open_shop(places=1) as shop:
        tell = shop.runner._ended

        def ended(run: Run, outcome: Outcome) -> None:
            tell(run, outcome)
            shop.runner.cancel("flaky")

        shop.does["flaky"] = raises(JobError("no"))
        shop.submit("flaky", retry={"attempts": 9, "backoff": "10s"})
        await asyncio.sleep(1)
        shop.does["flaky"] = works(10)
        shop.submit("other")
        shop.runner._ended = ended
        await asyncio.sleep(60)
        assert shop.said() == [("other", "succeeded"), ("flaky", "cancelled")]
        assert (shop.reason(), shop.runner.state("flaky")) == ("it was cancelled", "idle")


@pytest.mark.virtual
async def test_what_does_not_run_cannot_be_cancelled() -> None:
    """And whoever asks is told."""
    async with open_shop() as shop:
        assert shop.runner.cancel("nothing") is False


@pytest.mark.virtual
async def test_a_run_that_is_cancelled_before_it_begins_and_ends_at_once_has_ended() -> None:
    """Nobody gives it a grace after that, and its place is free once."""
    async with open_shop(places=1) as shop:
        shop.does["quick"] = raises(JobError(""), times=0)
        shop.submit("quick")
        assert shop.runner.cancel("quick")
        await asyncio.sleep(30)
        assert shop.said() == [("quick", "succeeded")]
        assert (shop.runner.state("quick"), shop.runner._at_work) == ("idle", 0)


@pytest.mark.virtual
async def test_no_attempt_follows_a_cancel_during_the_grace_of_a_timeout() -> None:
    """The outcome is what ended it first."""
    async with open_shop() as shop:
        shop.does["slow"] = works(100, after_cancel_s=2)
        shop.submit("slow", timeout="10s", retry={"attempts": 9, "backoff": "1s"})
        await asyncio.sleep(11)
        assert shop.runner.cancel("slow")
        await asyncio.sleep(60)
        assert shop.said() == [("slow", "timed_out")]
        assert len(shop.began) == 1


@pytest.mark.virtual
@pytest.mark.parametrize("grace_s", [0, GRACE_S])
async def test_a_cancelled_run_may_use_its_grace(grace_s: int) -> None:
    """All of it, and the moment that a kill takes."""
    async with open_shop() as shop:
        shop.does["slow"] = works(100, after_cancel_s=grace_s + 0.9 * KILLING_S)
        shop.submit("slow", grace=f"{grace_s}s")
        await asyncio.sleep(1)
        shop.runner.cancel("slow")
        await asyncio.sleep(10)
        assert shop.said() == [("slow", "cancelled")]
        assert shop.reason() == "it was cancelled"


@pytest.mark.virtual
async def test_a_run_that_does_not_end_is_left_to_itself(caplog: pytest.LogCaptureFixture) -> None:
    """Its place is given away, the log is loud, and its job waits for its end: so no slot leaves another one behind."""
    async with open_shop(places=1) as shop:
        shop.does["stuck"] = shop.hang
        shop.submit("stuck", timeout="10s", grace=f"{GRACE_S}s", retry={"attempts": 9, "backoff": "1s"})
        shop.submit("other")
        await asyncio.sleep(30)
        assert shop.began == [("stuck", 0), ("other", 10 + GRACE_S + KILLING_S)]
        assert shop.said() == [("stuck", "timed_out"), ("other", "succeeded")]
        assert [record.levelname for record in caplog.records if record.message == "job_abandoned"] == ["ERROR"]
        shop.submit("stuck")
        assert shop.said()[-1] == ("stuck", "skipped")
        assert shop.runner.state("stuck") == "abandoned"

        shop.released.set()
        await asyncio.sleep(1)
        shop.submit("stuck")
        await asyncio.sleep(1)
        assert shop.said()[-1] == ("stuck", "succeeded")


@pytest.mark.virtual
async def test_at_the_stop_what_runs_has_its_grace_and_every_run_an_outcome() -> None:
    """One ends in time, one never; what waits, pauses or comes later is interrupted, too."""
    async with open_shop() as shop:
        shop.does |= {"slow": works(100, after_cancel_s=2), "stuck": shop.hang, "flaky": raises(JobError("no"))}
        shop.submit("flaky", retry={"attempts": 9, "backoff": "1h"})
        await asyncio.sleep(1)
        for name in ("slow", "stuck", "waits", "slow"):
            shop.submit(name, overlap="queue", grace=f"{GRACE_S}s")
        await asyncio.sleep(1)
        before_s = shop.now_s()
        await shop.runner.stop()
        assert shop.now_s() - before_s == pytest.approx(GRACE_S + KILLING_S)
        shop.submit("late")
        assert Counter(shop.said()) == Counter(
            (name, "interrupted") for name in ("flaky", "slow", "slow", "stuck", "waits", "late")
        )


@pytest.mark.virtual
async def test_a_stop_with_nothing_to_end_takes_no_time() -> None:
    """Nothing is waited for."""
    async with open_shop() as shop:
        await shop.runner.stop()
        assert shop.now_s() == 0


# ---------------------------------------------------------------- the breaker
@pytest.mark.virtual
async def test_while_its_breaker_is_open_the_fallback_runs_instead() -> None:
    """With the trace of the run that it stands for; after the cooldown the job is tried again."""
    async with open_shop() as shop:
        shop.does |= {"main": raises(JobError("no"), times=2), "spare": works(1)}
        settings: dict[str, Any] = {"breaker": {"failures": 2, "cooldown": "5m"}, "fallback": "spare"}
        runs = []
        for _ in range(4):
            runs.append(shop.submit("main", job(), **settings))
            await asyncio.sleep(2)
        assert shop.said() == [("main", "failed")] * 2 + [("main", "skipped"), ("spare", "succeeded")] * 2
        assert shop.outcomes[-2][1].reason == "its breaker is open; spare runs instead"
        assert shop.outcomes[-1][0] == runs[-1]._replace(job="spare", cause="fallback")
        await asyncio.sleep(300)
        shop.submit("main", job(), **settings)
        await asyncio.sleep(2)
        assert shop.said()[-1] == ("main", "succeeded")
        assert shop.runner.breakers["main"].document() == {"failures": 0, "opened": None}


@pytest.mark.virtual
async def test_a_fallback_whose_own_breaker_is_open_is_skipped() -> None:
    """Jobs that are each other's fallback do not go round in a circle."""
    async with open_shop() as shop:
        shop.does |= {"a": raises(JobError("no")), "b": raises(JobError("no"))}
        a: dict[str, Any] = {"breaker": {"failures": 1}, "fallback": "b"}
        b = a | {"fallback": "a"}
        for _ in range(3):
            shop.submit("a", job(**b), **a)
            await asyncio.sleep(1)
        assert shop.said() == [("a", "failed"), ("a", "skipped"), ("b", "failed"), ("a", "skipped"), ("b", "skipped")]


@pytest.mark.virtual
async def test_a_run_by_hand_is_not_held_back_and_closes_the_breaker_if_it_succeeds() -> None:
    """Whoever has mended the thing wants to see it run."""
    async with open_shop() as shop:
        shop.does["main"] = raises(JobError("no"), times=1)
        causes: list[Cause] = ["schedule", "schedule", "manual", "schedule"]
        for cause in causes:
            shop.submit("main", breaker={"failures": 1}, cause=cause)
            await asyncio.sleep(1)
        assert [status for _, status in shop.said()] == ["failed", "skipped", "succeeded", "succeeded"]


# ---------------------------------------------------------------- the log
@pytest.mark.virtual
async def test_each_run_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """With what a log store is searched by."""
    caplog.set_level(logging.INFO)
    async with open_shop() as shop:
        shop.does["bad"] = raises(JobError("no such host"))
        run = shop.submit("bad", cause="catch_up")
        await asyncio.sleep(1)
        (line,) = [record for record in caplog.records if record.message == "job_run"]
        told = {
            "task_name": "bad",
            "status": "failed",
            "duration_ms": 0.0,
            "host": HOST,
            "trace_id": run.trace,
            "slot": rfc3339(run.slot),
            "lateness_ms": 0.0,
            "attempt": 1,
            "cause": "catch_up",
            "reason": "no such host",
        }
        assert told.items() <= vars(line).items()
        assert line.levelno == logging.WARNING


@pytest.mark.virtual
async def test_the_line_of_each_run_can_be_switched_off_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Failures are still told from their own level on."""
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.WARNING, logger=runs_log.name)
    async with open_shop() as shop:
        shop.does |= {"good": works(0), "bad": raises(JobError("no"))}
        shop.submit("good")
        shop.submit("bad")
        await asyncio.sleep(1)
        assert [vars(record)["task_name"] for record in caplog.records if record.message == "job_run"] == ["bad"]


# ---------------------------------------------------------------- anything
SETTINGS: Final = st.fixed_dictionaries(
    {
        "priority": st.sampled_from(URGENCIES),
        "overlap": st.sampled_from(["skip", "queue", "cancel"]),
        "timeout": st.sampled_from(["1s", "3s", "60s"]),
        "grace": st.sampled_from(["0s", "2s"]),
        "retry": st.fixed_dictionaries({"attempts": st.integers(1, 3), "backoff": st.just("1s")}),
        "breaker": st.sampled_from([None, {"failures": 1, "cooldown": "2s"}]),
        "cause": st.sampled_from(["schedule", "manual"]),
    }
)
DOES: Final = st.sampled_from(["at once", "2 s", "fails", "crashes", "stubborn", "hangs"])
STEPS: Final = st.lists(
    st.one_of(
        st.tuples(st.sampled_from("abcde"), DOES, SETTINGS),  # submit this
        st.sampled_from("abcde"),  # cancel that
        st.sampled_from([0, 0.5, 1, 3]),  # wait so many seconds
    ),
    max_size=40,
)


@pytest.mark.virtual
@given(steps=STEPS, places=st.integers(1, 3), waiting=st.integers(0, 3))
async def test_whatever_happens_the_bounds_hold_and_every_run_has_one_outcome(
    steps: list[Any], places: int, waiting: int
) -> None:
    """Of one job there is never more than one at work; only what was left to itself may go beyond the places."""
    async with open_shop(places=places, waiting=waiting) as shop:
        deeds = {
            "at once": works(0),
            "2 s": works(2),
            "fails": raises(JobError("no")),
            "crashes": raises(RuntimeError("a bug")),
            "stubborn": works(9, after_cancel_s=2.5),
            "hangs": shop.hang,
        }
        submitted: list[str] = []
        for step in steps:
            match step:
                case name, does, settings:
                    shop.does[name] = deeds[does]
                    submitted.append(name)
                    shop.submit(name, **settings)
                case str(name):
                    shop.runner.cancel(name)
                case for_s:
                    await asyncio.sleep(for_s)
            assert shop.runner._at_work <= places
            assert len(shop.runner._line) <= waiting
            assert shop.at_work <= shop.runner._at_work + len(shop.runner._abandoned)
        await shop.runner.stop()
        assert Counter(run.job for run, _ in shop.outcomes) == Counter(submitted)
        assert shop.runner._at_work == len(shop.runner._line) == len(shop.runner._active) == 0
