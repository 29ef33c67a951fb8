"""When a job that fails again and again is left alone for a while: a circuit breaker.

closed ── failures in a row ──▶ open ── cooldown ──▶ half-open ── the trial succeeds ──▶ closed
                                 ▲                       │
                                 └─── the trial fails ───┘

Times are true time, because the state outlives the process: ``document`` says it as JSON, ``Breaker.read`` takes it
back. A trial that a crash cut off is simply made again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edge_agent.core import config_jobs as config
from edge_agent.core.runs import FAILURES, Status
from edge_agent.core.timebase import UtcNs

State = Literal["closed", "open", "half_open"]
Advice = Literal["run", "fallback", "skip"]


@dataclass(slots=True)
class Breaker:
    """The breaker of one job.

    Attributes:
        failures: runs that failed in a row.
        opened: when it opened last; ``None`` = it is closed.
        on_trial: whether the one run that decides has begun.
    """

    failures: int = 0
    opened: UtcNs | None = None
    on_trial: bool = False

    def state(self, limits: config.Breaker, now: UtcNs) -> State:
        """Return where it stands; when time was set back to before it opened, nothing is known of the cooldown."""
        if self.opened is None:
            return "closed"
        return "open" if self.opened <= now < self.opened + limits.cooldown else "half_open"

    def advise(self, limits: config.Breaker, now: UtcNs, *, fallback: bool) -> Advice:
        """Return what to do instead of, or as, the next run; every run that was advised must be ``ended``.

        Args:
            limits: what the job says.
            now: true time.
            fallback: whether there is another job to run instead.
        """
        state = self.state(limits, now)
        if state == "closed":
            return "run"
        if state == "half_open" and not self.on_trial:
            self.on_trial = True
            return "run"
        return "fallback" if fallback else "skip"

    def ended(self, limits: config.Breaker, status: Status, now: UtcNs) -> None:
        """Learn how a run ended; from one that was cancelled, interrupted or skipped nothing is learned."""
        if status == "succeeded":
            self.failures, self.opened = 0, None
        elif status in FAILURES:
            self.failures += 1
            if self.opened is not None or self.failures >= limits.failures:
                self.opened = now
        self.on_trial = False

    def document(self) -> dict[str, int | None]:
        """Return the state as JSON."""
        return {"failures": self.failures, "opened": self.opened}

    @classmethod
    def read(cls, document: object) -> Breaker:
        """Return the breaker of a document; one that cannot be understood is closed."""
        if not isinstance(document, Mapping):
            return cls()
        failures, opened = document.get("failures"), document.get("opened")
        if type(failures) is not int or failures < 0 or not (opened is None or type(opened) is int):
            return cls()
        return cls(failures, None if opened is None else UtcNs(opened))
