"""Reading configuration files and secrets."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.adapters.config_files import DEFAULT_PATH, MAX_DROP_INS, default_path, read_secret, read_sources
from edge_agent.core.config_document import MAX_SOURCE_BYTES
from edge_agent.errors import ConfigError


def refusal(path: Path) -> str:
    """Return what is said about a path."""
    with pytest.raises(ConfigError) as bad:
        read_sources(path)
    return str(bad.value)


def test_the_option_wins_over_the_environment_and_that_over_the_default() -> None:
    """Empty values count as not given."""
    environ = {"EDGE_AGENT_CONFIG": "/e"}
    assert default_path("/o", environ) == Path("/o")
    assert default_path(None, environ) == Path("/e")
    assert default_path(None, {"EDGE_AGENT_CONFIG": ""}) == default_path("", {}) == DEFAULT_PATH


def test_drop_ins_follow_in_lexical_order(tmp_path: Path) -> None:
    """Hidden files and other names are left alone."""
    main, folder = tmp_path / "x.toml", tmp_path / "x.d"
    folder.mkdir()
    main.write_text("m")
    for name in ("20-b.toml", "10-a.toml", ".hidden.toml", "c.toml~", "d.txt"):
        (folder / name).write_text(name)
    sources = read_sources(main)
    assert [source.name for source in sources] == [str(main), str(folder / "10-a.toml"), str(folder / "20-b.toml")]
    assert sources[1].text == b"10-a.toml"


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    """Create it or name another."""
    path = tmp_path / "x.toml"
    assert refusal(path) == (
        f"{path}: no such file; create it (an empty one gives the defaults) or name another with --config"
    )


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    """A folder, a FIFO without a writer, a device: none of them blocks or fills the memory."""
    fifo = tmp_path / "f.toml"
    os.mkfifo(fifo)
    assert "this is no regular file" in refusal(fifo)
    assert "this is no regular file" in refusal(Path("/dev/zero"))
    assert "this is a folder" in refusal(tmp_path)
    assert "this is a folder" in refusal(Path("/"))
    (tmp_path / "loop").symlink_to("loop")
    assert "cannot be read: Too many levels of symbolic links" in refusal(tmp_path / "loop")


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    """The limit itself is allowed; a file without a size is cut off at it."""
    path = tmp_path / "x.toml"
    path.write_bytes(b"#" * MAX_SOURCE_BYTES)
    assert len(read_sources(path)[0].text) == MAX_SOURCE_BYTES
    os.truncate(path, 1 << 40)
    assert "larger than 1024KiB" in refusal(path)


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Be a user whom the kernel refuses something."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_an_unreadable_file_says_so() -> None:
    """The fix is in the message."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to nobody
        path = Path(folder, "x.toml")
        path.touch(mode=0)
        path.parent.chmod(0o755)
        with nobody():
            text = refusal(path)
    assert "permission denied; let the agent's user read it" in text


def test_every_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """The main file and its drop-ins together."""
    (tmp_path / "x.d" / "a.toml").mkdir(parents=True)
    with pytest.raises(ConfigError) as bad:
        read_sources(tmp_path / "x.toml")
    assert [Path(problem.file).name for problem in bad.value.problems] == ["x.toml", "a.toml"]


def test_a_folder_of_drop_ins_must_be_one_and_not_too_full(tmp_path: Path) -> None:
    """A file in its place and an endless number of files are refused."""
    main, folder = tmp_path / "x.toml", tmp_path / "x.d"
    main.touch()
    folder.touch()
    assert "cannot list the folder: Not a directory" in refusal(main)
    folder.unlink()
    folder.mkdir()
    for number in range(MAX_DROP_INS + 1):
        (folder / f"{number}.toml").touch()
    assert "101 files; at most 100 are read" in refusal(main)


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (b"pw", "pw"),
        (b"pw\n", "pw"),
        (b"pw\r\n", "pw"),
        (b"pw\n\n", "pw\n"),
        (b" p w ", " p w "),
        ("pä".encode(), "pä"),
    ],
)
def test_a_secret_loses_one_newline_and_nothing_else(tmp_path: Path, content: bytes, secret: str) -> None:
    """Editors add one."""
    path = tmp_path / "secret"
    path.write_bytes(content)
    assert read_secret(str(path)) == secret


def test_a_name_is_looked_up_among_the_systemd_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First there, then in the working directory."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "mqtt").write_text("one")
    (tmp_path / "mqtt").write_text("two")
    monkeypatch.chdir(tmp_path)
    assert read_secret("mqtt", environ={"CREDENTIALS_DIRECTORY": str(credentials)}) == "one"
    assert read_secret("mqtt", environ={}) == "two"


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty"), (b"\n", "empty"), (b"\xffhunter2", "not UTF-8"), (b"hunter2" * 10_000, "larger than 64KiB")],
)
def test_a_bad_secret_is_refused_without_being_shown(tmp_path: Path, content: bytes, words: str) -> None:
    """The message names the file and the key."""
    path = tmp_path / "secret"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as bad:
        read_secret(str(path), key="mqtt.password_file")
    (problem,) = bad.value.problems
    assert (problem.file, problem.key) == (str(path), "mqtt.password_file")
    assert "hunter2" not in str(problem)


def test_a_secret_in_the_place_of_its_name_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody wrote the password itself into password_file."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no readable systemd credential") as bad:
        read_secret("hunter2", environ={}, key="mqtt.password_file")
    assert "hunter2" not in str(bad.value)
    with pytest.raises(ConfigError, match="no such file; create it"):
        read_secret(str(tmp_path / "missing"))
