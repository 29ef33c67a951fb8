"""Log lines on stderr: one JSON object a line for machines, a readable line on a terminal.

A log call is an event name and fields: ``log.info("connected", extra={"broker": …})``.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import deque
from itertools import islice
from typing import Any, Final, Literal, TextIO

import orjson
from typing_extensions import override

from edge_agent.core.timebase import NANOSECONDS_PER_SECOND, UtcNs, rfc3339

_OWN: Final = len(logging.makeLogRecord({}).__dict__)
_PLAIN: Final = (str, int, float, bool, type(None))
_COLOURS: Final = {"WARNING": "\033[33m", "ERROR": "\033[31m", "CRITICAL": "\033[1;31m", "DEBUG": "\033[2m"}

MAX_LINE: Final = 8192
"""Characters of the longest line that is remembered."""

RECENT: Final[deque[str]] = deque(maxlen=200)
"""The last lines that were written, the oldest first."""


class _Handler(logging.StreamHandler[TextIO]):
    """Writes lines, and remembers them for a while."""

    @override
    def handle(self, record: logging.LogRecord) -> bool:
        """Do in one step what the library does in ten, for handlers with filters and streams that cannot be flushed."""
        assert self.lock is not None, "every handler has one"
        with self.lock:
            try:
                line = self.format(record)
                RECENT.append(line if len(line) <= MAX_LINE else f"({record.getMessage()}: {len(line)} characters)")
                self.stream.write(f"{line}\n")
                self.stream.flush()
            except Exception:  # noqa: BLE001  # the library says what, or nothing, as it is told
                self.handleError(record)
        return True


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    added = dict(islice(record.__dict__.items(), _OWN, None))  # what a record has of itself comes first
    for key in ("message", "asctime"):  # of other formatters
        added.pop(key, None)
    return added


def _time(record: logging.LogRecord) -> str:
    return rfc3339(UtcNs(int(record.created * NANOSECONDS_PER_SECOND)))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time``, ``level``, ``event``, then the event's fields."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str).decode()
        except TypeError:
            return _odd(line)


def _odd(line: dict[str, object]) -> str:
    """Return a line with keys that are no strings, at twice the cost of others, or with what no JSON can hold."""
    try:
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # huge integers, lone surrogates, odd keys, cycles: a line in plain words beats none
        return json.dumps(
            {str(key): value if isinstance(value, _PLAIN) else repr(value) for key, value in line.items()}
        )


class ConsoleFormatter(logging.Formatter):
    """``time LEVEL event key=value …`` for a person."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    @override
    def format(self, record: logging.LogRecord) -> str:
        pairs = " ".join(f"{key}={value}" for key, value in _fields(record).items())
        said = "".join(filter(str.isprintable, pairs))  # what a program said may control a terminal
        text = f"{_time(record)[11:23]} {record.levelname:<7} {record.getMessage()} {said}".rstrip()
        if self._colour and (colour := _COLOURS.get(record.levelname)):
            text = f"{colour}{text}\033[0m"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def set_level(level: str) -> None:
    """Write everything from ``level`` on."""
    logging.getLogger().setLevel(level.upper())


def configure(level: str, form: Literal["json", "console"] | None, *, stream: TextIO = sys.stderr) -> None:
    """Send everything from ``level`` on to ``stream``, in place of what was configured before.

    Args:
        level: debug, info, warning or error.
        form: ``None`` chooses console on a terminal, else json.
        stream: where to.
    """
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # no line says these, nor whence it
    logging._srcfile = None  # noqa: SLF001  # comes; both ways to spare them are the library's documented ones
    terminal = stream.isatty()
    handler = _Handler(stream)
    console = terminal if form is None else form == "console"
    handler.setFormatter(ConsoleFormatter(colour=terminal) if console else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
