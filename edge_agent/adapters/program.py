"""Runs a program in a session of its own, keeps a bounded part of what it prints, and leaves nothing of it running."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_agent.adapters.threads import in_daemon_thread
from edge_agent.core.config_jobs import Program
from edge_agent.core.timebase import DurationNs, later, seconds
from edge_agent.errors import JobError
from edge_agent.ports import Clock

KEPT_OF_ERRORS: Final = 4096  # bytes of the end of stderr
MAX_SHOWN: Final = 360  # characters of that; with who said it, and how it ended, it fits the reason of a run (500)
LOOK_EVERY: Final = seconds(0.02)
"""How often it is looked whether a process group has gone; nothing tells it."""

_CHUNK: Final = 1 << 16
_FULL_PIPE: Final = 1 << 20  # /proc/sys/fs/pipe-max-size
_ENVIRONMENT: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended.

    Attributes:
        code: its exit code; below zero: the signal that ended it.
        output: the first ``max_output`` bytes of its stdout.
        truncated: whether there was more.
        errors: the last bytes of its stderr.
    """

    code: int
    output: bytes
    truncated: bool
    errors: bytes

    def complaint(self) -> str:
        """Return in one line how it ended, and the end of what it said about that."""
        how = f"signal {-self.code} ({signal.strsignal(-self.code)})" if self.code < 0 else f"exit code {self.code}"
        said = " ".join((self.errors or self.output).decode(errors="backslashreplace").split())[-MAX_SHOWN:]
        return f"ended with {how}" + (f": {said}" if said else " and said nothing")


async def run_program(program: Program, *, cwd: Path, grace: DurationNs, clock: Clock) -> Ended:
    """Run a program to its end; what it leaves behind in its process group is ended, too.

    When this is cancelled, the whole group gets SIGTERM, and SIGKILL after ``grace``. What has made itself a session
    of its own is out of reach.

    Args:
        program: which; its ``timeout`` is the caller's business.
        cwd: where it runs unless it says so itself; made if it is missing.
        grace: between SIGTERM and SIGKILL.
        clock: where the time comes from.

    Raises:
        JobError: it cannot be started.
    """
    output, errors = _Pipe(program.max_output), _Pipe(KEPT_OF_ERRORS, end=True)
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        try:
            started.append(_start(program, cwd, output.writing, errors.writing))
            return started[0]
        finally:
            os.close(output.writing)
            os.close(errors.writing)

    def too_late() -> None:
        for process in started:
            _signal(process.pid, signal.SIGKILL)
            threading.Thread(target=process.wait, daemon=True).start()

    try:
        process = await in_daemon_thread(start, name="program", late=too_late)
        try:
            code = await in_daemon_thread(process.wait, name="program", late=lambda: None)
        finally:
            await _end_group(process.pid, grace, clock)
        output.drain()
        errors.drain()
        return Ended(code, bytes(output.kept), output.truncated, bytes(errors.kept))
    finally:
        output.close()
        errors.close()


def _start(program: Program, cwd: Path, output: int, errors: int) -> subprocess.Popen[bytes]:
    folder = program.cwd or cwd
    try:
        if program.cwd is None:
            cwd.mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(  # noqa: S603  # local files name it, and there is no shell
            program.argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            cwd=folder,
            env=_ENVIRONMENT | program.env,
            start_new_session=True,
        )
    except OSError as error:
        what = "nothing can be run there" if str(error.filename) == str(folder) else "cannot be run"
        raise JobError(f"{error.filename or program.argv[0]}: {what}: {error.strerror}") from None


class _Pipe:
    """The beginning or the end of what is written to a pipe; the rest is read and thrown away."""

    def __init__(self, limit: int, *, end: bool = False) -> None:
        self._limit = limit
        self._end = end
        self._reading, self.writing = os.pipe2(os.O_CLOEXEC)
        self._loop = asyncio.get_running_loop()
        self.kept = bytearray()
        self.truncated = False
        os.set_blocking(self._reading, False)
        self._loop.add_reader(self._reading, self._read)

    def _read(self) -> bool:
        """Read what is there; return whether there may be more."""
        try:
            chunk = os.read(self._reading, _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self._loop.remove_reader(self._reading)
        elif self._end:
            self.kept += chunk
            del self.kept[: -self._limit]
        else:
            room = self._limit - len(self.kept)
            self.kept += chunk[:room]
            self.truncated = self.truncated or len(chunk) > room
        return bool(chunk)

    def drain(self) -> None:
        """Read what is in the pipe, though somebody may still have it open."""
        for _ in range(_FULL_PIPE // _CHUNK + 1):
            if not self._read():
                return

    def close(self) -> None:
        """Read no more: whoever still writes gets SIGPIPE."""
        self._loop.remove_reader(self._reading)
        os.close(self._reading)


async def _end_group(group: int, grace: DurationNs, clock: Clock) -> None:
    """End whatever runs in a process group."""
    deadline = later(clock.monotonic(), grace)
    there = _signal(group, signal.SIGTERM)
    try:
        while there and clock.monotonic() < deadline:
            await clock.sleep_until(later(clock.monotonic(), LOOK_EVERY))
            there = _signal(group, 0)
    finally:
        if there:
            _signal(group, signal.SIGKILL)


def _signal(group: int, number: int) -> bool:
    """Send a signal to a process group; return whether there is somebody who got it."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
