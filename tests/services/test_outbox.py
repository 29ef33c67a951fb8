"""The outbox's promises under any history: what is accepted comes, once named it is known why not, in order."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import hypothesis
import orjson
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from typing_extensions import override

from edge_agent.core.events import OutboxData
from edge_agent.core.records import Priority
from edge_agent.core.submission import Submission
from edge_agent.core.verification import Verification
from edge_agent.ports import Message
from tests.fakes import FakeBroker
from tests.support.flow import Flow, online
from tests.support.virtual_time import VirtualTimeLoop

CHANNELS: Final = ("data/a", "data/b", "event/c")
REASONS: Final = (0, 0x10, 0x80, 0x87, 0x97, 0x99)
RECORDS: Final = st.tuples(
    st.sampled_from(CHANNELS),
    st.sampled_from((Priority.NORMAL, Priority.NORMAL, Priority.CRITICAL, Priority.BULK)),
    st.sampled_from((0, 10, 3000)),
    st.sampled_from(("", "", "", "latest", "always")),
)


class History(RuleBasedStateMachine):
    """Everything that can happen to an outbox; a consumer watches who never may see anything go missing.

    A crash is a copy of the folder as it is between two calls of the store, and a new outbox on the copy.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualTimeLoop)
        self.root = Path(tempfile.mkdtemp())
        self.runs = 0
        self.n = 0
        self.beats = 0
        self.heard = 0
        self.refusals: dict[str, int] = {}
        self.broker = FakeBroker(puback=self._puback)
        self.verification = Verification(from_start=True)
        self.crashed = False  # what a crashed one says while its tasks end, nobody hears
        self.confirmed: dict[str, bytes] = {}  # ids whose durability was confirmed, and their content
        self._boot()

    def _puback(self, topic: str) -> int:
        return self.refusals.get(topic.removeprefix("edge/dev-1/up/"), 0)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        self.runner.run(work)

    def _boot(self) -> None:
        self.flow = Flow(
            self.root / str(self.runs), self.broker, max_bytes="128KiB", max_record="16KiB", max_age="1h", commit="1s"
        )
        self._run(self.flow.start())
        self._run(asyncio.sleep(0.5))

    # -- what happens

    @rule(records=st.lists(RECORDS, min_size=1, max_size=12))
    def puts(self, records: list[tuple[str, Priority, int, str]]) -> None:
        """Programs put records, and are told when they are durable."""

        async def work() -> None:
            for channel, priority, padding, how in records:
                self.n += 1
                data = orjson.dumps({"n": self.n, "padding": "x" * padding})
                latest = how == "latest"
                submission = Submission(channel, data, priority, latest=latest, always=how == "always")
                receipt = self.flow.outbox.durable(self.flow.outbox.put(submission))
                if not latest:
                    receipt.add_done_callback(self._confirming(data))

        self._run(work())

    def _confirming(self, data: bytes) -> Callable[[asyncio.Future[str]], None]:
        def confirmed(receipt: asyncio.Future[str]) -> None:
            if not self.crashed and not receipt.cancelled() and receipt.exception() is None:
                assert self.confirmed.setdefault(receipt.result(), data) == data, "an id was used twice"

        return confirmed

    @rule(seconds=st.sampled_from((0.01, 0.3, 2, 5, 12, 70, 1000)))
    def time_passes(self, seconds: float) -> None:
        """With whatever is due by then."""
        self._run(asyncio.sleep(seconds))

    @rule(up=st.booleans())
    def broker_comes_or_goes(self, *, up: bool) -> None:
        """A broker that dies answers nothing any more."""
        self.broker.up = True
        self._run(asyncio.sleep(5) if up else self._crash())

    async def _crash(self) -> None:
        self.broker.crash()

    @rule(mute=st.booleans())
    def pubacks_are_lost(self, *, mute: bool) -> None:
        """Until the connection ends; what was published has arrived."""
        self.broker.mute = mute
        if not mute:
            self._run(self._cut())

    @rule()
    def connection_ends(self) -> None:
        """And nobody knows what became of what was in flight."""
        self._run(self._cut())

    async def _cut(self) -> None:
        self.broker.cut()

    @rule(channel=st.sampled_from(CHANNELS), reason=st.sampled_from(REASONS))
    def broker_changes_its_mind(self, channel: str, reason: int) -> None:
        """About a channel."""
        self.refusals[channel] = reason

    @rule(turns=st.integers(0, 3))
    def crash(self, turns: int) -> None:
        """All that is in memory is gone; what was on its way may have arrived."""
        for _ in range(turns):
            self._run(asyncio.sleep(0))
        before, self.runs = self.root / str(self.runs), self.runs + 1
        shutil.copytree(before, self.root / str(self.runs))
        self.crashed = True
        self._run(self._abandon())
        self.crashed = False
        self._boot()

    async def _abandon(self) -> None:
        up, said = self.broker.up, len(self.broker.log)
        self.broker.crash()
        for task in self.flow.tasks:
            task.cancel()
        await asyncio.wait(self.flow.tasks)
        del self.broker.log[said:]  # what it would have said while it was stopped
        self.broker.up = up

    @rule()
    def stop_and_start(self) -> None:
        """A clean stop."""
        self._run(self.flow.stop())
        self._boot()

    @precondition(lambda self: self.flow.outbox.online)
    @rule()
    def heartbeat(self) -> None:
        """The consumer hears a heartbeat, measured now."""
        self.beats += 1

        async def work() -> None:
            self.broker.log.append(_message(self.flow.heartbeat(self.beats)))

        self._run(work())

    # -- what must be true

    @invariant()
    def nothing_has_failed(self) -> None:
        """And the counters make sense."""
        for task in self.flow.tasks:
            if task.done():
                task.result()
        measured = self._measured()
        assert measured.records >= 0
        assert measured.bytes >= 0
        assert self.flow.outbox.pending.fresh_bytes == sum(
            len(record.body) for lane in self.flow.outbox.lanes.values() for record in lane.fresh.values()
        )

    def _measured(self) -> OutboxData:
        async def work() -> OutboxData:
            return self.flow.outbox.measure()

        return self.runner.run(work())

    @invariant()
    def the_consumer_is_content(self) -> None:
        """No number is used for two contents, none comes out of order without a word."""
        for message in self.broker.log[self.heard :]:
            self.verification.take(message.payload)
        self.heard = len(self.broker.log)
        for stream in self.verification.report().streams:
            assert not stream.conflicting, stream
            assert not stream.missing, stream  # below a mark, at the time when it was heard

    @override
    def teardown(self) -> None:
        """Let everything come to rest: then all that was confirmed has come, or is named, and nothing is missing."""
        try:
            self.refusals.clear()
            self.broker.mute = False
            self.broker.up = True
            self._run(self._rest())
            self.the_consumer_is_content()
            report = self.verification.report()
            for stream in report.streams:
                assert not stream.missing, stream
                assert not stream.out_of_order, stream
                assert not stream.open, stream
            self._all_confirmed_came()
        finally:
            with contextlib.suppress(Exception):
                self._run(self.flow.stop())
            self.runner.close()
            shutil.rmtree(self.root)

    async def _rest(self) -> None:
        self.broker.cut()
        await asyncio.sleep(60)
        await online(self.flow, 1000)
        await asyncio.sleep(4000)
        measured = self.flow.outbox.measure()
        assert measured.records == 0, measured
        self.beats += 1
        self.broker.log.append(_message(self.flow.heartbeat(self.beats)))

    def _all_confirmed_came(self) -> None:  # noqa: C901
        came: dict[str, object] = {}
        named: set[str] = set()
        for message in self.broker.log:
            if message.topic.endswith("heartbeat"):
                continue
            event = orjson.loads(message.payload) if message.payload[:1] == b"{" else {}
            if "sequence" not in event:
                continue
            came[event["id"]] = event["data"]
            if event.get("subject") == "outbox":
                for gap in event["data"].get("gaps", ()):
                    if gap["reason"] != "unclean_stop":
                        named |= {f"{gap['stream']}.{seq}" for seq in range(gap["first"], gap["last"] + 1)}
        for record, data in self.confirmed.items():
            if record in came:
                assert came[record] == orjson.loads(data), record
            else:
                assert record in named, f"{record} was confirmed and is gone"


def _message(payload: bytes) -> Message:
    return Message("edge/dev-1/up/heartbeat", payload)


def _histories(count: int) -> hypothesis.settings:
    return hypothesis.settings(
        stateful_step_count=30, deadline=None, max_examples=count, phases=[hypothesis.Phase.generate]
    )


TestHistory = History.TestCase
TestHistory.settings = _histories(75)
TestManyHistories = pytest.mark.slow(type("TestManyHistories", (TestHistory,), {"settings": _histories(2000)}))
