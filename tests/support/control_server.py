"""A daemon that is nothing but its control socket; as a program: ``control_server.py SOCKET RECORDS``."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from edge_agent.adapters.control_socket import ControlSocket, Handle
from edge_agent.core.submission import Submission
from edge_agent.errors import OutboxError
from edge_agent.services.control import Control, publish_method

OWN_GROUP: Final = grp.getgrgid(os.getgid()).gr_name
MAX_RECORD: Final = 120 * 1024
WITHIN_S: Final = 30.0


@dataclass
class GroupCommit:
    """See ``ports.Accept``; what has come in is made safe together, every ``period_s``.

    Channels beginning with ``data/full`` are refused.
    """

    period_s: float = 0.005
    records: list[Submission] = field(default_factory=list)
    groups: int = 0
    _ids: dict[str, str] = field(default_factory=dict)
    _group: asyncio.Event | None = None

    async def __call__(self, submission: Submission) -> str:
        """Wait for the group that this record belongs to."""
        if submission.channel.startswith("data/full"):
            raise OutboxError("the outbox is full; make room", word="full")
        if submission.key in self._ids:
            return self._ids[submission.key]
        self.records.append(submission)
        name = f"box-{submission.priority.name.lower()}.{len(self.records)}"
        if submission.key is not None:
            self._ids[submission.key] = name
        if self._group is None:
            self._group = asyncio.Event()
            asyncio.get_running_loop().call_later(self.period_s, self._commit)
        await self._group.wait()
        return name

    def _commit(self) -> None:
        assert self._group is not None
        self.groups += 1
        self._group.set()
        self._group = None


@contextlib.asynccontextmanager
async def serving(
    path: Path, handle: Handle, *, group: str = OWN_GROUP, max_line: int = MAX_RECORD + 65536
) -> AsyncIterator[asyncio.Task[None]]:
    """Serve on a socket in this process; afterwards it has stopped, and not failed."""
    control = ControlSocket(path, group=group, handle=handle, max_line=max_line)
    task = asyncio.get_running_loop().create_task(control.run())
    while not control._serving and not task.done():  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.contextmanager
def server_process(path: Path, records: Path, *behaviour: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run this file as a program until the end of the block; it is listening when the block begins."""
    command = [sys.executable, "-m", "tests.support.control_server", str(path), str(records), *behaviour]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"listening\n"
            yield process
        finally:
            process.kill()


def published(records: Path) -> list[dict[str, Any]]:
    """Return what a server process has accepted, in its order."""
    return [json.loads(line) for line in records.read_text().splitlines()] if records.exists() else []


async def _main(path: Path, records: Path, *behaviour: str) -> None:
    accept = GroupCommit()

    async def recording(submission: Submission) -> str:
        name = await accept(submission)
        with records.open("a") as file:
            line = {"id": name, "channel": submission.channel, "data": json.loads(submission.data)}
            extra = {"key": submission.key, "time": submission.time, "latest": submission.latest}
            file.write(json.dumps(line | extra) + "\n")
        if "die" in behaviour:  # accepted, but nobody is told
            os._exit(1)
        return name

    methods = {"publish": publish_method(recording, max_record=MAX_RECORD)}
    async with serving(path, Control(methods).answer) as task:
        print("listening", flush=True)
        await task


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]))
