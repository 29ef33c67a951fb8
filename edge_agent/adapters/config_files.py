"""Reads configuration files and secrets from disk; never more than is allowed, and only from regular files."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from edge_agent.core.config_document import MAX_SOURCE_BYTES, Source
from edge_agent.errors import ConfigError, ConfigProblem

DEFAULT_PATH: Final = Path("/etc/edge-agent/edge-agent.toml")
MAX_SECRET_BYTES: Final = 64 << 10
MAX_DROP_INS: Final = 100

_MISSING: Final = "create it (an empty one gives the defaults) or name another with --config"


def default_path(option: str | None, environ: Mapping[str, str]) -> Path:
    """Return the file that ``--config`` names, else ``$EDGE_AGENT_CONFIG``, else the one in ``/etc``."""
    return Path(option or environ.get("EDGE_AGENT_CONFIG") or DEFAULT_PATH)


def drop_in_folder(path: Path) -> Path:
    """Return the folder beside a file ``X.toml``: ``X.d``."""
    return path.parent / f"{path.stem}.d"


def is_drop_in(name: str) -> bool:
    """Return whether a file of that name in the folder is read."""
    return name.endswith(".toml") and not name.startswith(".")


def printable(path: Path) -> str:
    """Return a path as it may be printed and sent: a name of a file may hold bytes that are no UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")


def read_sources(path: Path) -> list[Source]:
    """Return a file ``X.toml``, then ``X.d/*.toml`` in lexical order; hidden files there are left alone.

    Raises:
        ConfigError: with each file that cannot be read, and what to do about it.
    """
    problems, sources = [], []
    for file in (path, *_drop_ins(drop_in_folder(path))):
        try:
            sources.append(Source(printable(file), _read(file, MAX_SOURCE_BYTES, missing=_MISSING)))
        except ConfigError as invalid:
            problems += invalid.problems
    if problems:
        raise ConfigError(problems)
    return sources


def read_secret(path: str, *, environ: Mapping[str, str] = os.environ, key: str = "") -> str:
    """Return what a secret's file holds, without one newline at its end.

    Args:
        path: a path; a name without a slash is first looked up among the systemd credentials.
        environ: where ``CREDENTIALS_DIRECTORY`` stands.
        key: the dotted configuration key, for the message.

    Raises:
        ConfigError: it cannot be read; the message holds nothing of the secret.
    """
    file, folder = Path(path), environ.get("CREDENTIALS_DIRECTORY")
    if "/" not in path and folder and (Path(folder) / path).exists():
        file = Path(folder) / path
    # a name alone may be the secret itself, put into the wrong place: it is not repeated
    shown = str(file) if "/" in path else ""
    reason = "the secret is empty"
    try:
        if secret := _read(file, MAX_SECRET_BYTES, missing="create it").decode().removesuffix("\n").removesuffix("\r"):
            return secret
    except ConfigError as invalid:
        unknown = "no such file, and no readable systemd credential of that name"
        reason = invalid.problems[0].reason if shown else unknown
    except UnicodeDecodeError:
        reason = "the secret is not UTF-8 text"
    raise ConfigError([ConfigProblem(shown, key, reason)])


def _drop_ins(folder: Path) -> list[Path]:
    try:
        files = sorted(file for file in folder.iterdir() if is_drop_in(file.name))
    except FileNotFoundError:
        return []
    except OSError as bad:
        raise _error(folder, f"cannot list the folder: {bad.strerror}") from None
    if len(files) > MAX_DROP_INS:
        raise _error(folder, f"{len(files)} files; at most {MAX_DROP_INS} are read")
    return files


def _read(path: Path, limit: int, *, missing: str) -> bytes:
    """Return a regular file's bytes; ``missing`` says what to do when there is none.

    Raises:
        ConfigError: with the one reason why not.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            is_good = stat.S_ISREG(status.st_mode) and status.st_size <= limit
            content = file.read(limit + 1) if is_good else b""  # it may grow meanwhile, and files of /proc have no size
    except FileNotFoundError:
        reason = f"no such file; {missing}"
    except IsADirectoryError:
        reason = "this is a folder; name a file"
    except PermissionError:
        reason = "permission denied; let the agent's user read it"
    except OSError as bad:
        reason = f"cannot be read: {bad.strerror}"
    else:
        if is_good and len(content) <= limit:
            return content
        is_file = stat.S_ISREG(status.st_mode)
        reason = f"larger than {limit >> 10}KiB; is it the right file?" if is_file else "this is no regular file"
    raise _error(path, reason)


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting: a FIFO without a writer would block the daemon's start for ever."""
    return os.open(path, flags | os.O_NONBLOCK)


def _error(path: Path, reason: str) -> ConfigError:
    return ConfigError([ConfigProblem(printable(path), "", reason)])
