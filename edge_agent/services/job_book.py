"""Which jobs there are: what the files say, and over that, name by name, what somebody has put or deleted since.

A job that was put takes the place of the file's of that name, whole; a deletion hides it. Both last until somebody
deletes or puts again, over restarts and whatever becomes of the files.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from edge_agent.core.config_jobs import Job
from edge_agent.core.job_memory import JobMemory, load
from edge_agent.core.scheduled import Origin
from edge_agent.errors import EdgeAgentError
from edge_agent.job_ports import Notebook

log = logging.getLogger(__name__)

ReadJob: TypeAlias = Callable[[str, Mapping[str, Any]], Job]
"""Makes a job of its name and a document; raises ``EdgeAgentError`` if that is not valid."""

_PREFIX: Final = "job/"


class JobBook:
    """The jobs, and what is remembered of each."""

    def __init__(self, outbox: Notebook) -> None:
        self._outbox = outbox
        self._files: Mapping[str, Job] = {}
        self._read: ReadJob = lambda _name, document: Job.model_validate(document)
        self._memories: dict[str, JobMemory] = {}

    def configure(self, files: Mapping[str, Job], read: ReadJob) -> None:
        """Go by these files from now on; the first time, recall what was noted down."""
        self._files, self._read = files, read
        for name, text in self._outbox.notes.items():
            if name.startswith(_PREFIX):
                self._memories.setdefault(name.removeprefix(_PREFIX), load(text))

    def names(self) -> set[str]:
        """Return the names of all jobs that there are or were."""
        return {*self._files, *self._memories}

    def memory(self, name: str) -> JobMemory:
        """Return what is remembered of a job; ``save`` it when it was changed."""
        return self._memories.setdefault(name, JobMemory())

    def save(self, name: str) -> None:
        """Note down what is remembered of a job, if that has changed; ``written`` tells when it is durable."""
        text = self.memory(name).dump()
        if text != self._outbox.notes.get(_PREFIX + name):
            self._outbox.note(_PREFIX + name, text)

    def forget(self, name: str) -> None:
        """Forget the slots of a job that is no more; what somebody has said of it lasts."""
        self.memory(name).forget()
        self.save(name)

    async def written(self) -> None:
        """Return once all is durable that was saved; at once while the disk fails."""
        await self._outbox.written()

    def job(self, name: str) -> tuple[Job, Origin] | None:
        """Return a job, and who says so; ``None`` = there is none of that name."""
        memory, filed = self.memory(name), self._files.get(name)
        if memory.job is not None:
            try:
                return self._read(name, memory.job), "runtime"
            except EdgeAgentError as error:  # it names what the files no longer have
                log.warning("job_unusable", extra={"task_name": name, "reason": str(error)})
        return None if filed is None or memory.deleted else (filed, "file")

    def put(self, name: str, document: Mapping[str, Any]) -> None:
        """Put a job.

        Raises:
            EdgeAgentError: it is not valid; nothing has changed.
        """
        self._read(name, document)
        memory = self.memory(name)
        memory.job, memory.deleted = document, False
        self.save(name)

    def delete(self, name: str) -> None:
        """Delete a job, and what is remembered of it."""
        self._memories[name] = JobMemory(deleted=name in self._files)
        self.save(name)
