"""Log lines: JSON for machines, a readable line for a person."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from edge_agent.adapters import logs

STAMP = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


class Stream(io.StringIO):
    """A stream that is a terminal, or is none."""

    def __init__(self, *, terminal: bool = False) -> None:
        super().__init__()
        self._terminal = terminal

    @override
    def isatty(self) -> bool:
        return self._terminal

    def lines(self) -> list[str]:
        """Return what was written, by line."""
        text = self.getvalue()
        assert not text or text.endswith("\n")
        return text.removesuffix("\n").split("\n") if text else []


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Put the root logger back as it was."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


log = logging.getLogger("edge_agent.test")


def said(extra: dict[str, Any], *, level: int = logging.INFO) -> dict[str, Any]:
    """Return the one JSON line that an event with these fields makes."""
    stream = Stream()
    logs.configure("debug", "json", stream=stream)
    log.log(level, "event", extra=extra)
    (line,) = stream.lines()
    return dict(json.loads(line))


def fail(text: str) -> None:
    """Raise an error."""
    raise ValueError(text)


# ---------------------------------------------------------------- JSON
def test_a_line_is_time_level_event_and_fields() -> None:
    """In this order; values keep their types."""
    fields = {"broker": "mqtt://h", "count": 3, "share": 0.5, "yes": True, "none": None, "list": ["a"], "map": {"k": 1}}
    line = said(fields, level=logging.WARNING)
    assert list(line) == ["time", "level", "event", *fields]
    assert STAMP.fullmatch(line.pop("time"))
    assert line == {"level": "warning", "event": "event", **fields}


def test_an_event_may_have_arguments() -> None:
    """As with logging's own."""
    stream = Stream()
    logs.configure("info", "json", stream=stream)
    log.info("read %d of %s", 3, "x")
    assert json.loads(stream.getvalue())["event"] == "read 3 of x"


def test_what_json_does_not_know_is_written_as_text() -> None:
    """A path, an exception, bytes, a set's member, an object; keys that are no strings."""
    line = said({"path": Path("/x"), "error": OSError(2, "gone"), "bytes": b"\xff", "map": {1: "one", None: "none"}})
    assert line["path"] == "/x"
    assert line["error"] == "[Errno 2] gone"
    assert line["bytes"] == repr(b"\xff")
    assert line["map"] == {"1": "one", "null": "none"}


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(1 << 64, id="int-above-64-bit"),
        pytest.param(-(1 << 63) - 1, id="int-below-64-bit"),
        pytest.param("/tmp/\udcff", id="file-name-that-is-not-utf-8"),  # noqa: S108
        pytest.param({"\udcff": 1}, id="key-that-is-not-utf-8"),
        pytest.param({(1, 2): 3}, id="key-that-is-a-tuple"),
        pytest.param(float("nan"), id="nan"),
        pytest.param(OSError(2, "gone", "/tmp/\udcff"), id="error-about-such-a-file"),  # noqa: S108
    ],
)
def test_what_json_cannot_hold_does_not_lose_the_line(value: object, capsys: pytest.CaptureFixture[str]) -> None:
    """One line comes out all the same, and logging has nothing to complain of on stderr."""
    line = said({"value": value, "other": 1})
    assert (line["event"], line["other"]) == ("event", 1)
    assert capsys.readouterr().err == ""


def test_a_value_that_contains_itself_does_not_lose_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Nor does one that is nested without end."""
    ring: list[Any] = []
    ring.append(ring)
    assert said({"value": ring, "other": 1})["other"] == 1
    assert capsys.readouterr().err == ""


def test_a_traceback_stays_within_its_line() -> None:
    """Its line breaks are escaped; it names the exception and the place."""
    stream = Stream()
    logs.configure("info", "json", stream=stream)
    try:
        fail("first\nsecond")
    except ValueError:
        log.critical("crashed", exc_info=True)
    (line,) = stream.lines()
    found = json.loads(line)
    assert found["event"] == "crashed"
    assert "test_logs.py" in found["traceback"]
    assert found["traceback"].endswith("ValueError: first\nsecond")


TAKEN: Final = {*logging.makeLogRecord({}).__dict__, "message", "asctime", "level", "event"}


@given(text=st.text(), key=st.text(min_size=1).filter(lambda key: key not in TAKEN))
def test_any_text_makes_exactly_one_line_of_json(text: str, key: str) -> None:
    """In a field, as a field's name, nested, or as the event."""
    stream = Stream()
    logs.configure("info", "json", stream=stream)
    log.info("event", extra={key: text, "nested": {"list": [text], text: text}} if key != "nested" else {key: text})
    log.info("%s", text)
    first, second = map(json.loads, stream.lines())
    assert first[key] == text
    assert second["event"] == text


# ---------------------------------------------------------------- console
def test_the_console_form_is_for_a_person() -> None:
    """Time of day, level, event, fields."""
    stream = Stream()
    logs.configure("info", "console", stream=stream)
    log.warning("connected", extra={"broker": "mqtt://h", "protocol": 5})
    (line,) = stream.lines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} WARNING connected broker=mqtt://h protocol=5", line)


def test_no_field_controls_the_terminal() -> None:
    """Or begins a line: its value may be what a program said."""
    stream = Stream()
    logs.configure("info", "console", stream=stream)
    log.warning("job_run", extra={"reason": "\x1b[31mno\x07 \x9b1m\x00\u202edisk\nline"})
    (line,) = stream.lines()
    assert line.endswith(" WARNING job_run reason=[31mno 1mdiskline")


def test_the_console_form_shows_a_traceback_below() -> None:
    """As Python prints it."""
    stream = Stream()
    logs.configure("info", "console", stream=stream)
    try:
        fail("bad")
    except ValueError:
        log.exception("crashed")
    first, second, *_, last = stream.lines()
    assert first.endswith("ERROR   crashed")
    assert (second, last) == ("Traceback (most recent call last):", "ValueError: bad")


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("form", ["json", "console", None])
def test_colour_is_only_for_a_terminal(form: Any, terminal: bool) -> None:  # noqa: ANN401, FBT001
    """The form is console on a terminal and JSON elsewhere, unless one is asked for."""
    stream = Stream(terminal=terminal)
    logs.configure("info", form, stream=stream)
    log.error("broken")
    log.info("fine")
    error, info = stream.lines()
    console = form == "console" or (form is None and terminal)
    assert error.startswith("{") != console
    assert ("\033[31m" in error, error.endswith("\033[0m")) == ((terminal, terminal) if console else (False, False))
    assert "\033" not in info


# ---------------------------------------------------------------- configure
def test_configure_replaces_what_was_there() -> None:
    """A second call leaves one handler, and the first stream alone."""
    first, second = Stream(), Stream()
    logs.configure("info", "json", stream=first)
    logs.configure("info", "json", stream=second)
    log.info("once")
    assert first.lines() == []
    assert len(second.lines()) == 1
    assert len(logging.getLogger().handlers) == 1


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_the_level_is_obeyed(level: str) -> None:
    """From it on, everything; below it, nothing; it may change either way."""
    names = ["debug", "info", "warning", "error", "critical"]
    for before in ("debug", "error"):
        stream = Stream()
        logs.configure(before, "json", stream=Stream())
        logs.configure(level, "json", stream=stream)
        for name in names:
            log.log(getattr(logging, name.upper()), name)
        assert [json.loads(line)["level"] for line in stream.lines()] == names[names.index(level) :]


def test_the_default_is_stderr_and_a_pipe_gets_json() -> None:
    """In a process of its own."""
    code = "from edge_agent.adapters import logs; import logging; logs.configure('info', None); logging.info('hello')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == ""
    assert json.loads(done.stderr)["event"] == "hello"


def test_the_last_lines_are_remembered() -> None:
    """As they were written, so many of them; one that is too long only by its name."""
    stream = Stream()
    logs.configure("info", "json", stream=stream)
    for number in range(250):
        log.info("counted", extra={"number": number})
    log.debug("unsaid")
    assert list(logs.RECENT) == stream.lines()[-200:]
    log.info("long", extra={"text": "x" * 10_000})
    assert logs.RECENT[-1].startswith("(long: 10")


def test_the_level_can_be_set_alone() -> None:
    """From then on."""
    stream = Stream()
    logs.configure("info", "json", stream=stream)
    logs.set_level("error")
    log.info("unsaid")
    log.error("said")
    assert len(stream.lines()) == 1
