"""Which jobs there are: what the files say, and over that, name by name, what somebody has put or deleted since.

A job that was put takes the place of the file's of that name, whole; a deletion hides it. Both last until somebody
puts, deletes or restores it, over restarts and whatever becomes of the files. A job of which the cloud's configuration
says something is the cloud's: what somebody has put or deleted counts again once it says nothing of it any more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Mapping
from typing import Any, Final, TypeAlias

import orjson

from edge_agent.core.config_jobs import Job
from edge_agent.core.job_entry import Origin
from edge_agent.core.job_memory import JobMemory, load
from edge_agent.core.units import quoted
from edge_agent.errors import EdgeAgentError, JobError
from edge_agent.job_ports import Notebook

log = logging.getLogger(__name__)

ReadJob: TypeAlias = Callable[[str, Mapping[str, Any]], Job]
"""Makes a job of its name and a document; raises ``EdgeAgentError`` if that is not valid."""

MAX_PUT: Final = 100
"""Jobs that were put at run time; what is remembered of each has its place in the store."""

MAX_BYTES: Final = 16 << 10
"""Of each, as JSON."""

_PREFIX: Final = "job/"
_NOTHING: Final = JobMemory()


class JobBook:
    """The jobs, and what is remembered of each."""

    def __init__(self, outbox: Notebook) -> None:
        self._outbox = outbox
        self._files: Mapping[str, Job] = {}
        self._clouds: Container[str] = ()
        self._read: ReadJob = lambda _name, document: Job.model_validate(document)
        self._memories: dict[str, JobMemory] = {}

    def configure(self, files: Mapping[str, Job], read: ReadJob, clouds: Container[str] = ()) -> None:
        """Go by these files from now on, and recall what was noted down: at the start, or when the store comes late.

        Args:
            files: the jobs that they have, with what the cloud says of them.
            read: makes jobs.
            clouds: names of jobs of which the cloud says something.
        """
        self._files, self._clouds, self._read = files, clouds, read
        for name, text in self._outbox.notes.items():
            if name.startswith(_PREFIX):
                memory = self.memory(name.removeprefix(_PREFIX))
                if memory.dump() != text:  # whatever else has changed was noted down
                    memory.take_up(load(text))

    def names(self) -> set[str]:
        """Return the names of all jobs that there are or were."""
        return {*self._files, *self._memories}

    def hidden(self) -> list[str]:
        """Return the names of jobs that the files have and somebody has deleted."""
        deleted = (name for name, memory in self._memories.items() if memory.deleted and name in self._files)
        return sorted(name for name in deleted if name not in self._clouds)

    def memory(self, name: str) -> JobMemory:
        """Return what is remembered of a job; ``save`` it when it was changed."""
        return self._memories.setdefault(name, JobMemory())

    def save(self, name: str) -> None:
        """Note down what is remembered of a job, if that has changed; ``written`` tells when it is durable."""
        text = self.memory(name).dump()
        if text != self._outbox.notes.get(_PREFIX + name):
            self._outbox.note(_PREFIX + name, text)

    async def written(self) -> None:
        """Return once all is durable that was saved; at once while the disk fails."""
        await self._outbox.written()

    def job(self, name: str) -> tuple[Job, Origin] | None:
        """Return a job, and who says so; ``None`` = there is none of that name."""
        memory, filed = self._memories.get(name, _NOTHING), self._files.get(name)
        if name in self._clouds:
            return None if filed is None else (filed, "cloud")
        if memory.job is not None:
            try:
                return self._read(name, memory.job), "runtime"
            except EdgeAgentError as error:  # it names what the files no longer have
                log.warning("job_unusable", extra={"task_name": name, "reason": str(error)})
        return None if filed is None or memory.deleted else (filed, "file")

    def put(self, name: str, document: Mapping[str, Any] | None) -> None:
        """Put a job; with ``None`` what the files say of it counts again.

        Raises:
            EdgeAgentError: it is not valid, there are too many, or the files have none; nothing has changed.
        """
        self._must_be_ours(name)
        if document is not None:
            self._check(name, document)
        elif name not in self._files:
            raise JobError(f"the files have no job {name!r}")
        memory = self.memory(name)
        memory.job, memory.deleted = document, False
        self.save(name)

    def _check(self, name: str, document: Mapping[str, Any]) -> None:
        try:
            size = len(orjson.dumps(document))
        except (orjson.JSONEncodeError, RecursionError) as error:
            raise JobError(f"jobs.{name} cannot be said in JSON: {error}") from None
        if size > MAX_BYTES:
            raise JobError(f"jobs.{name} has {size} bytes; {MAX_BYTES} are kept; what is larger has to be in a file")
        fallback = self._read(name, document).fallback
        if fallback is not None and (fallback == name or self.job(fallback) is None):
            raise JobError(f"jobs.{name}.fallback: found {quoted(fallback)}; the name of another job is needed")
        others = sum(one != name and memory.job is not None for one, memory in self._memories.items())
        if others >= MAX_PUT:
            raise JobError(f"{MAX_PUT} jobs were put at run time, more are not kept; delete one, or use a file")

    def _must_be_ours(self, name: str) -> None:
        if name in self._clouds:
            raise JobError(f"the cloud's configuration has the job {name!r}; change it there")

    def delete(self, name: str) -> None:
        """Delete a job, and what is remembered of it.

        Raises:
            JobError: the cloud has it.
        """
        self._must_be_ours(name)
        self._memories[name] = JobMemory(deleted=name in self._files)
        self.forget(name)

    def forget(self, name: str) -> None:
        """Forget how a job went that there is no more; what somebody has changed stays."""
        memory = self._memories.get(name, _NOTHING)
        if memory.job is None:
            self._memories[name] = JobMemory(paused=memory.paused, deleted=memory.deleted)
            self.save(name)
            if not (memory.paused or memory.deleted):
                del self._memories[name]
