"""Power cuts in the middle of a tail: the consumer has every line, once."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from edge_agent.core.records import Priority
from edge_agent.core.submission import Submission
from edge_agent.core.timebase import seconds
from edge_agent.jobs.files import KIND
from edge_agent.ports import Message
from tests.fakes import FakeBroker
from tests.support.iotrace import Iotrace
from tests.support.job_context import context, run
from tests.support.killing import finished
from tests.support.outbox_worker import Running, running
from tests.support.power_cut import PowerCut, marker

TURNS = 60


class ReadingBroker(FakeBroker):
    """Says which event it has got, and of which lines, before it acknowledges it."""

    def __init__(self, say: Callable[[bytes], None], **more: Any) -> None:  # noqa: ANN401  # as the broker takes it
        super().__init__(**more)
        self.say = say

    @override
    def route(self, message: Message) -> None:
        if message.topic.endswith("/up/data/j"):
            event = json.loads(message.payload)
            numbers = ",".join(line.partition(":")[0] for line in event["data"]["lines"])
            self.say(f"{event['id']} {numbers}".encode())
        super().route(message)


async def _one_run(one: Running, folder: Path, logs: Path) -> None:
    async def publish(data: bytes, *, key: str | None = None) -> str:
        return await one.outbox.accept(Submission("data/j", data, key=key))

    ctx = context(folder, publish, folders={"in": {"path": str(logs), "may": ["read"]}})
    await run(KIND, ctx, folder="in", mode="tail", pattern="app.log")


def _rotate(logs: Path, turn: int) -> None:
    """Rotate by renaming, or by copying and truncating; all that there was stays in the folder."""
    log, old = logs / "app.log", logs / f"app.log.{turn:03}"
    if turn % 2:
        log.rename(old)
    else:
        shutil.copy(log, old)
        log.write_bytes(b"")


def tailing(_report: Callable[[bytes], None], folder: str, logs: str) -> None:
    """Be the worker whose power is cut: log, rotate and tail, offline and online; and keep what the logs were when."""
    traced, current, rng = Path(folder), Path(logs, "now"), random.Random(5)  # noqa: S311  # reproducible
    say, moments = marker(traced), itertools.count()

    def keep() -> None:
        moment = next(moments)
        shutil.copytree(current, Path(logs, str(moment)))
        say(b"T %d" % moment)

    async def main() -> None:
        written = 0
        broker = ReadingBroker(say)
        current.mkdir()
        async with running(traced / "state", broker=broker, looks_after=False, commit=seconds(0.02)) as one:
            for turn in range(TURNS):
                broker.up = turn % 20 < 12
                if not broker.up:
                    broker.crash()
                with (current / "app.log").open("a") as log:
                    for _ in range(rng.randrange(1, 30)):
                        log.write(f"{written}:" + "x" * rng.choice((0, 10, 100, 3000)) + "\n")
                        written += 1
                keep()
                await _one_run(one, traced, current)
                if rng.random() < 0.3:
                    _rotate(current, turn)
                    keep()

    asyncio.run(main())


async def _consumed(state: Path, logs: Path, events: dict[str, list[int]]) -> list[int]:
    """Run once more on what a cut has left, send all, and return the lines' numbers, repeats of events dropped."""

    def hear(mark: bytes) -> None:
        name, found = _event(mark)
        assert events.setdefault(name, found) == found, f"{name} is another one"

    async with running(state / "state", broker=ReadingBroker(hear), looks_after=False) as one:
        await _one_run(one, state, logs)
        fresh = one.outbox.lanes[Priority.NORMAL].fresh
        await one.until(lambda: one.outbox.online and not one.outbox.state.records and not fresh)
    by_number = sorted(events.items(), key=lambda item: int(item[0].partition(".")[2]))
    return [number for _, found in by_number for number in found]


def _event(mark: bytes) -> tuple[str, list[int]]:
    name, _, numbers = mark.decode().partition(" ")
    return name, [int(number) for number in numbers.split(",")]


def _wrong_after_cuts(tmp_path: Path, states: int) -> list[str]:
    """Return what is wrong after power cuts at random moments of one life."""
    traced, logs, state, log = (tmp_path / name for name in ("traced", "logs", "state", "log"))
    traced.mkdir()
    logs.mkdir()
    finished(tailing, traced, logs, environ=Iotrace(traced).environ(log=log), within_s=120)
    assert len(list((logs / "now").iterdir())) > 10
    cut, rng = PowerCut.load(log), random.Random(6)  # noqa: S311  # reproducible
    wrong: list[str] = []
    begun = next(index for index, mark in cut.marks if mark == b"T 0")
    for at in cut.cuts(states, rng, first=begun):
        cut.build(at, rng, state)
        marks = cut.marks_before(at)
        found_then = [mark[2:].decode() for mark in marks if mark.startswith(b"T ")]
        shutil.rmtree(tmp_path / "found", ignore_errors=True)
        shutil.copytree(logs / found_then[-1], tmp_path / "found")
        texts = [file.read_text() for file in (tmp_path / "found").iterdir()]
        lines = sorted(int(line.partition(":")[0]) for text in texts for line in text.splitlines())
        assert lines == list(range(len(lines)))
        events = dict(_event(mark) for mark in marks if not mark.startswith(b"T "))
        found = asyncio.run(_consumed(state, tmp_path / "found", events))
        if found != lines:
            lost, twice = sorted({*lines} - {*found})[:5], [n for n, count in Counter(found).items() if count > 1][:5]
            wrong.append(f"cut {at} of {len(cut.ops)}: lost {lost}, twice {twice}")
    return wrong


@pytest.mark.timeout_s(180)
def test_a_power_cut_loses_and_doubles_no_line_of_a_tail(tmp_path: Path) -> None:
    """At any moment, offline and online, while the file grows and is rotated; what was written stays in the folder."""
    assert _wrong_after_cuts(tmp_path, 30) == []


@pytest.mark.slow
@pytest.mark.timeout_s(3600)
def test_a_thousand_power_cuts_lose_and_double_no_line_of_a_tail(tmp_path: Path) -> None:
    """The same, 1,000 times."""
    assert _wrong_after_cuts(tmp_path, 1000) == []
