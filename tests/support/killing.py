"""Runs a worker in a child process and kills it with SIGKILL; what it has reported by then survives.

A worker is a function at the top of a module: ``worker(report, *arguments)``. It reports a mark, a short line of
bytes, for each thing that it has been promised or is about to do.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

Report = Callable[[bytes], None]
Worker = Callable[..., None]

START_TIMEOUT_S: Final = 60.0
_EXIT_S: Final = 30.0  # between the end of the pipe and the end of the process
_ROOT: Final = Path(__file__).parents[2]


def finished(
    worker: Worker, *arguments: str | Path, environ: Mapping[str, str] | None = None, within_s: float = 120
) -> list[bytes]:
    """Run a worker to its end and return its marks.

    Args:
        worker: the function.
        arguments: for it; it gets strings.
        environ: added to the environment.
        within_s: how long it may take.

    Raises:
        AssertionError: it has failed or takes longer; its traceback is on stderr.
    """
    with _started(worker, arguments, environ) as (process, pipe):
        deadline = time.monotonic() + within_s
        raw = _read(pipe, until=deadline)
        assert time.monotonic() < deadline, f"{worker.__qualname__} takes longer than {within_s:g} s"
        code = process.wait(_EXIT_S)
        assert code == 0, f"{worker.__qualname__} has failed: exit code {code}"
    return _marks(raw)


def killed(
    worker: Worker,
    *arguments: str | Path,
    after_s: float,
    at: bytes = b"",
    environ: Mapping[str, str] | None = None,
) -> list[bytes]:
    """Kill a worker and return the marks that it has reported.

    Args:
        worker: the function; it must not end by itself before.
        arguments: for it; it gets strings.
        after_s: how long after a mark.
        at: how that mark begins; the first one unless given.
        environ: added to the environment.

    Raises:
        AssertionError: it has ended by itself, or never reported the mark.
    """
    with _started(worker, arguments, environ) as (process, pipe):
        raw = _read(
            pipe,
            until=time.monotonic() + START_TIMEOUT_S,
            enough=lambda raw: any(mark.startswith(at) for mark in _marks(raw)),
        )
        assert any(mark.startswith(at) for mark in _marks(raw)), f"no mark {at!r} from {worker.__qualname__}: {raw!r}"
        moment = time.monotonic() + after_s
        raw += _read(pipe, until=moment)
        early = time.monotonic() < moment  # the pipe was closed
        assert not early, f"{worker.__qualname__} has ended by itself: exit code {process.wait(_EXIT_S)}"
        process.kill()
        raw += _read(pipe, until=time.monotonic() + _EXIT_S)
    return _marks(raw)


def kills(
    worker: Worker,
    *arguments: str | Path,
    loops: int,
    rng: random.Random,
    up_to_s: float = 0.2,
    environ: Mapping[str, str] | None = None,
) -> Iterator[list[bytes]]:
    """Kill a worker many times, each at a random moment after its first mark; yield its marks after each kill."""
    for _ in range(loops):
        yield killed(worker, *arguments, after_s=rng.uniform(0, up_to_s), environ=environ)


@contextlib.contextmanager
def _started(
    worker: Worker, arguments: tuple[str | Path, ...], environ: Mapping[str, str] | None
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start a worker; yields the process and the reading end of its pipe. Afterwards it is gone."""
    assert "<" not in worker.__qualname__, f"{worker.__qualname__} is not at the top of its module"
    reading, writing = os.pipe()
    try:
        module = ".".join(Path(inspect.getfile(worker)).relative_to(_ROOT).with_suffix("").parts)
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(writing), module, worker.__qualname__, *map(str, arguments)],
            pass_fds=[writing],
            cwd=_ROOT,
            env={**os.environ, **(environ or {})},
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    try:
        yield process, reading
    finally:
        os.close(reading)
        process.kill()
        process.wait()


def _read(pipe: int, *, until: float, enough: Callable[[bytes], bool] = lambda _raw: False) -> bytes:
    """Read until there is enough, or nobody can write any more, or an instant."""
    raw = b""
    while not enough(raw) and (left := until - time.monotonic()) > 0:
        if select.select([pipe], [], [], left)[0]:
            chunk = os.read(pipe, 1 << 16)
            if not chunk:
                break
            raw += chunk
    return raw


def _marks(raw: bytes) -> list[bytes]:
    return raw.split(b"\n")[:-1]


def _main(descriptor: str, module: str, function: str, *arguments: str) -> None:
    """Be the child."""

    def report(mark: bytes) -> None:
        assert b"\n" not in mark, f"a mark is one line: {mark!r}"
        assert len(mark) < select.PIPE_BUF, "a longer mark could be torn by the kill"
        os.write(int(descriptor), mark + b"\n")

    getattr(importlib.import_module(module), function)(report, *arguments)


if __name__ == "__main__":
    _main(*sys.argv[1:])
