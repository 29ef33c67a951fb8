"""Runs of jobs: what one is, how it ended, and what is remembered of the last ones."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

import orjson

from edge_agent.core.timebase import NANOSECONDS_PER_MILLISECOND, UtcNs

Cause = Literal["schedule", "catch_up", "manual", "fallback"]
Status = Literal["succeeded", "failed", "timed_out", "cancelled", "interrupted", "skipped"]

FAILURES: Final = frozenset({"failed", "timed_out"})
KEPT: Final = 10
"""Outcomes that are remembered of a job."""

MAX_RESULT: Final = 4096
MAX_REASON: Final = 500


class Run(NamedTuple):
    """A job that is to run once.

    Attributes:
        job: its name.
        slot: when it is due, in true time.
        trace: 32 hexadecimal digits that whatever comes of it can be found by (W3C Trace Context).
        cause: why it runs.
        attempt: which try this is, from 1.
    """

    job: str
    slot: UtcNs
    trace: str
    cause: Cause = "schedule"
    attempt: int = 1


class Outcome(NamedTuple):
    """How a run ended; every run has exactly one.

    Attributes:
        status: ``interrupted`` if the agent stopped, ``skipped`` if it never began.
        started: when its first attempt began, in true time; ``None`` = it never did.
        finished: when it ended, in true time.
        lateness_ms: from the slot to the first attempt; ``None`` = it never began.
        reason: why it did not succeed, in one line.
        result: what the job says of a run that succeeded.
    """

    status: Status
    started: UtcNs | None
    finished: UtcNs
    lateness_ms: float | None = None
    reason: str | None = None
    result: Mapping[str, Any] | None = None

    @property
    def duration_ms(self) -> float:
        """From the first attempt to the end, pauses between attempts and suspend included."""
        return 0.0 if self.started is None else (self.finished - self.started) / NANOSECONDS_PER_MILLISECOND


_RUN: Final = len(Run._fields)


class Past:
    """What is remembered of one job.

    Attributes:
        counts: how many runs ended how, since the agent started.
        streak: successes in a row, or failures in a row as a negative number; no other end changes it.
    """

    __slots__ = ("_last", "counts", "streak")

    def __init__(self) -> None:
        self._last: deque[tuple[Any, ...]] = deque(maxlen=KEPT)  # bare tuples cost the garbage collector least
        self.counts: dict[Status, int] = {}  # that collector looks into every defaultdict
        self.streak = 0

    @property
    def last(self) -> list[tuple[Run, Outcome]]:
        """The last runs and their outcomes, the oldest first."""
        return [(Run(*fields[:_RUN]), Outcome(*fields[_RUN:])) for fields in self._last]

    def note(self, run: Run, outcome: Outcome) -> None:
        """Remember how a run ended."""
        status = outcome.status
        self._last.append(run + outcome)
        self.counts[status] = self.counts.get(status, 0) + 1
        if status == "succeeded":
            self.streak = self.streak + 1 if self.streak > 0 else 1
        elif status in FAILURES:
            self.streak = self.streak - 1 if self.streak < 0 else -1


class History:
    """What is remembered of all jobs.

    Attributes:
        jobs: by name; what is forgotten is taken out of it.
        counts: how many runs ended how, since the agent started, those of forgotten jobs included.
    """

    def __init__(self) -> None:
        self.jobs: defaultdict[str, Past] = defaultdict(Past)
        self.counts: defaultdict[Status, int] = defaultdict(int)

    def note(self, run: Run, outcome: Outcome) -> None:
        """Remember how a run ended."""
        self.jobs[run.job].note(run, outcome)
        self.counts[outcome.status] += 1


def summary(result: object) -> Mapping[str, Any]:
    """Return a result as it can be kept; one that is too large, or no JSON object, is replaced by saying so."""
    try:
        size = len(orjson.dumps(result))
    except (orjson.JSONEncodeError, RecursionError) as error:
        return {"omitted": f"no JSON: {error}"[:MAX_REASON]}
    if not isinstance(result, Mapping):
        return {"omitted": f"no JSON object but {type(result).__name__}"}
    return result if size <= MAX_RESULT else {"omitted": f"{size} bytes; {MAX_RESULT} are kept"}


def one_line(text: str) -> str:
    """Return the first line of a text, and not too much of it."""
    return text.lstrip().partition("\n")[0][:MAX_REASON].rstrip()
