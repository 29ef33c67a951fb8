"""Where the daemon keeps its state and has its socket, and where other programs find them.

A service has the system's directories; whoever may not write those has directories of his own. ``configured`` is the
configuration's ``state.dir`` or ``control.socket``, ``environ`` the process's environment; ``root`` stands for ``/``.
"""

from __future__ import annotations

import grp
import logging
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from edge_agent.errors import EdgeAgentError

log = logging.getLogger(__name__)

_ROOT: Final = Path("/")
_SAID: Final[set[str]] = set()
"""Which groups were said to be missing, and why."""


def state_dir(configured: str | None, environ: Mapping[str, str], *, root: Path = _ROOT) -> Path:
    """Return the directory for what outlives the process, made if it did not exist."""
    candidates = _states(configured, environ, root)
    return next((path for path in candidates if _writable(path, 0o750)), candidates[-1])


def socket_path(configured: str | None, environ: Mapping[str, str], *, root: Path = _ROOT) -> Path:
    """Return where the daemon has its socket; the directory is made if it did not exist.

    Raises:
        EdgeAgentError: the directory is somebody else's.
    """
    common, own = _sockets(configured, environ, root)
    if _writable(common.parent, 0o755) or configured is not None:
        return common
    if not _writable(own.parent, 0o700) or not _is_ours(own.parent):
        raise EdgeAgentError(
            f"{own.parent}: must be a directory of the agent's own user; remove it, or set control.socket"
        )
    return own


def find_socket(configured: str | None, environ: Mapping[str, str], *, root: Path = _ROOT) -> Path:
    """Return the daemon's socket as another program finds it; where there is none, where it should be."""
    common, own = _sockets(configured, environ, root)
    if configured is None and not _is_socket(common) and _is_socket(own) and _is_ours(own.parent):
        return own
    return common


def find_inbox(configured: str | None, environ: Mapping[str, str], *, root: Path = _ROOT) -> Path | None:
    """Return the folder in which records may be left for the daemon; ``None`` where there is none to write to."""
    inboxes = (path / "inbox" for path in _states(configured, environ, root))
    return next((inbox for inbox in inboxes if os.access(inbox, os.W_OK | os.X_OK)), None)


def hand_to_group(file: Path | int, group: str) -> None:
    """Give a file, by name or descriptor, to a group.

    Where that cannot be, it stays with the agent's own; that is said once, however many files it is about.
    """
    try:
        gid = grp.getgrnam(group).gr_gid
        if os.stat(file).st_gid != gid:  # noqa: PTH116  # a descriptor; the unit file forbids chown, also where it would change nothing
            os.chown(file, -1, gid)
    except KeyError:
        reason = f"the group {group} does not exist: groupadd --system {group}, and run the agent in it"
    except OSError:
        reason = f"the group {group} is not one of the agent's own: run the agent in it"
    else:
        return
    if reason not in _SAID:
        _SAID.add(reason)
        log.warning("group_missing", extra={"reason": f"{reason}; or set control.group. Its own group serves instead"})


def _states(configured: str | None, environ: Mapping[str, str], root: Path) -> list[Path]:
    if given := configured or environ.get("STATE_DIRECTORY", "").partition(":")[0]:
        return [Path(given)]
    home = environ.get("XDG_STATE_HOME") or f"{environ.get('HOME', '')}/.local/state"
    return [root / "var/lib/edge-agent", Path(home, "edge-agent")]


def _sockets(configured: str | None, environ: Mapping[str, str], root: Path) -> tuple[Path, Path]:
    """Return the socket that is configured or everybody's, and the one of this user alone."""
    runtime = environ.get("XDG_RUNTIME_DIR")
    own = Path(runtime, "edge-agent") if runtime else root / f"tmp/edge-agent-{os.geteuid()}"
    given = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    common = Path(given) if given else root / "run/edge-agent"
    return Path(configured) if configured else common / "control.sock", own / "control.sock"


def _writable(directory: Path, mode: int) -> bool:
    with suppress(OSError):
        directory.mkdir(mode, parents=True, exist_ok=True)
    return os.access(directory, os.W_OK | os.X_OK)


def _is_ours(directory: Path) -> bool:
    """Return whether nobody else can have put anything there: ``/tmp`` is everybody's."""
    found = directory.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False
