"""Makes what is too large to be sent small enough: lists lose their oldest entries, and it says how many."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Any, Final

import orjson

NOTICE: Final = 80
"""Bytes that it takes to say that something was cut."""


def fitted(bundle: dict[str, Any], limit: int) -> dict[str, Any]:
    """Return sections that take at most ``limit`` bytes of JSON, if any do; ``cut`` says what is missing of which.

    What is largest is cut first: a list, in a section or as one, from its beginning; another section as a whole.
    """
    cut: dict[str, str] = {}
    bundle = {name: dict(part) if isinstance(part, dict) else part for name, part in bundle.items()} | {"cut": cut}
    while (over := _size(bundle) - limit) > 0:
        parts = list(_parts(bundle))
        if not parts:
            break
        _, name, within, key = max(parts, key=lambda part: part[0])
        entries = within[key]
        if isinstance(entries, list):
            sizes = accumulate(_size(entry) + 1 for entry in entries)
            gone = next((n for n, size in enumerate(sizes, 1) if size >= over + NOTICE), len(entries))
            within[key] = entries[gone:]
            cut[name] = f"the first {gone} of {len(entries)} {'entries' if within is bundle else key}"
        else:
            del bundle[key]
            cut[name] = "all of it"
    return bundle


def _parts(bundle: dict[str, Any]) -> Iterator[tuple[int, str, dict[str, Any], str]]:
    """Yield what may be cut: its size, its section, and where it is."""
    for name, section in bundle.items():
        if name == "cut":
            continue
        lists = {key: value for key, value in section.items() if isinstance(value, list)} if _is_dict(section) else {}
        yield from ((_size(value), name, section, key) for key, value in lists.items() if value)
        if section or not isinstance(section, list):
            yield _size(section) - sum(map(_size, lists.values())), name, bundle, name


def _is_dict(value: object) -> bool:
    return isinstance(value, dict)


def _size(value: object) -> int:
    return len(orjson.dumps(value, default=str))
