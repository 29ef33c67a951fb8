r"""The life cycle of a command, as a table: which states there are, and what leads from one to the next.

    received -> accepted -> running -> succeeded | failed | timed_out | interrupted | cancelled
            \-> rejected | expired

Everything that decides on a command's state goes through ``after``; whatever is not in the table is a bug of ours.
From a final state nothing leads on: a command ends once.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, StrEnum
from typing import Final


class State(StrEnum):
    """Where a command stands; the values are the words on the wire."""

    RECEIVED = "received"  # never said: the decision is taken at once
    ACCEPTED = "accepted"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    EXPIRED = "expired"

    @property
    def is_final(self) -> bool:
        """Whether nothing leads on from it."""
        return self not in TABLE


class Happened(Enum):
    """What leads from one state to another."""

    TAKEN = "taken"
    REFUSED = "refused"
    LATE = "its expiry has passed"
    BEGUN = "begun"
    DONE = "done"
    FAULT = "fault"
    POISON = "it has ended the agent three times"
    OVERTIME = "its time is up"
    CALLED_OFF = "cancelled"
    CUT_OFF = "cut off by a stop or a crash"
    AGAIN = "cut off, and may run again"


TABLE: Final[Mapping[State, Mapping[Happened, State]]] = {
    State.RECEIVED: {
        Happened.TAKEN: State.ACCEPTED,
        Happened.REFUSED: State.REJECTED,
        Happened.LATE: State.EXPIRED,
    },
    State.ACCEPTED: {
        Happened.BEGUN: State.RUNNING,
        Happened.REFUSED: State.REJECTED,  # the disk could not take it
        Happened.CALLED_OFF: State.CANCELLED,
        Happened.LATE: State.EXPIRED,  # while it waited
        Happened.FAULT: State.FAILED,  # what it needs is there no more
    },
    State.RUNNING: {
        Happened.DONE: State.SUCCEEDED,
        Happened.FAULT: State.FAILED,
        Happened.POISON: State.FAILED,
        Happened.OVERTIME: State.TIMED_OUT,
        Happened.CALLED_OFF: State.CANCELLED,
        Happened.CUT_OFF: State.INTERRUPTED,
        Happened.AGAIN: State.ACCEPTED,
    },
}


def after(state: State, happened: Happened) -> State:
    """Return the next state.

    Raises:
        ValueError: that cannot happen in this state.
    """
    following = TABLE.get(state, {}).get(happened)
    if following is None:
        raise ValueError(f"{happened.name} cannot happen to a command that is {state.value}")
    return following
