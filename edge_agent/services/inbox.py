"""Takes in what other programs have put into the inbox: each file once, removed once its record is safe."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from edge_agent.core.backoff import Uniform, full_jitter
from edge_agent.core.submission import Submission, parse_submission
from edge_agent.core.timebase import later, seconds
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


@dataclass(frozen=True, slots=True)
class _Offered:
    """A file, and why its record was not accepted; ``None`` = it was."""

    arrival: Arrival
    refusal: OutboxError | None

    @property
    def reason(self) -> str | None:
        """What is said about it."""
        return None if self.refusal is None else str(self.refusal)

    @property
    def is_final(self) -> bool:
        """Whether trying again would change nothing."""
        return self.refusal is None or self.refusal.word in _FINAL


class Intake:
    """Offers each file's record; ``run`` is its task."""

    def __init__(self, inbox: Inbox, accept: Accept, *, max_record: int, clock: Clock, uniform: Uniform) -> None:
        """Prepare.

        Args:
            inbox: where the files are.
            accept: the way into the outbox.
            max_record: bytes of the largest ``data``.
            clock: where the time comes from.
            uniform: the randomness of the backoff.
        """
        self._inbox = inbox
        self._accept = accept
        self._max_record = max_record
        self._clock = clock
        self._uniform = uniform
        self._changed = asyncio.Event()
        self._resisting: dict[str, _Offered] = {}
        self._warned: dict[str, str] = {}

    async def run(self) -> None:
        """Take in what is there and what comes, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch(), name="inbox-watch")
            group.create_task(self._look(), name="inbox-look")
            group.create_task(self._take_in(), name="inbox-take-in")

    async def _watch(self) -> None:
        while True:
            try:
                await self._inbox.watch(self._notice)
            except EdgeAgentError as error:
                self._warn("inbox_not_watched", str(error))
                await self._clock.sleep_until(later(self._clock.monotonic(), LOOK_EVERY))

    def _notice(self) -> None:
        self._warn("inbox_not_watched", None)
        self._changed.set()

    async def _look(self) -> None:
        while True:
            self._changed.set()
            await self._clock.sleep_until(later(self._clock.monotonic(), LOOK_EVERY))

    async def _take_in(self) -> None:
        attempt = 0
        while True:
            await self._changed.wait()
            self._changed.clear()
            obstacle = await self._scan()
            self._warn("inbox_waits", obstacle)
            if obstacle is None:
                attempt = 0
                continue
            wait = full_jitter(attempt, base=RETRY_FROM, cap=RETRY_UP_TO, uniform=self._uniform)
            attempt += 1
            await self._clock.sleep_until(later(self._clock.monotonic(), wait))
            self._changed.set()

    async def _scan(self) -> str | None:
        """Offer every file that is there; return why some have to be offered again, if any."""
        obstacle: str | None = None
        resisting: dict[str, _Offered] = {}
        try:
            async for batch in self._inbox.batches():
                offered = await self._offer_all(batch)
                final = {each.arrival.name: each for each in offered if each.is_final}
                left = await self._inbox.settle([(each.arrival, each.reason) for each in final.values()])
                resisting |= {arrival.name: final[arrival.name] for arrival in left}
                _tell_rejected([each for name, each in final.items() if each.refusal and name not in resisting])
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
            await self._accept(self._submission(arrival))
        except OutboxError as refusal:
            return _Offered(arrival, refusal)
        return _Offered(arrival, None)

    def _submission(self, arrival: Arrival) -> Submission:
        if arrival.fault is not None:
            raise SubmissionError(arrival.fault)
        try:
            params = orjson.loads(arrival.content)
        except orjson.JSONDecodeError as error:
            raise SubmissionError(
                f"not JSON: {error}; was the file renamed into the inbox when it was whole?"
            ) from None
        submission = parse_submission(params, max_record=self._max_record)
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
        first = rejected[0]
        log.warning(
            "inbox_rejected",
            extra={"count": len(rejected), "file": first.arrival.name[:MAX_SHOWN], "reason": first.reason},
        )
