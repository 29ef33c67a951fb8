"""The exception tree; what a library raises is translated into it where the library is called.

EdgeAgentError            something outside is wrong, and the message says what to do
├── ConfigError           the configuration is invalid: every problem found, each with its file and key
├── UsageError            the command line asks for something that does not exist
├── UnreachableError      the broker or the daemon cannot be reached
│   └── ConnectFailedError    an MQTT connection could not be made
├── StoreError            the file behind the outbox fails
├── JobError              a run failed for a reason outside
├── OutboxError           a record was not accepted
│   └── SubmissionError       what a program handed in is not valid
└── TooLargeError         the message is larger than the broker accepts

A bug of ours is an assertion or a built-in exception: it is never caught, it ends the process and systemd restarts it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from typing_extensions import override


class EdgeAgentError(Exception):
    """Something outside is wrong; ``str()`` is one line that says what, where, and what to do."""

    exit_code = 1


@dataclass(frozen=True, slots=True, order=True)
class ConfigProblem:
    """One thing that is wrong with the configuration.

    Attributes:
        file: the file it stands in, as the reader named it; empty when no file holds it.
        key: the dotted key (``jobs.sync.every``); empty when the file as a whole is wrong.
        reason: what was found, what is allowed, and the nearest known key where that helps.
        line: 1-based line for a syntax error, else ``None``.
    """

    file: str
    key: str
    reason: str
    line: int | None = None

    @override
    def __str__(self) -> str:
        """Return ``file:line: key: reason`` with the parts that exist."""
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return ": ".join(part for part in (where, self.key, self.reason) if part)


class ConfigError(EdgeAgentError):
    """The configuration is invalid; ``problems`` holds all that was found, in file order."""

    exit_code = 78  # EX_CONFIG, sysexits(3)

    def __init__(self, problems: list[ConfigProblem]) -> None:
        assert problems, "a configuration error names at least one problem"
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = problems


class UsageError(EdgeAgentError):
    """The command line asks for something that does not exist."""

    exit_code = 64  # EX_USAGE


class UnreachableError(EdgeAgentError):
    """The broker or the daemon cannot be reached."""

    exit_code = 69  # EX_UNAVAILABLE


class StoreFault(Enum):
    """How the store fails; what to do about it depends on it."""

    FULL = "disk_full"
    READ_ONLY = "read_only"
    IO = "io_error"  # also: it cannot be opened, or somebody else has it open
    DAMAGED = "damaged"  # or from a version too new to be written to: it has to be replaced


class JobError(EdgeAgentError):
    """A run of a job failed for a reason outside of the agent; the message says which, and what to do."""


class StoreError(EdgeAgentError):
    """The file behind the outbox fails; nothing of what was asked has happened."""

    def __init__(self, fault: StoreFault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


class OutboxError(EdgeAgentError):
    """A record was not accepted; nothing of it is kept.

    Attributes:
        word: the reason as one stable word: ``invalid``, ``too_large``, ``full``, ``busy``, ``lost``.
    """

    def __init__(self, message: str, *, word: str) -> None:
        super().__init__(message)
        self.word = word


class SubmissionError(OutboxError):
    """What a program handed in is not valid; trying again will not help."""

    def __init__(self, message: str) -> None:
        super().__init__(message, word="invalid")


class TooLargeError(EdgeAgentError):
    """The message is larger than the broker's Maximum Packet Size; it was not sent."""


class ConnectFailure(Enum):
    """How an attempt to connect failed; what to try next depends on it."""

    UNRESOLVED = "unresolved"  # the name has no address
    UNREACHABLE = "unreachable"  # no TCP connection: refused, timed out, no route
    TLS = "tls"  # the TLS handshake failed, or a certificate file cannot be used
    CLOSED = "closed"  # closed by the peer before its CONNACK
    SILENT = "silent"  # connected, but no CONNACK came
    OLD_PROTOCOL = "old_protocol"  # the broker does not speak MQTT 5
    REFUSED = "refused"  # a CONNACK with another reason code


class ConnectFailedError(UnreachableError):
    """The connection could not be made.

    Attributes:
        failure: how it failed.
        reason: the CONNACK's reason code (MQTT 5 §3.2.2.2, MQTT 3.1.1 §3.2.2.3), ``None`` without one.
    """

    def __init__(self, failure: ConnectFailure, message: str, *, reason: int | None = None) -> None:
        super().__init__(message)
        self.failure = failure
        self.reason = reason
