"""What came from outside as JSON, on its way into a record."""

from __future__ import annotations

from typing import Final

import orjson

from edge_agent.errors import JobError

MAX_SHOWN: Final = 300  # characters of what is no JSON


def json_value(raw: bytes, *, of: str) -> bytes:
    """Return a JSON value in its shortest form.

    Args:
        raw: the value, from outside.
        of: what it is the value of, for the message.

    Raises:
        JobError: it is none; the message has the beginning of it.
    """
    try:
        return orjson.dumps(orjson.loads(raw))
    except orjson.JSONDecodeError as error:
        shown = raw[: MAX_SHOWN * 4].decode(errors="backslashreplace")[:MAX_SHOWN]
        raise JobError(f"{of} is no JSON ({error}): {shown!r}") from None
