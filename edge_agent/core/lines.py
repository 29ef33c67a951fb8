"""Lines of a file as records: as many in each as fit, and a longer one in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import orjson

MAX_NAME: Final = 100  # characters of the file's name: they leave room for lines in the smallest record allowed
WIDEST: Final = 6  # bytes that a character may take in JSON: \\u001f


def line_records(content: bytes, *, file: str, parsed: bool, max_record: int) -> Iterator[bytes]:
    """Yield the data of records, ``{"file": …, "lines": […]}``, that hold all lines in order.

    ``"partial": true`` says that a line goes on in the next record: it is longer than one, or has no end yet.

    Args:
        content: the lines, each ended by a newline, perhaps but for the last.
        file: what the file is called.
        parsed: whether a line that is JSON is that value, not its text.
        max_record: bytes of the largest record.
    """
    head = b'{"file":' + orjson.dumps(file[:MAX_NAME]) + b',"lines":['
    room = max_record - len(head) - len(b'],"partial":true}')
    held: list[bytes] = []
    size = 0
    *lines, rest = content.split(b"\n")
    for line in lines:
        value = _value(line.removesuffix(b"\r"), parsed=parsed)
        if held and size + len(value) > room:
            yield head + b",".join(held) + b"]}"
            held, size = [], 0
        if len(value) > room:
            yield from _pieces(line, head, room, ended=True)
        else:
            held.append(value)
            size += len(value) + 1
    if held:
        yield head + b",".join(held) + b"]}"
    if rest:
        yield from _pieces(rest, head, room, ended=False)


def _value(line: bytes, *, parsed: bool) -> bytes:
    if parsed:
        try:
            return orjson.dumps(orjson.loads(line))
        except orjson.JSONDecodeError:
            pass  # its text, then
    return orjson.dumps(line.decode(errors="backslashreplace"))


def _pieces(line: bytes, head: bytes, room: int, *, ended: bool) -> Iterator[bytes]:
    text, step = line.decode(errors="backslashreplace"), room // WIDEST
    for at in range(0, len(text), step):
        end = b"]}" if ended and at + step >= len(text) else b'],"partial":true}'
        yield head + orjson.dumps(text[at : at + step]) + end
