"""What other programs do with the inbox, and an outbox that is just a file."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest

from edge_agent.core.submission import Submission


def drop(inbox: Path, name: str, content: object) -> Path:
    """Put a file into the inbox as the contract says: whole, renamed from a name that begins with a dot."""
    half = inbox / f".half-{os.getpid()}"
    half.write_bytes(content if isinstance(content, bytes) else orjson.dumps(content))
    return half.rename(inbox / name)


def drop_many(inbox: Path, numbers: Iterable[int]) -> None:
    """Put in a record ``{"n": number}`` for each number."""
    for number in numbers:
        drop(inbox, f"{number:07}.json", {"channel": "data/n", "data": {"n": number}})


def left(inbox: Path) -> list[str]:
    """Return the names of the files that wait in the inbox."""
    return sorted(path.name for path in inbox.iterdir() if path.name[0] != "." and not path.is_dir())


def logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what the agent has logged; in debug mode asyncio does, too."""
    return [record for record in caplog.records if record.name.startswith("edge_agent.")]


def recorded(path: Path) -> list[dict[str, Any]]:
    """Return the records of a ledger; a torn line at its end was never confirmed."""
    return [orjson.loads(line) for line in _whole_lines(path).splitlines()]


def _whole_lines(path: Path) -> bytes:
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1]


class Ledger:
    """Accepts records into a file, a line each, synchronised in groups; opened again, it knows its keys."""

    def __init__(self, path: Path) -> None:
        self.repeats = 0
        self._keys = {record["key"] for record in recorded(path)}
        self._file = path.open("ab", buffering=0)
        self._file.truncate(len(_whole_lines(path)))
        self._group: list[bytes] = []
        self._written: asyncio.Future[None] | None = None

    async def __call__(self, submission: Submission) -> str:
        """See ``ports.Accept``."""
        if submission.key in self._keys:
            self.repeats += 1
            return f"ledger.{submission.key}"
        self._keys.add(submission.key)
        self._group.append(orjson.dumps({"key": submission.key, "data": orjson.loads(submission.data)}) + b"\n")
        if self._written is None:
            loop = asyncio.get_running_loop()
            self._written = loop.create_future()
            loop.call_later(0.002, self._commit)
        await asyncio.shield(self._written)
        return f"ledger.{submission.key}"

    def _commit(self) -> None:
        assert self._written is not None
        group, self._group, written, self._written = self._group, [], self._written, None
        self._file.write(b"".join(group))
        os.fsync(self._file.fileno())
        written.set_result(None)
