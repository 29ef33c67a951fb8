"""The life cycle of a command: what the table says, and nothing else, can happen."""

from __future__ import annotations

import itertools

import pytest

from edge_agent.core.command_states import TABLE, Happened, State, after

FINAL = {"succeeded", "failed", "timed_out", "interrupted", "cancelled", "rejected", "expired"}


def test_whatever_is_not_in_the_table_is_a_bug() -> None:
    """Every pair leads where the table says, or nowhere."""
    for state, happened in itertools.product(State, Happened):
        if happened in TABLE.get(state, {}):
            assert after(state, happened) is TABLE[state][happened]
        else:
            with pytest.raises(ValueError, match=rf"{happened.name} cannot happen .*{state.value}"):
                after(state, happened)


def test_a_command_ends_once() -> None:
    """Nothing leads on from a final state, and these are the final ones."""
    assert {state.value for state in State if state.is_final} == FINAL


def test_every_state_can_be_reached_and_left() -> None:
    """From the arrival every state is reached, and from each that is not final a final one."""
    reached = {State.RECEIVED}
    for _ in State:
        reached |= {to for state in reached for to in TABLE.get(state, {}).values()}
    assert reached == set(State)
    assert all(any(to.is_final for to in leads.values()) for leads in TABLE.values())
