"""What a command asks for, read from what arrived, and the words with which one is refused.

Its arguments are checked against its model here, too: one place for every door.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, TypeVar

import orjson

from edge_agent.core.config_document import dotted
from edge_agent.core.config_findings import validated
from edge_agent.core.config_types import NAME_NEEDED, NAME_PATTERN, Section
from edge_agent.core.timebase import DurationNs, UtcNs
from edge_agent.core.units import parse_duration, parse_instant, quoted
from edge_agent.errors import EdgeAgentError

M = TypeVar("M", bound=Section)

MAX_PAYLOAD: Final = 64 * 1024
MAX_CORRELATION: Final = 1024
MAX_WAIT: Final = DurationNs(3650 * 86_400 * 1_000_000_000)
_MAX_SAID: Final = 4
_KEYS: Final = ("id", "args", "expires", "ttl", "not_before", "delay")


class Code(StrEnum):
    """Why a command did not succeed, as a stable word on the wire."""

    UNKNOWN_COMMAND = "unknown_command"
    INVALID_ARGS = "invalid_args"
    NOT_ALLOWED = "not_allowed"
    BAD_SIGNATURE = "bad_signature"
    RETAINED = "retained"
    EXPIRED = "expired"
    TIME_UNKNOWN = "time_unknown"
    BUSY = "busy"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


class CommandError(EdgeAgentError):
    """A command is refused, or has failed; the message says why and what to do.

    Attributes:
        code: why, as one word.
        id: of the command, where it could be read.
    """

    def __init__(self, code: Code, message: str, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(message)
        self.code = code
        self.id = id


@dataclass(frozen=True, slots=True)
class Request:
    """A command that arrived.

    Attributes:
        command: its name.
        id: the sender's; ``None`` = none was given: it is obeyed and never deduplicated.
        args: not checked yet.
        expires: after this instant of true time it is not begun.
        ttl: nor when so long has passed since its receipt.
        not_before: before this instant of true time it is not begun.
        delay: nor before so long has passed since its receipt.
    """

    command: str
    id: str | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    expires: UtcNs | None = None
    ttl: DurationNs | None = None
    not_before: UtcNs | None = None
    delay: DurationNs | None = None

    def digest(self) -> str:
        """Return what tells it from a command of the same id with another name or other arguments.

        Raises:
            CommandError: ``invalid_args``: they are nested too deeply.
        """
        try:
            said = orjson.dumps([self.command, self.args], option=orjson.OPT_SORT_KEYS)
        except orjson.JSONEncodeError as error:  # what is read may be four times as deep as what is written
            raise CommandError(Code.INVALID_ARGS, f"args: {error}; nest them less deeply", id=self.id) from None
        return hashlib.blake2b(said, digest_size=12).hexdigest()


def parse_request(command: str, payload: bytes) -> Request:
    """Return what an unsigned command asks for; an empty payload is a command without anything.

    Raises:
        CommandError: ``invalid_args``, with what was found and what is allowed; its id where that can be read.
    """
    try:
        said = orjson.loads(payload) if payload else {}
    except orjson.JSONDecodeError as error:
        raise CommandError(Code.INVALID_ARGS, f'not JSON: {error}; an object like {{"id": "c-1"}} is needed') from None
    return request_from(command, said)


def request_from(command: str, said: object) -> Request:
    """Return what a command asks for, from what was parsed from JSON; raises as ``parse_request`` does."""
    if not isinstance(said, dict):
        raise CommandError(Code.INVALID_ARGS, 'an object like {"id": "c-1", "args": {}} is needed')
    command_id = said.get("id")
    if command_id is not None and not (isinstance(command_id, str) and re.fullmatch(NAME_PATTERN, command_id)):
        raise CommandError(Code.INVALID_ARGS, f"id: {NAME_NEEDED} is needed")
    try:
        return Request(
            command,
            command_id,
            _args(said),
            expires=_read(said, "expires", parse_instant),
            ttl=_read(said, "ttl", _wait),
            not_before=_read(said, "not_before", parse_instant),
            delay=_read(said, "delay", _wait),
        )
    except ValueError as error:
        raise CommandError(Code.INVALID_ARGS, str(error), id=command_id) from None


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


def id_from_correlation(data: bytes) -> str:
    """Return the id that correlation data (MQTT 5 §3.3.2.3.6) stands for: itself if it is a name, else in hex.

    Raises:
        CommandError: ``invalid_args``: they are too long to be sent back.
    """
    if len(data) > MAX_CORRELATION:
        text = f"the correlation data have {len(data)} bytes; {MAX_CORRELATION} are allowed"
        raise CommandError(Code.INVALID_ARGS, text)
    text = data.decode("ascii", "replace")
    if re.fullmatch(NAME_PATTERN, text):
        return text
    return data.hex() if len(data) <= 32 else hashlib.blake2b(data, digest_size=32).hexdigest()


def _args(said: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in said:
        if key not in _KEYS:
            raise ValueError(f"unknown key {quoted(key)}; known: {', '.join(_KEYS)}")
    args = said.get("args")
    if not (args is None or isinstance(args, dict)):
        raise ValueError('args: an object like {"job": "sync"} is needed')
    return args or {}


def _wait(text: str) -> DurationNs:
    duration = parse_duration(text)
    if duration > MAX_WAIT:
        raise ValueError(f"found {quoted(text)}; at most 3650d is allowed")
    return duration


def _read(said: Mapping[str, Any], name: str, parse: Any) -> Any:  # noqa: ANN401  # whatever parse returns
    value = said.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{name}: a string is needed")  # noqa: TRY004  # one kind of trouble
    try:
        return parse(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
