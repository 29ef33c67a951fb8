"""Takes in what other programs have put into the inbox: each file once, removed once its record is safe."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import orjson

from edge_agent.core.backoff import Uniform, full_jitter
from edge_agent.core.submission import Submission, parse_submission
from edge_agent.core.timebase import later, seconds, to_seconds
from edge_agent.errors import EdgeAgentError, OutboxError, SubmissionError
from edge_agent.ports import Accept, Arrival, Clock, Inbox

LOOK_EVERY: Final = seconds(60)
"""What was not noticed is found after so long."""
RETRY_FROM: Final = seconds(1)
RETRY_UP_TO: Final = seconds(60)
MAX_RESISTING: Final = 1000
"""With so many files that can be neither removed nor put aside, no more are taken in."""
MAX_SHOWN: Final = 80  # characters of a name in the log
_FINAL: Final = frozenset({"invalid", "too_large"})

log = logging.getLogger(__name__)


class _Offered(NamedTuple):
    """A file, why its record was not accepted (``None`` = it was), and whether trying again would change nothing."""

    arrival: Arrival
    reason: str | None = None
    is_final: bool = True


@dataclass(slots=True)
class Intake:
    """Offers each file's record; ``run`` is its task.

    Attributes:
        inbox: where the files are.
        accept: the way into the outbox.
        max_record: bytes of the largest ``data``.
        clock: where the time comes from.
        uniform: the randomness of the backoff.
    """

    inbox: Inbox
    accept: Accept
    max_record: int
    clock: Clock
    uniform: Uniform
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _resisting: dict[str, _Offered] = field(default_factory=dict)
    _warned: dict[str, str] = field(default_factory=dict)

    async def run(self) -> None:
        """Take in what is there and what comes, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch(), name="inbox-watch")
            group.create_task(self._take_in(), name="inbox-take-in")

    async def _watch(self) -> None:
        while True:
            try:
                await self.inbox.watch(self._notice)
            except EdgeAgentError as error:
                self._warn("inbox_not_watched", str(error))
                await self.clock.sleep_until(later(self.clock.monotonic(), LOOK_EVERY))

    def _notice(self) -> None:
        self._warn("inbox_not_watched", None)
        self._changed.set()

    async def _take_in(self) -> None:
        attempt = 0
        while True:
            self._changed.clear()
            obstacle = await self._scan()
            self._warn("inbox_waits", obstacle)
            if obstacle is None:
                attempt = 0
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(to_seconds(LOOK_EVERY)):
                        await self._changed.wait()
            else:
                wait = full_jitter(attempt, base=RETRY_FROM, cap=RETRY_UP_TO, uniform=self.uniform)
                attempt += 1
                await self.clock.sleep_until(later(self.clock.monotonic(), wait))

    async def _scan(self) -> str | None:
        """Offer every file that is there; return why some have to be offered again, if any."""
        obstacle: str | None = None
        resisting: dict[str, _Offered] = {}
        try:
            async for batch in self.inbox.batches():
                offered = await self._offer_all(batch)
                final = {each.arrival.name: each for each in offered if each.is_final}
                left = await self.inbox.settle([(each.arrival, each.reason) for each in final.values()])
                resisting |= {arrival.name: final[arrival.name] for arrival in left}
                _tell_rejected([each for name, each in final.items() if each.reason and name not in resisting])
                obstacle = next((each.reason for each in offered if not each.is_final), obstacle)
                if len(resisting) >= MAX_RESISTING:
                    break
        except EdgeAgentError as error:
            return str(error)
        self._resisting = resisting
        example = next(iter(resisting), None)
        self._warn("inbox_files_stuck", example and f"{example[:MAX_SHOWN]!r}: can be neither removed nor moved")
        return obstacle

    async def _offer_all(self, batch: Sequence[Arrival]) -> list[_Offered]:
        """Offer some files at once, in their order: the outbox writes them to disk together."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._offer(arrival)) for arrival in batch]
        return [task.result() for task in tasks]

    async def _offer(self, arrival: Arrival) -> _Offered:
        known = self._resisting.get(arrival.name)
        if known is not None and known.arrival.identity == arrival.identity:
            return known
        try:
            await self.accept(self._submission(arrival))
        except OutboxError as refusal:
            return _Offered(arrival, str(refusal), refusal.word in _FINAL)
        return _Offered(arrival)

    def _submission(self, arrival: Arrival) -> Submission:
        if arrival.fault is not None:
            raise SubmissionError(arrival.fault)
        try:
            params = orjson.loads(arrival.content)
        except orjson.JSONDecodeError as error:
            raise SubmissionError(f"not JSON: {error}; was the file whole when it was renamed?") from None
        submission = parse_submission(params, max_record=self.max_record)
        return submission if submission.key is not None else submission._replace(key=arrival.key)

    def _warn(self, event: str, reason: str | None) -> None:
        """Log once what is wrong, under whichever event it is seen first, and again only when it had passed."""
        if reason is None:
            self._warned.pop(event, None)
        elif event not in self._warned:
            if reason not in self._warned.values():
                log.warning(event, extra={"reason": reason})
            self._warned[event] = reason


def _tell_rejected(rejected: Sequence[_Offered]) -> None:
    if rejected:
        file, reason = rejected[0].arrival.name[:MAX_SHOWN], rejected[0].reason
        log.warning("inbox_rejected", extra={"count": len(rejected), "file": file, "reason": reason})
