"""The kind ``files``: sends what appears in a folder, whole files (spool) or the lines of growing ones (tail)."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Final, Literal, Self, TypeAlias

import orjson
from pydantic import Field, model_validator

from edge_agent.adapters.drop_folder import DropFolder
from edge_agent.core.config_kinds import FolderName, May, Reference
from edge_agent.core.config_types import FileGlob, Section, duration
from edge_agent.core.timebase import DurationNs, later
from edge_agent.errors import JobError, OutboxError
from edge_agent.job_ports import Context, Kind
from edge_agent.jobs.json_value import json_value
from edge_agent.jobs.off_loop import off_loop
from edge_agent.jobs.tail import tail
from edge_agent.ports import Arrival

MAX_LINES: Final = 10_000
"""Of one file: the outbox remembers twice as many keys, and so knows those that it has after a crash."""

Form: TypeAlias = Literal["text", "json", "lines", "base64"]

log = logging.getLogger(__name__)


def _needs(options: Options) -> tuple[May, ...]:
    return ("read", "delete") if options.mode == "spool" else ("read",)


class Options(Section):
    """Which files are sent, and as what."""

    folder: Annotated[FolderName, Reference("folders", _needs)] = Field(
        description="Name of a table below [folders], or a path. A spool has to be allowed to delete."
    )
    mode: Literal["spool", "tail"] = Field(
        "spool", description="spool: each file once, then it is removed; tail: new lines of growing files."
    )
    pattern: FileGlob = Field("*", description="Names of the files.")
    format: Form = Field(
        "text",
        description='What files hold: {"file", "text"}; a JSON value; a JSON value per line; {"file", "base64"}.',
    )
    settle: DurationNs = duration("2s", "0s", "1h", "A spool's file is left alone until it is quiet so long")
    archive: bool = Field(default=False, description="A spool's files are moved into its folder archive, not removed.")

    @model_validator(mode="after")
    def _suits(self) -> Self:
        if self.mode == "tail" and self.format not in ("text", "lines"):
            raise ValueError(f'found format "{self.format}" with mode "tail"; "text" or "lines" is allowed')
        return self


async def run(ctx: Context, options: Options) -> Mapping[str, object]:
    """Send what is there."""
    path = max(ctx.locals.folder(options.folder, need) for need in _needs(options))  # they are all one
    if options.mode == "tail":
        return await tail(ctx, path, options.pattern, parsed=options.format == "lines")
    folder = DropFolder(
        path,
        max_bytes=ctx.max_record,
        keys=f"files:{ctx.job}",
        pattern=options.pattern,
        archive=options.archive,
    )
    return await _Spool(ctx, options, folder).run()


@dataclass(slots=True)
class _Spool:
    """One run over a folder whose files are sent whole."""

    ctx: Context
    options: Options
    folder: DropFolder
    sent: int = 0
    rejected: int = 0
    waiting: int = 0

    async def run(self) -> Mapping[str, object]:
        clock, last = self.ctx.clock, ""
        while names := await off_loop(self.ctx, partial(self.folder.names, last)):
            last = names[-1]
            if not await off_loop(self.ctx, self.folder.is_writable):
                raise JobError(
                    f"{self.options.folder}: nothing is sent that could not be removed; let the agent's user write"
                )
            before = await off_loop(self.ctx, partial(self.folder.identities, names))
            await clock.sleep_until(later(clock.monotonic(), self.options.settle))
            while names:
                batch, names = await off_loop(self.ctx, partial(self.folder.read, names))
                quiet = [arrival for arrival in batch if before.get(arrival.name) == arrival.identity]
                self.waiting += len(batch) - len(quiet)
                await self._take(quiet)
        return {"sent": self.sent, "rejected": self.rejected, "waiting": self.waiting}

    async def _take(self, batch: Sequence[Arrival]) -> None:
        """Hand in some files at once, in their order, and let go of those that are safe."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._hand_in(arrival)) for arrival in batch]
        ends = [(arrival, task.result()) for arrival, task in zip(batch, tasks, strict=True)]
        settled = [(arrival, str(end) if end else None) for arrival, end in ends if not isinstance(end, OutboxError)]
        resisting = await off_loop(self.ctx, partial(self.folder.settle, settled))
        for arrival, reason in settled:
            if reason is not None:
                said = {"task_name": self.ctx.job, "file": arrival.name[:80], "reason": reason}
                log.warning("file_rejected", extra=said)
        bad = sum(reason is not None for _, reason in settled)
        self.rejected += bad
        self.sent += len(settled) - bad
        for _, end in ends:
            if isinstance(end, OutboxError):
                raise end
        if resisting:
            name = resisting[0].name
            raise JobError(f"{name}: can be neither removed nor moved; let the agent's user write in its folder")

    async def _hand_in(self, arrival: Arrival) -> JobError | OutboxError | None:
        """Hand in a file; return why it is not, or not yet, safe."""
        try:
            records = _records(arrival, self.options.format, self.ctx.max_record)
            for number, data in enumerate(records):
                await self.ctx.publish(data, key=f"{arrival.key}.{number}")
        except (JobError, OutboxError) as error:
            return error
        return None


def _records(arrival: Arrival, form: Form, max_record: int) -> list[bytes]:
    """Return what a file holds as records.

    Raises:
        JobError: it cannot be sent.
    """
    if arrival.fault is not None:
        raise JobError(arrival.fault)
    records = list(_as(form, arrival))
    if len(records) > MAX_LINES:
        raise JobError(f"it has {len(records)} lines; at most {MAX_LINES} are sent")
    if any(len(record) > max_record for record in records):
        raise JobError(f"a record of it is larger than outbox.max_record, {max_record} bytes")
    return records


def _as(form: Form, arrival: Arrival) -> list[bytes]:
    name, content = os.fsencode(arrival.name).decode(errors="backslashreplace"), arrival.content
    match form:
        case "json":
            return [json_value(content, of="it")]
        case "lines":
            lines = enumerate(content.split(b"\n"), start=1)
            return [json_value(line, of=f"line {number}") for number, line in lines if line.strip()]
        case "base64":
            return [orjson.dumps({"file": name, "base64": base64.b64encode(content).decode()})]
        case "text":
            try:
                return [orjson.dumps({"file": name, "text": content.decode()})]
            except UnicodeDecodeError:
                raise JobError('it is not UTF-8; format "base64" sends any file') from None


KIND: Final = Kind("files", Options, run)
