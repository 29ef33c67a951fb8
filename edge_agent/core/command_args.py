"""The arguments of a command, checked against its model: one place for every door."""

from __future__ import annotations

from typing import Final, TypeVar

from edge_agent.core.command_request import Code, CommandError
from edge_agent.core.config_document import dotted
from edge_agent.core.config_findings import validated
from edge_agent.core.config_types import Section

M = TypeVar("M", bound=Section)

_MAX_SAID: Final = 4


def parse_args(model: type[M], given: object) -> M:
    """Return what arguments say; none at all are an empty object.

    Raises:
        CommandError: ``invalid_args``, with the first things that are wrong: where, what was found, what is allowed.
    """
    if not (given is None or isinstance(given, dict)):
        raise CommandError(Code.INVALID_ARGS, 'args: an object like {"job": "sync"} is needed')
    try:
        args, wrong = validated(model, given or {})
    except Exception as error:  # a package's own model
        text = f"args: {type(error).__name__} in the model {model.__name__}; this is a bug of the package it is from"
        raise CommandError(Code.INVALID_ARGS, text) from error
    if args is None:
        said = [f"{dotted(('args', *path))}: {reason}" for path, reason in wrong[:_MAX_SAID]]
        said += [f"{len(wrong) - _MAX_SAID} more like it"] if len(wrong) > _MAX_SAID else []
        raise CommandError(Code.INVALID_ARGS, "; ".join(said))
    return args
