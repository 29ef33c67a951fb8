"""Configuration files that are bad, each with all that has to be said about it."""

from __future__ import annotations

import contextlib
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeAlias

from edge_agent.errors import ConfigProblem

MAIN, DROP_IN, SECRET = "edge-agent.toml", "edge-agent.d/50-bad.toml", "secret"
SPOKEN: Final = "hunter2"
"""The secret that stands in some of them; no message may repeat it."""

Made: TypeAlias = bytes | Callable[[Path], object]


@dataclass(frozen=True, slots=True)
class BadFile:
    """A configuration that is refused.

    Attributes:
        name: what is wrong with it, in a word.
        files: what lies where, from the folder of the main file on; ``{here}`` in a text is that folder. Whatever is
            not named is good.
        problems: what is found; files are named from the same folder on, an empty name is none.
        is_closed: whether one of them may not be read, not even by root without its privileges.
    """

    name: str
    files: Mapping[str, Made]
    problems: list[ConfigProblem]
    is_closed: bool = field(default=False)

    @contextlib.contextmanager
    def put(self, main: Path) -> Iterator[list[ConfigProblem]]:
        """Put it in the place of a good main file for a while; the problems name the files as they lie there."""
        good, here = main.read_bytes(), str(main.parent)
        for name, made in self.files.items():
            path = main.parent / name
            path.parent.mkdir(exist_ok=True)
            path.unlink(missing_ok=True)
            if isinstance(made, bytes):
                path.write_bytes(made.replace(b"{here}", here.encode()))
            else:
                made(path)
        try:
            yield [
                replace(said, file=said.file and f"{here}/{said.file}", reason=said.reason.replace("{here}", here))
                for said in self.problems
            ]
        finally:
            for path in (main.parent / name for name in reversed(list(self.files))):  # what names a file goes before it
                path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
            main.write_bytes(good)


def bad_files() -> list[BadFile]:
    """Return all of them."""
    table = tomllib.loads((Path(__file__).parents[1] / "scenarios" / "bad_files.toml").read_text())
    texts = [
        _main(row["name"], row["text"].encode(), row["reason"], key=row.get("key", ""), line=row.get("line"))
        for row in table["file"]
    ]
    return [*texts, *_bytes(), *_places(), *_drop_ins(), *_secrets()]


def _main(name: str, made: Made, reason: str, *, key: str = "", line: int | None = None) -> BadFile:
    return BadFile(name, {MAIN: made}, [ConfigProblem(MAIN, key, reason, line)])


_BELL, _NUL = (f"found the character '\\x0{code}'; printable ones and tabs are allowed" for code in (7, 0))
_MORE: Final = 'found more after the value; one key a line is allowed, and texts like "5m" stand in quotes'
_NO_KEY: Final = "TOML, column 1: found no key; key = value or [table] is needed"
_NO_UTF_8: Final = "found bytes that are not UTF-8; save it as UTF-8"
_TOO_DEEP: Final = "found tables or arrays in each other; 16 levels are allowed"
_TOO_LARGE: Final = "found a whole number beyond 64 bits; -2^63 to 2^63-1 is allowed"


def _bytes() -> list[BadFile]:
    bom = b"\xef\xbb\xbf"
    return [
        _main("a-nul-in-a-text", b'[log]\nlevel = "info\0"\n', f"TOML, column 14: {_NUL}", line=2),
        _main("a-nul-outside", b"[log]\n\0\n", _NO_KEY, line=2),
        _main("nothing-but-nul", b"\0" * 512, _NO_KEY, line=1),
        _main("a-bell-in-a-comment", b"# \x07\n", f"TOML, column 3: {_BELL}", line=1),
        _main("latin-1", b'[mqtt]\nprefix = "caf\xe9"\n', _NO_UTF_8, line=2),
        _main("utf-16", "[log]\n".encode("utf-16"), _NO_UTF_8, line=1),
        _main("a-byte-order-mark-within", b"[log]\n" + bom + b'level = "info"\n', _NO_KEY, line=2),
        _main(
            "a-typo-after-a-byte-order-mark-and-windows-line-ends",
            bom + b'[log]\r\nlevle = "info"\r\n',
            "unknown key 'levle'; did you mean 'level'?",
            key="log.levle",
        ),
        _main("line-ends-of-an-old-mac", b'[log]\rlevel = "info"\r', f"TOML, column 6: {_MORE}", line=1),
        _main("opening-brackets", b"version = " + b"[" * 5000, _TOO_DEEP),
        _main("opening-braces", b"version = " + b"{a = " * 5000, _TOO_DEEP),
        _main("dots", b"a" + b".a" * 5000 + b" = 1\n", "found 5000 dots in one line; 500 are allowed", line=1),
        _main("digits", b"[outbox]\nrate = " + b"9" * 5000 + b"\n", _TOO_LARGE),
    ]


def _closed(path: Path) -> None:
    path.touch(mode=0)


def _places() -> list[BadFile]:
    missing = "no such file; create it (an empty one gives the defaults) or name another with --config"
    closed = _main("a-closed-file", _closed, "permission denied; let the agent's user read it")
    loop = "cannot be read: Too many levels of symbolic links"
    return [
        _main("no-file", lambda path: path, missing),
        _main("a-dangling-link", lambda path: path.symlink_to("nowhere"), missing),
        _main("a-link-to-itself", lambda path: path.symlink_to(path.name), loop),
        _main("a-folder", Path.mkdir, "this is a folder; name a file"),
        _main("a-fifo", os.mkfifo, "this is no regular file"),
        _main("a-device", lambda path: path.symlink_to("/dev/zero"), "this is no regular file"),
        _main("more-than-1-mib", b"#" * ((1 << 20) + 1), "larger than 1024KiB; is it the right file?"),
        BadFile(closed.name, closed.files, closed.problems, is_closed=True),
    ]


def _drop_ins() -> list[BadFile]:
    def drop_in(name: str, made: Made, reason: str, *, key: str = "", line: int | None = None) -> BadFile:
        return BadFile(name, {DROP_IN: made}, [ConfigProblem(DROP_IN, key, reason, line)])

    typo = "unknown key 'evry'; did you mean 'every'?"
    no_value = "found no value; a text in quotes, a number, true, false, [an array] or {a table} is needed"
    return [
        drop_in("a-typo-in-a-drop-in", b"[heartbeat]\nevry = 1\n", typo, key="heartbeat.evry"),
        drop_in("a-folder-as-a-drop-in", Path.mkdir, "this is a folder; name a file"),
        drop_in("half-a-drop-in", b"[heartbeat]\nevery = ", f"TOML, at its end: {no_value}", line=2),
        drop_in("a-section-undone", b"heartbeat = 5\n", "found a number; a table is needed", key="heartbeat"),
        BadFile(
            "both-files",
            {MAIN: b"[heartbeat]\nevry = 1\n", DROP_IN: b"[outbox]\nrate = -1\n"},
            [
                ConfigProblem(MAIN, "heartbeat.evry", typo),
                ConfigProblem(DROP_IN, "outbox.rate", "found -1; 0 to 100000 is allowed"),
            ],
        ),
        BadFile(
            "a-value-that-a-drop-in-made-bad",
            {MAIN: b'[time]\npoll_max = "2m"\n', DROP_IN: b'[time]\npoll_min = "5m"\n'},
            [ConfigProblem(DROP_IN, "time", 'poll_min "5m" is above poll_max "2m"; set both')],
        ),
        BadFile(
            "too-many-drop-ins",
            {f"edge-agent.d/{number:03}.toml": b"" for number in range(101)},
            [ConfigProblem("edge-agent.d", "", "102 files; at most 100 are read")],
        ),
    ]


def _secrets() -> list[BadFile]:
    login = b'[mqtt]\nusername = "u"\npassword_file = "{here}/secret"\n'

    def secret(name: str, reason: str, made: Made, *, is_closed: bool = False) -> BadFile:
        said = ConfigProblem(DROP_IN, "mqtt.password_file", f"{{here}}/secret: {reason}")
        return BadFile(name, {SECRET: made, DROP_IN: login}, [said], is_closed)

    return [
        secret("no-secret", "no such file; create it", lambda path: path),
        secret("an-empty-secret", "the secret is empty", b"\n"),
        secret("a-folder-as-a-secret", "this is a folder; name a file", Path.mkdir),
        secret("a-secret-in-latin-1", "the secret is not UTF-8 text", b"hunter2\xe9\n"),
        secret("a-large-secret", "larger than 64KiB; is it the right file?", b"hunter2" * 10_000),
        secret("a-closed-secret", "permission denied; let the agent's user read it", _closed, is_closed=True),
    ]
