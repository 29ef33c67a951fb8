"""Arguments, checked against the model of a command."""

from __future__ import annotations

import pytest
from pydantic import Field, field_validator

from edge_agent.core.command_args import parse_args
from edge_agent.core.command_request import Code, CommandError
from edge_agent.core.config_types import Name, Section


class Args(Section):
    """Some arguments."""

    job: Name = Field("a", description="A name.")
    count: int = Field(0, ge=0, description="A number.")


@pytest.mark.parametrize("given", [None, {}])
def test_no_arguments_are_an_empty_object(given: object) -> None:
    """At every door."""
    assert parse_args(Args, given) == Args()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], 'args: an object like {"job": "sync"} is needed'),
        ({"jbo": 1}, "args.jbo: unknown key 'jbo'; did you mean 'job'?"),
        (
            {"job": "a b", "count": "1"},
            'args.job: found "a b"; a name of 1 to 64 of A-Z a-z 0-9 _ : - is needed; args.count: found',
        ),
        ({str(number): 0 for number in range(1000)}, "; 996 more like it"),
    ],
)
def test_what_is_wrong_is_said_and_not_too_much_of_it(given: object, words: str) -> None:
    """Where, what was found, what is allowed."""
    with pytest.raises(CommandError) as invalid:
        parse_args(Args, given)
    assert invalid.value.code is Code.INVALID_ARGS
    assert words in str(invalid.value)
    assert len(str(invalid.value)) < 500


def test_a_bug_of_a_package_is_not_ours() -> None:
    """A model that raises anything fails its command alone."""

    class Bad(Section):
        """Never valid."""

        n: int = 0

        @field_validator("n")
        @classmethod
        def _never(cls, _value: int) -> int:
            raise KeyError("n")

    with pytest.raises(CommandError, match=r"^args: KeyError in the model Bad; this is a bug"):
        parse_args(Bad, {"n": 1})
