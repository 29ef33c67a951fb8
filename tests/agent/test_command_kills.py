"""Commands of an agent that is killed, at any moment and again and again: each has one end, no effect comes twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from tests.agent.test_jobs import lines
from tests.support.agents import AgentProcess, agent
from tests.support.brokers import mosquitto
from tests.support.commanding import FINAL, Effects, Operator, acknowledged, device_text, known_time, operator

pytestmark = pytest.mark.broker
PATIENT: Final = ("max_queued_messages 0",)
LONG: Final = {"before_ms": 600_000}


@contextlib.asynccontextmanager
async def commanded(
    tmp_path: Path, *, extra: str = "", every: str = "1s"
) -> AsyncIterator[tuple[AgentProcess, Effects, Operator]]:
    """Have a device that obeys all, and somebody who commands it."""
    effects = Effects(tmp_path)
    async with mosquitto(tmp_path, config_lines=PATIENT) as broker:
        text = device_text(broker.url, extra=extra, every=every)
        async with agent(tmp_path, text, **effects.environ) as process, operator(broker.url) as one:
            await process.logged("health")  # then it has subscribed
            yield process, effects, one


async def killed(process: AgentProcess) -> None:
    """Kill the agent and wait until it is gone."""
    process.signal(signal.SIGKILL)
    await process.wait()


async def again(process: AgentProcess) -> None:
    """Kill the agent, and start it again."""
    await killed(process)
    process.start()


# ---------------------------------------------------------------- the same again
@pytest.mark.timeout_s(60)
async def test_the_same_id_a_hundred_times_and_again_after_a_kill_has_one_effect_and_as_many_equal_ends(
    tmp_path: Path,
) -> None:
    """Half of them while it runs, half of them after its end, one in the next life."""
    effects = Effects(tmp_path)
    async with mosquitto(tmp_path, config_lines=PATIENT) as broker:
        text = device_text(broker.url)
        async with agent(tmp_path, text, **effects.environ) as process, operator(broker.url) as one:
            await process.logged("health")
            for _ in range(50):
                _ = one.send("append", id="same", args={"before_ms": 500})
            _ = await one.said("same", "succeeded", count=50)
            for _ in range(50):
                _ = one.send("append", id="same", args={"before_ms": 500})
            _ = await one.said("same", "succeeded", count=100)
            await one.until(lambda: len(acknowledged(broker)) >= 100, "all PUBACKs")
            await again(process)
            _ = one.send("append", id="same", args={"before_ms": 500})
            ends = await one.said("same", "succeeded", count=101)
            assert (await one.give("ping")).state == "succeeded"
            assert len(one.finals("same")) == len({reply.event["id"] for reply in ends}) == 101
            assert all(reply.data == ends[0].data for reply in ends)
            assert effects() == ["same"]


# ---------------------------------------------------------------- at any moment
@pytest.mark.parametrize(
    ("kills", "commands"),
    [
        pytest.param(20, 400, marks=pytest.mark.timeout_s(150)),
        pytest.param(200, 1000, marks=[pytest.mark.slow, pytest.mark.timeout_s(1500)]),
    ],
)
async def test_no_kill_makes_an_effect_come_twice_or_leaves_a_command_without_its_end(
    kills: int, commands: int, tmp_path: Path
) -> None:
    """Commands that append a line to a file and may not be done twice; some are sent more than once."""
    seed = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1 << 32)
    print(f"SEED={seed}")
    rng = random.Random(seed)  # noqa: S311  # no secret
    ids: list[str] = []
    sent: dict[str, dict[str, int]] = {}
    async with commanded(tmp_path) as (process, effects, one):

        def send_some(count: int) -> None:
            for _ in range(count):
                args = {"before_ms": rng.choice((0, 0, 2, 10)), "after_ms": rng.choice((0, 0, 2, 10))}
                ids.append(one.send("append", args=args))
                sent[ids[-1]] = args
                if rng.random() < 0.2:  # a sender that has not heard of one asks again
                    old = rng.choice(ids)
                    _ = one.send("append", id=old, args=sent[old])

        for number in range(kills):
            send_some(max(commands * (number + 1) // kills - len(ids), 0))
            if rng.random() < 0.2:  # while it starts
                await asyncio.sleep(rng.uniform(0, 1))
            else:
                ended = len(one.replies)
                with contextlib.suppress(AssertionError):  # what was to be done was done before
                    _ = await one.until(lambda count=ended: one.replies[count:], "a reply", within_s=8)  # type: ignore[misc]
                if rng.random() < 0.5:  # while some arrive
                    send_some(rng.randrange(10))
                await asyncio.sleep(rng.uniform(0, rng.choice((0.02, 0.15))))
            await again(process)
        await one.delivered()
        await one.ended(ids, within_s=60)
        assert (await one.give("ping")).state == "succeeded"
        judge(one, effects, ids)


def judge(one: Operator, effects: Effects, ids: list[str]) -> None:
    """Each command has one end; its effect is there once if it succeeded, and at most once if nobody knows."""
    done, told = Counter(effects()), Counter[tuple[str, int]]()
    assert set(done) <= set(ids)
    for command_id in ids:
        ends = {json.dumps(reply.data) for reply in one.finals(command_id)}
        assert len(ends) == 1, ends
        state = one.finals(command_id)[0].state
        assert state in FINAL
        assert (state, done[command_id]) in {("succeeded", 1), ("interrupted", 0), ("interrupted", 1)}, command_id
        told[state, done[command_id]] += 1
    print({f"{state}, {count} times": number for (state, count), number in told.items()})
    assert told["succeeded", 1] > len(ids) / 2


# ---------------------------------------------------------------- what is cut off
async def test_what_was_under_way_at_a_kill_or_a_stop_ends_as_it_was_declared(tmp_path: Path) -> None:
    """Interrupted; or done again until it is done; what waited is done, and what was asked for it is there once."""
    async with commanded(tmp_path) as (process, effects, one):
        for cut, how in ((signal.SIGKILL, "repeat"), (signal.SIGTERM, "repeat")):
            before = len(effects())
            once = one.send("append", args=LONG)
            line = [one.send("one-by-one", args={"after_ms": ms}) for ms in (600_000, 0)]
            twice = one.send(how, args={"after_ms": 1500})
            await one.until(lambda: {line[0], twice} <= set(effects()), "two effects")  # noqa: B023
            _ = await one.said(once, "running")
            process.signal(cut)
            await process.wait()
            process.start()
            for command_id in (once, line[0]):
                reply = await one.final(command_id)
                assert (reply.state, reply.code) == ("interrupted", "interrupted")
                assert reply.data["started"] is not None
            for command_id in (line[1], twice):
                assert (await one.final(command_id)).state == "succeeded"
            assert Counter(effects()[before:]) == {line[0]: 1, line[1]: 1, twice: 2}


async def test_what_is_cancelled_ends_so_whether_it_runs_or_waits(tmp_path: Path) -> None:
    """And what nobody knows is not cancelled."""
    async with commanded(tmp_path) as (_, effects, one):
        running, waiting = one.send("one-by-one", args=LONG), one.send("one-by-one")
        delayed = one.send("append", delay="1h")
        _ = await one.said(running, "running")
        for command_id in (waiting, running, delayed):
            said = await one.give("cancel", args={"id": command_id})
            assert said.data["result"] == {"cancelled": True}
            assert (await one.final(command_id)).state == "cancelled"
        for command_id in (running, "c-unknown"):
            said = await one.give("cancel", args={"id": command_id})
            assert said.data["result"] == {"cancelled": False}
        assert one.states(waiting) == ["accepted", "cancelled"]
        assert one.states(running) == ["accepted", "running", "cancelled"]
        assert effects() == []


# ---------------------------------------------------------------- what ends the agent
@pytest.mark.timeout_s(45)
async def test_a_command_that_ends_the_agent_is_begun_three_times_and_no_more(tmp_path: Path) -> None:
    """It may be done twice, so it is; then somebody has to look. What came with it is obeyed."""
    async with commanded(tmp_path) as (process, effects, one):
        poison, other = one.send("poison"), one.send("repeat", delay="1s")
        for _ in range(3):
            assert await process.wait(15) == 7
            process.start()
        reply = await one.final(poison)
        assert (reply.state, reply.code) == ("failed", "failed")
        assert "3 times" in reply.data["error"]["message"]
        assert (await one.final(other)).state == "succeeded"
        assert effects().count(poison) == 3
        await again(process)
        _ = one.send("poison", id=poison)
        _ = await one.said(poison, "failed", count=2)
        assert effects().count(poison) == 3


async def test_a_command_whose_purpose_is_the_end_of_the_agent_succeeds_in_its_next_life(tmp_path: Path) -> None:
    """One of a package that kills it, and ``restart``, which keeps the process; each ends the agent once."""
    async with commanded(tmp_path) as (process, effects, one):
        leaves = one.send("leave")
        await process.wait()
        process.start()
        reply = await one.final(leaves)
        assert (reply.state, reply.data["result"]) == ("succeeded", {"done": True})
        assert effects() == [leaves]
        begun = len(process.events("started"))
        reply = await one.give("restart")
        assert reply.state == "succeeded"
        await process.logged("started", begun + 1)
        _ = one.send("restart", id=reply.data["id"])
        _ = await one.said(reply.data["id"], "succeeded", count=2)
        assert (await one.give("ping")).state == "succeeded"
        assert len(process.events("started")) == begun + 1


async def test_a_job_that_was_commanded_is_run_again_after_a_kill_if_that_was_promised(tmp_path: Path) -> None:
    """The command ends with the run it is about, in whatever life that is."""
    files = {name: tmp_path / name for name in ("most", "least")}
    programs = {
        name: {"argv": ["/bin/sh", "-c", f'echo x >> {file}; [ "$(wc -l < {file})" = 2 ] || exec sleep 600']}
        for name, file in files.items()
    }
    jobs = {
        name: {"kind": "exec", "every": "1d", "splay": "0s", "timeout": "10m", "options": {"program": name}}
        | {"guarantee": f"at_{name}_once"}
        for name in files
    }
    extra = f"[jobs]\n{lines(jobs)}\n[programs]\n{lines(programs)}"
    async with commanded(tmp_path, extra=extra) as (process, _, one):
        ids = {name: one.send("job-run", args={"job": name}) for name in files}
        await one.until(lambda: all(file.exists() for file in files.values()), "two runs")
        await again(process)
        ends = {name: await one.final(ids[name]) for name in files}
        assert (ends["most"].state, ends["most"].code) == ("interrupted", "interrupted")
        assert ends["least"].state == "succeeded", ends["least"]
        assert [len(file.read_text().split()) for file in files.values()] == [1, 2]


# ---------------------------------------------------------------- what waits
async def test_what_waits_for_its_time_does_so_across_a_kill(tmp_path: Path) -> None:
    """By a delay, by a date, and by a time to live that ends first."""
    async with commanded(tmp_path, extra=known_time(tmp_path)) as (process, effects, one):
        asked = time.time()
        delayed = one.send("append", delay="3s")
        doomed = one.send("one-by-one", args=LONG) and one.send("one-by-one", ttl="2s")
        _ = await one.said(doomed, "accepted")
        _ = await one.said(delayed, "accepted")
        await again(process)
        reply = await one.final(delayed)
        assert reply.state == "succeeded"
        assert time.time() - asked >= 3
        assert effects().count(delayed) == 1
        ends = {"succeeded": 1, "expired": 0}  # it depends on how long the agent was away
        assert effects().count(doomed) == ends[(await one.final(doomed)).state]
