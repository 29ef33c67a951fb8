"""Taking in what other programs have put into the inbox."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import json
import logging
import os
import random
import socket
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typing_extensions import override

from edge_agent.adapters.drop_folder import MAX_BATCH
from edge_agent.adapters.inbox_folder import InboxFolder
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.core.records import Priority
from edge_agent.core.submission import Submission
from edge_agent.core.timebase import seconds
from edge_agent.errors import EdgeAgentError, OutboxError
from edge_agent.ports import Accept, Arrival, Inbox
from edge_agent.services.inbox import LOOK_EVERY, MAX_RESISTING, Intake
from tests.fakes import FakeClock
from tests.support.inboxes import Ledger, drop, drop_many, left, logged, recorded
from tests.support.killing import Report, killed

MAX_RECORD = 120 * 1024
POLL_S = 0.005
RECORD = {"channel": "data/temp", "data": {"c": 21.5}}


PARAMETER = st.sampled_from(["channel", "data", "time", "priority", "keep", "key", "other"])


def json_bytes(value: object) -> bytes:
    """Return a value as JSON."""
    return json.dumps(value).encode()


@dataclass
class Outbox:
    """Accepts records in memory, once per key.

    Attributes:
        refuse: the word with which a record is refused; ``None`` = it is not.
    """

    refuse: Callable[[Submission], str | None] = lambda _submission: None
    offered: list[Submission] = field(default_factory=list)
    records: dict[str, Submission] = field(default_factory=dict)

    async def __call__(self, submission: Submission) -> str:
        """See ``ports.Accept``."""
        self.offered.append(submission)
        if word := self.refuse(submission):
            raise OutboxError(f"no: {word}", word=word)
        assert submission.key is not None
        self.records.setdefault(submission.key, submission)
        await asyncio.sleep(0)
        return f"outbox.{submission.key}"


@dataclass
class MemoryInbox:
    """An inbox in memory, in virtual time.

    Attributes:
        trouble: why the folder cannot be used; ``None`` = it can.
        resists: names of files that can be neither removed nor put aside.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    trouble: str | None = None
    resists: set[str] = field(default_factory=set)
    rejected: dict[str, str] = field(default_factory=dict)
    looked: list[float] = field(default_factory=list)

    async def watch(self, changed: Callable[[], None]) -> None:
        """See ``ports.Inbox``."""
        if self.trouble:
            raise EdgeAgentError(self.trouble)
        changed()
        await asyncio.Event().wait()

    async def batches(self) -> AsyncIterator[list[Arrival]]:
        """See ``ports.Inbox``."""
        self.looked.append(asyncio.get_running_loop().time())
        if self.trouble:
            raise EdgeAgentError(self.trouble)
        names = sorted(self.files)
        for first in range(0, len(names), MAX_BATCH):
            yield [
                Arrival(name, (len(content), 0, 0), f"inbox:{name}", content)
                for name in names[first : first + MAX_BATCH]
                if (content := self.files[name])
            ]

    async def settle(self, settled: Sequence[tuple[Arrival, str | None]]) -> list[Arrival]:
        """See ``ports.Inbox``."""
        for arrival, reason in settled:
            if arrival.name not in self.resists:
                del self.files[arrival.name]
                if reason is not None:
                    self.rejected[arrival.name] = reason
        return [arrival for arrival, _ in settled if arrival.name in self.resists]


def folder(path: Path) -> InboxFolder:
    """Return the inbox at a path, for the own group."""
    return InboxFolder(path, group=grp.getgrgid(os.getegid()).gr_name, max_record=MAX_RECORD)


@contextlib.asynccontextmanager
async def intake(inbox: Inbox, accept: Accept, *, uniform: float = 0.01, virtual: bool = False) -> AsyncIterator[None]:
    """Run an intake while the block runs."""
    clock = FakeClock() if virtual else SystemClock()
    service = Intake(inbox, accept, max_record=MAX_RECORD, clock=clock, uniform=lambda: uniform)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(service.run())
        try:
            yield
        finally:
            task.cancel()


async def until(condition: Callable[[], Any]) -> None:
    """Wait until something is so; the test's own deadline bounds it."""
    while not condition():  # noqa: ASYNC110  # files have no event
        await asyncio.sleep(POLL_S)


def rejected(inbox: Path) -> dict[str, str]:
    """Return the reasons of the files that were put aside."""
    return {
        path.name.removesuffix(".reason.txt"): path.read_text().strip()
        for path in (inbox / "rejected").glob("*.reason.txt")
    }


# ---------------------------------------------------------------- taking in
async def test_what_was_put_in_before_and_what_comes_is_taken_in_and_removed(tmp_path: Path) -> None:
    """In order of name; what comes is noticed at once."""
    outbox = Outbox()
    drop_many(tmp_path, [3, 1, 2])
    async with intake(folder(tmp_path), outbox):
        await until(lambda: not left(tmp_path))
        assert [orjson.loads(submission.data)["n"] for submission in outbox.offered] == [1, 2, 3]
        drop(tmp_path, "next", RECORD | {"priority": "critical"})
        await until(lambda: not left(tmp_path))
    assert len(outbox.records) == 4
    assert outbox.offered[-1].priority is Priority.CRITICAL


async def test_a_key_of_its_own_is_kept_and_a_file_without_gets_one(tmp_path: Path) -> None:
    """Two files with one key are one record."""
    outbox = Outbox()
    drop(tmp_path, "a", RECORD | {"key": "mine"})
    drop(tmp_path, "b", RECORD | {"key": "mine"})
    drop(tmp_path, "c", RECORD)
    drop(tmp_path, "d", RECORD)
    async with intake(folder(tmp_path), outbox):
        await until(lambda: not left(tmp_path))
    assert len(outbox.offered) == 4
    assert len(outbox.records) == 3
    assert "mine" in outbox.records


async def test_a_file_is_removed_only_when_its_record_is_safe(tmp_path: Path) -> None:
    """Up to so many are offered at once, so that the outbox can write them together."""
    waiting, go = 0, asyncio.Event()

    async def accept(submission: Submission) -> str:
        nonlocal waiting
        waiting += 1
        await go.wait()
        return f"outbox.{submission.key}"

    drop_many(tmp_path, range(2 * MAX_BATCH))
    async with intake(folder(tmp_path), accept):
        await until(lambda: waiting)
        await asyncio.sleep(0)
        assert waiting == MAX_BATCH
        assert len(left(tmp_path)) == 2 * MAX_BATCH
        go.set()
        await until(lambda: not left(tmp_path))
    assert waiting == 2 * MAX_BATCH


async def test_a_stop_between_acceptance_and_removal_doubles_nothing(tmp_path: Path) -> None:
    """The file is offered again with the same key."""
    outbox, settling = Outbox(), asyncio.Event()

    class Stuck(InboxFolder):
        @override
        async def settle(self, settled: Sequence[tuple[Arrival, str | None]]) -> list[Arrival]:
            settling.set()
            await asyncio.Event().wait()
            raise AssertionError

    drop_many(tmp_path, range(10))
    async with intake(Stuck(tmp_path, group="none", max_record=MAX_RECORD), outbox):
        await settling.wait()
    assert len(outbox.records) == len(left(tmp_path)) == 10
    async with intake(folder(tmp_path), outbox):
        await until(lambda: not left(tmp_path))
    assert len(outbox.offered) == 20
    assert len(outbox.records) == 10


# ---------------------------------------------------------------- refusing
async def test_a_bad_file_is_put_aside_with_the_reason_and_the_others_are_taken_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is bad about it; the log has one line for all that are found together."""
    outbox = Outbox(lambda submission: "too_large" if submission.channel == "data/large" else None)
    drop(tmp_path, "array", [1])
    drop(tmp_path, "binary", b'{"channel": "data/\xff"}')
    drop(tmp_path, "channel", RECORD | {"channel": "status"})
    drop(tmp_path, "deep", b"[" * 100_000)
    drop(tmp_path, "empty", b"")
    drop(tmp_path, "good", RECORD)
    drop(tmp_path, "huge", b" " * (20 << 20))
    drop(tmp_path, "refused", RECORD | {"channel": "data/large"})
    drop(tmp_path, "text", b"21.5 degrees")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    async with intake(folder(tmp_path), outbox):
        await until(lambda: any(record.message == "inbox_rejected" for record in logged(caplog)))
    assert not left(tmp_path)
    reasons = rejected(tmp_path)
    assert len(outbox.records) == 1
    assert reasons.pop("channel") == "channel 'status': data/NAME or event/NAME is needed"
    assert reasons.pop("refused") == "no: too_large"
    assert reasons.pop("array").startswith("the parameters must be an object")
    assert reasons.pop("huge").startswith(f"it has {20 << 20} bytes")
    assert all(reasons.pop(name).startswith("this is no regular file") for name in ("fifo", "socket"))
    assert reasons.keys() == {"binary", "deep", "empty", "text"}
    assert all(reason.startswith("not JSON: ") for reason in reasons.values())
    (line,) = [record for record in logged(caplog) if record.message == "inbox_rejected"]
    assert vars(line)["count"] == 10
    assert vars(line)["file"] == "array"


@example(b"")
@example(b'{"channel": "data/a", "data": {}}')
@example(b'{"channel": "data/a", "data": {}, "key": "\\ud800"}')
@given(
    st.binary() | st.recursive(st.none() | st.text(), lambda inner: st.dictionaries(PARAMETER, inner)).map(json_bytes)
)
async def test_any_content_ends_as_a_record_or_as_a_rejected_file(content: bytes) -> None:
    """Nothing that a file holds gets further than that."""
    with tempfile.TemporaryDirectory() as directory:
        inbox, outbox = Path(directory), Outbox()
        drop(inbox, "file", content)
        async with intake(folder(inbox), outbox):
            await until(lambda: not left(inbox) and len(outbox.records) + len(rejected(inbox)) > 0)
        assert len(outbox.records) + len(rejected(inbox)) == 1


# ---------------------------------------------------------------- trying again
@pytest.mark.parametrize("word", ["full", "busy", "lost"])
async def test_a_file_for_which_there_is_no_room_stays_until_there_is(tmp_path: Path, word: str) -> None:
    """The others are taken in meanwhile."""
    refusing = True
    outbox = Outbox(lambda submission: word if refusing and submission.priority is not Priority.CRITICAL else None)
    drop(tmp_path, "a", RECORD)
    drop(tmp_path, "b", RECORD | {"priority": "critical"})
    async with intake(folder(tmp_path), outbox):
        await until(lambda: left(tmp_path) == ["a"])
        tries = len(outbox.offered)
        await until(lambda: len(outbox.offered) > tries)
        assert left(tmp_path) == ["a"]
        refusing = False
        await until(lambda: not left(tmp_path))
    assert len(outbox.records) == 2
    assert rejected(tmp_path) == {}


@pytest.mark.virtual
async def test_trying_again_slows_down_to_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """And is said once."""
    inbox = MemoryInbox({"a": orjson.dumps(RECORD)})
    async with intake(inbox, Outbox(lambda _submission: "full"), uniform=0.999_999, virtual=True):
        await asyncio.sleep(600)
    waits = [round(after - before) for before, after in zip(inbox.looked, inbox.looked[1:], strict=False)]
    assert waits[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert [(record.message, vars(record)["reason"]) for record in logged(caplog)] == [("inbox_waits", "no: full")]


@pytest.mark.virtual
async def test_a_folder_that_cannot_be_used_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    """One warning, however long it lasts, and another one when it happens again."""
    inbox, outbox = MemoryInbox({"a": orjson.dumps(RECORD)}, trouble="no inbox: fix it"), Outbox()
    async with intake(inbox, outbox, uniform=0.999_999, virtual=True):
        await asyncio.sleep(3600)
        assert [vars(record)["reason"] for record in logged(caplog)] == ["no inbox: fix it"]
        assert len(inbox.looked) < 75
        inbox.trouble = None
        await asyncio.sleep(120)
        assert not inbox.files
        inbox.trouble = "no inbox: fix it"
        await asyncio.sleep(600)
    assert [vars(record)["reason"] for record in logged(caplog)] == ["no inbox: fix it"] * 2


@pytest.mark.virtual
async def test_a_file_that_cannot_be_removed_is_offered_once_until_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    """It holds up nothing, removal is tried again each minute, and it is said once."""
    inbox = MemoryInbox({"a": orjson.dumps(RECORD), "b": b"bad"}, resists={"a", "b"})
    outbox = Outbox()
    async with intake(inbox, outbox, virtual=True):
        await asyncio.sleep(3600)
        assert len(outbox.offered) == 1
        assert len(inbox.looked) <= 62
        assert [record.message for record in logged(caplog)] == ["inbox_files_stuck"]
        inbox.files["a"] += b" "
        inbox.files["c"] = orjson.dumps(RECORD)
        await asyncio.sleep(LOOK_EVERY / seconds(1))
        assert len(outbox.offered) == 3
        assert set(inbox.files) == {"a", "b"}
        inbox.resists.clear()
        await asyncio.sleep(LOOK_EVERY / seconds(1))
    assert not inbox.files
    assert list(inbox.rejected) == ["b"]
    assert len(outbox.offered) == 3


@pytest.mark.virtual
async def test_where_nothing_can_be_removed_no_more_is_taken_in_than_can_be_remembered() -> None:
    """A read-only disk full of files does not fill the memory."""
    files = {f"{number:04}": orjson.dumps(RECORD) for number in range(3 * MAX_RESISTING)}
    inbox, outbox = MemoryInbox(files, resists=set(files)), Outbox()
    async with intake(inbox, outbox, virtual=True):
        await asyncio.sleep(600)
    assert MAX_RESISTING <= len(outbox.offered) < MAX_RESISTING + MAX_BATCH


# ---------------------------------------------------------------- crashes
def take_in(report: Report, inbox: str, ledger: str) -> None:
    """Take in for ever; report each record, and when nothing is left."""
    logging.disable()

    async def run() -> None:
        known = Ledger(Path(ledger))

        async def accept(submission: Submission) -> str:
            repeats = known.repeats
            record_id = await known(submission)
            report(b"taken" if known.repeats == repeats else b"repeat")
            return record_id

        async with intake(folder(Path(inbox)), accept):
            while left(Path(inbox)):  # noqa: ASYNC110  # files have no event
                await asyncio.sleep(POLL_S)
            report(b"empty")
            await asyncio.Event().wait()

    asyncio.run(run())


def test_kill_9_during_the_intake_neither_loses_nor_doubles_a_record(tmp_path: Path) -> None:
    """Files come before, between and after the kills."""
    inbox, ledger, total = tmp_path / "inbox", tmp_path / "ledger", 4000
    rng = random.Random(9)  # noqa: S311
    inbox.mkdir()
    drop_many(inbox, range(total // 2))
    unfinished = 0
    for first in range(total // 2, total, 200):
        killed(take_in, inbox, ledger, after_s=rng.uniform(0, 0.03))
        unfinished += bool(left(inbox))
        drop_many(inbox, range(first, first + 200))
    killed(take_in, inbox, ledger, after_s=0, at=b"empty")
    taken = Counter(record["data"]["n"] for record in recorded(ledger))
    assert taken == Counter(range(total))
    assert unfinished >= 3, "the kills have to hit the intake at work"
    assert rejected(inbox) == {}
