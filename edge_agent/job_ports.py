"""What a job kind is, and what a run of it is given: never the agent itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from edge_agent.core.config_jobs import Endpoint, Folder, Program
from edge_agent.core.config_types import Section
from edge_agent.core.submission import Submission
from edge_agent.core.timebase import UtcNs
from edge_agent.errors import JobError
from edge_agent.ports import Clock


@dataclass(frozen=True, slots=True)
class Locals:
    """What local files allow jobs to touch, by name."""

    programs: Mapping[str, Program]
    folders: Mapping[str, Folder]
    endpoints: Mapping[str, Endpoint]

    def program(self, name: str) -> Program:
        """Return a program.

        Raises:
            JobError: there is none of that name.
        """
        if name not in self.programs:
            raise JobError(f"no program {name!r}; add a table [programs.{name}] with its argv")
        return self.programs[name]

    def url(self, endpoint: str) -> str:
        """Return an endpoint's URL; a URL stands for itself, as only local files may say it.

        Raises:
            JobError: there is no such endpoint.
        """
        if "://" in endpoint:
            return endpoint
        if endpoint not in self.endpoints:
            raise JobError(f"no endpoint {endpoint!r}; add a table [endpoints.{endpoint}] with its url")
        return self.endpoints[endpoint].url

    def folder(self, name: str, need: Literal["read", "delete"]) -> Path:
        """Return a folder's path; an absolute path stands for itself, as only local files may say it.

        Raises:
            JobError: there is no such folder, or that must not be done in it.
        """
        if name.startswith("/"):
            return Path(name)
        folder = self.folders.get(name)
        if folder is None:
            raise JobError(f"no folder {name!r}; add a table [folders.{name}] with its path")
        if need not in folder.may:
            raise JobError(f'folders.{name}.may does not allow it; add "{need}"')
        return Path(folder.path)


class Publish(Protocol):
    """The way into the outbox for a run, on the job's own channel ``data/<job>``."""

    async def __call__(self, data: bytes, *, key: str | None = None) -> str:
        """Hand in a record (one JSON value) with the job's priority, durability and keep; return its id once durable.

        The same key twice is one record, also across a crash.

        Raises:
            OutboxError: it was not accepted; the message says why.
            TypeError, ValueError: it is no JSON value as bytes.
        """
        ...


class Notebook(Protocol):
    """What outlives a crash: the outbox, as the scheduler sees it."""

    @property
    def notes(self) -> Mapping[str, bytes]:
        """What was noted down, by name."""
        ...

    def note(self, name: str, text: bytes | None) -> None:
        """Note something down, or with ``None`` forget it."""
        ...

    async def written(self) -> None:
        """Return once all is durable that was noted down; at once while the disk fails."""
        ...

    def put(self, submission: Submission) -> object:
        """Take a record in.

        Raises:
            OutboxError: it was not accepted.
        """
        ...


class Context(NamedTuple):
    """What a run is given.

    Attributes:
        job: the job's name.
        slot: the instant at which it was due, in true time.
        trace: its trace id, 32 hexadecimal digits (W3C Trace Context).
        locals: what local files allow it to touch.
        publish: hands in a record.
        max_record: bytes of the largest record.
        clock: the device's clocks.
        folders: in which each job has a folder of its own.
        grace_ns: how long it may take to end when it is cancelled.
    """

    job: str
    slot: UtcNs
    trace: str
    locals: Locals
    publish: Publish
    max_record: int
    clock: Clock
    folders: Path
    grace_ns: int

    @property
    def folder(self) -> Path:
        """The job's own folder, for what has to survive; it may not exist yet."""
        return self.folders / self.job


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of job.

    Attributes:
        name: what ``kind`` of a job says.
        options: the model of the job's ``options``.
        run: does it once, on the loop, and never blocks it; returns a small summary (JSON) for the history.
            Raises ``JobError`` if it failed for a reason outside, and lets ``OutboxError`` pass; anything else is a bug
            of the kind's, and fails this run alone. When it is cancelled (timeout, cancel, stop), it has ``grace_ns``
            to end what it began.
    """

    name: str
    options: type[Section]
    run: Callable[[Context, Any], Awaitable[Mapping[str, object] | None]]
