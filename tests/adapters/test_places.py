"""Where the state and the socket are, under a root of the test's own."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.adapters.places import find_inbox, find_socket, socket_path, state_dir
from edge_agent.errors import EdgeAgentError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return what stands for ``/``, with what every system has."""
    for name in ("run", "var/lib", "tmp"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def nothing_of_the_systems(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the system's directories be somebody else's, also where the tests run as root."""
    access = os.access

    def not_these(path: Path, mode: int) -> bool:
        return (
            not Path(path).is_relative_to(root / "run")
            and not Path(path).is_relative_to(root / "var")
            and access(path, mode)
        )

    monkeypatch.setattr(os, "access", not_these)


@pytest.fixture
def listeners() -> Iterator[list[socket.socket]]:
    """Close the sockets of ``listening`` afterwards."""
    opened: list[socket.socket] = []
    yield opened
    for one in opened:
        one.close()


def listening(path: Path, listeners: list[socket.socket], mode: int = 0o700) -> Path:
    """Make a socket."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(mode)
    listeners.append(socket.socket(socket.AF_UNIX))
    listeners[-1].bind(str(path))
    return path


def mode(path: Path) -> int:
    """Return the permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


# ---------------------------------------------------------------- state
def test_the_configured_state_directory_wins(root: Path) -> None:
    """It is made if it does not exist."""
    configured = root / "data" / "agent"
    assert state_dir(str(configured), {"STATE_DIRECTORY": "/nowhere"}, root=root) == configured
    assert configured.is_dir()


def test_then_the_first_that_the_service_manager_names(root: Path) -> None:
    """There may be several, with colons between."""
    assert state_dir(None, {"STATE_DIRECTORY": f"{root}/a:{root}/b"}, root=root) == root / "a"
    assert not (root / "var/lib/edge-agent").exists()


def test_then_the_systems(root: Path) -> None:
    """Where it can be made; nobody else looks into it."""
    assert (
        state_dir(None, {"HOME": str(root / "home"), "STATE_DIRECTORY": ""}, root=root) == root / "var/lib/edge-agent"
    )
    assert mode(root / "var/lib/edge-agent") == 0o750


@pytest.mark.usefixtures("nothing_of_the_systems")
def test_then_the_users_own(root: Path) -> None:
    """As XDG has it."""
    own = {"HOME": str(root / "home")}
    assert state_dir(None, own, root=root) == root / "home/.local/state/edge-agent"
    assert state_dir(None, own | {"XDG_STATE_HOME": str(root / "xdg")}, root=root) == root / "xdg/edge-agent"
    assert (root / "xdg/edge-agent").is_dir()


def test_a_directory_that_cannot_be_made_is_named_all_the_same(root: Path) -> None:
    """Whoever writes there says what is wrong with it."""
    (root / "file").write_text("")
    assert state_dir(f"{root}/file/x", {}, root=root) == root / "file/x"


# ---------------------------------------------------------------- the daemon's socket
def test_the_configured_socket_wins(root: Path) -> None:
    """Its directory is made."""
    assert socket_path(f"{root}/mine/s", {}, root=root) == root / "mine/s"
    assert (root / "mine").is_dir()


def test_then_the_systems_socket(root: Path) -> None:
    """Others pass through its directory; who may use the socket, its own mode says."""
    assert socket_path(None, {"XDG_RUNTIME_DIR": "/nowhere"}, root=root) == root / "run/edge-agent/control.sock"
    assert mode(root / "run/edge-agent") == 0o755


@pytest.mark.usefixtures("nothing_of_the_systems")
def test_then_the_users_own_socket(root: Path) -> None:
    """In a directory for nobody else."""
    assert socket_path(None, {"XDG_RUNTIME_DIR": f"{root}/x"}, root=root) == root / "x/edge-agent/control.sock"
    assert mode(root / "x/edge-agent") == 0o700
    fallback = root / f"tmp/edge-agent-{os.geteuid()}"
    assert socket_path(None, {}, root=root) == fallback / "control.sock"
    assert mode(fallback) == 0o700


@pytest.mark.usefixtures("nothing_of_the_systems")
@pytest.mark.parametrize("trap", ["writable", "link", "stranger", "file"])
def test_a_directory_that_somebody_else_prepared_is_refused(
    root: Path, trap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``/tmp`` is everybody's."""
    folder = root / f"tmp/edge-agent-{os.geteuid()}"
    match trap:
        case "writable":
            folder.mkdir()
            folder.chmod(0o777)
        case "link":
            (root / "elsewhere").mkdir(mode=0o700)
            folder.symlink_to(root / "elsewhere")
        case "stranger":
            folder.mkdir(mode=0o700)
            own = os.geteuid()
            monkeypatch.setattr(os, "geteuid", lambda: own + 1)
            folder.rename(root / f"tmp/edge-agent-{own + 1}")
        case _:
            folder.write_text("")
            folder.chmod(0o700)
    with pytest.raises(EdgeAgentError, match=r"must be a directory of the agent's own user; remove it"):
        socket_path(None, {}, root=root)


# ---------------------------------------------------------------- as others find it
def test_a_program_finds_the_socket_that_exists(root: Path, listeners: list[socket.socket]) -> None:
    """The system's before its own; where there is none, it is told where it should be."""
    environ = {"XDG_RUNTIME_DIR": f"{root}/x"}
    common = root / "run/edge-agent/control.sock"
    assert find_socket(None, environ, root=root) == common
    assert list(root.glob("run/*")) == []
    own = listening(root / "x/edge-agent/control.sock", listeners)
    assert find_socket(None, environ, root=root) == own
    listening(common, listeners)
    assert find_socket(None, environ, root=root) == common


def test_a_program_looks_nowhere_else_than_configured(root: Path, listeners: list[socket.socket]) -> None:
    """Whatever there is."""
    listening(root / "x/edge-agent/control.sock", listeners)
    assert find_socket("/configured", {"XDG_RUNTIME_DIR": f"{root}/x"}, root=root) == Path("/configured")


def test_a_program_does_not_trust_a_socket_that_anybody_may_have_put_there(
    root: Path, listeners: list[socket.socket]
) -> None:
    """Its data are not for whoever listens in ``/tmp``."""
    trap = listening(root / f"tmp/edge-agent-{os.geteuid()}/control.sock", listeners, mode=0o777)
    assert find_socket(None, {}, root=root) != trap
    trap.parent.chmod(0o700)
    assert find_socket(None, {}, root=root) == trap


def test_the_inbox_is_found_where_it_may_be_written(root: Path) -> None:
    """It is never made: only the daemon knows who may write there."""
    environ = {"HOME": str(root / "home")}
    assert find_inbox(None, environ, root=root) is None
    own = root / "home/.local/state/edge-agent/inbox"
    own.mkdir(parents=True)
    assert find_inbox(None, environ, root=root) == own
    common = root / "var/lib/edge-agent/inbox"
    common.mkdir(parents=True)
    assert find_inbox(None, environ, root=root) == common
    assert find_inbox(str(root / "elsewhere"), environ, root=root) is None
