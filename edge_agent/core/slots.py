"""What becomes of the slots of a job that have come: run now, caught up with, or counted as missed."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final, Literal, NamedTuple

from edge_agent.core.timebase import DurationNs, UtcNs
from edge_agent.core.triggers import Trigger

COUNTED: Final = 10_000
"""So many missed slots of a cron expression are counted one by one; of a longer absence the rest goes unnumbered."""


class Misfire(NamedTuple):
    """What becomes of slots that were missed.

    Attributes:
        rule: ``skip`` runs none of them; ``run_once`` the newest, unless the job runs now anyway: whoever waits for a
            run gets one, not two at once; ``run_all`` every one, but no more than the newest ``limit``.
        window: how late a missed slot may be to be run at all.
        tolerance: a slot that is late by no more than this was not missed; short, as all that fits into it runs.
        limit: how many missed slots ``run_all`` runs at a time.
    """

    rule: Literal["skip", "run_once", "run_all"]
    window: DurationNs
    tolerance: DurationNs
    limit: int


class Decision(NamedTuple):
    """What is done about the slots up to now.

    Attributes:
        run: slots to run, the oldest first.
        missed: how many are passed over.
        last: the newest slot that is decided.
        next: the next slot; ``None`` = there is none.
    """

    run: tuple[UtcNs, ...]
    missed: int
    last: UtcNs
    next: UtcNs | None


def decide(trigger: Trigger, misfire: Misfire, *, last: UtcNs, now: UtcNs) -> Decision:
    """Decide about every slot later than ``last`` and not later than ``now``: it runs, or it is counted as missed.

    A slot that is late within the tolerance runs in any case. While true time is not later than ``last``, because it
    went backwards, nothing is due.

    Args:
        trigger: which slots there are.
        misfire: what becomes of missed ones.
        last: the newest slot that was decided.
        now: true time.
    """
    first = trigger.after(last)
    if first is None or first >= now - misfire.tolerance:
        on_time, following = _up_to(trigger, first, now)
        return Decision(on_time, 0, on_time[-1] if on_time else last, following)
    missed_until = UtcNs(now - misfire.tolerance - 1)
    on_time, following = _up_to(trigger, trigger.after(missed_until), now)
    missed = trigger.count(last, missed_until, enough=COUNTED + misfire.limit)
    wanted = {"skip": 0, "run_once": 0 if on_time else 1, "run_all": misfire.limit}[misfire.rule]
    caught_up = _newest(trigger, UtcNs(max(last, now - misfire.window - 1)), missed_until, wanted)
    newest = on_time or _newest(trigger, last, missed_until, 1)
    return Decision(caught_up + on_time, missed - len(caught_up), newest[-1], following)


def _newest(trigger: Trigger, since: UtcNs, until: UtcNs, wanted: int) -> tuple[UtcNs, ...]:
    """Return the newest slots later than ``since`` and not later than ``until``, found without walking up to them."""

    def few(place: int) -> bool:
        return trigger.count(UtcNs(place), until, enough=wanted + 1) <= wanted

    start = since + bisect_left(range(since, until), x=True, key=few)
    return _up_to(trigger, trigger.after(UtcNs(start)), until)[0]


def _up_to(trigger: Trigger, slot: UtcNs | None, until: UtcNs) -> tuple[tuple[UtcNs, ...], UtcNs | None]:
    """Return the slots from ``slot`` on that are not later than ``until``, and the one that follows them."""
    slots: tuple[UtcNs, ...] = ()
    while slot is not None and slot <= until:
        slots += (slot,)  # mostly the only one
        slot = trigger.after(slot)
    return slots, slot
