"""Makes what is too large to be sent small enough: lists lose their oldest entries, and it says how many."""

from __future__ import annotations

from typing import Any

import orjson


def fitted(bundle: dict[str, Any], limit: int) -> dict[str, Any]:
    """Return sections that take at most ``limit`` bytes of JSON, if any do; ``cut`` says what is missing of which.

    What is largest is cut first: of a list the first half, again and again; another section as a whole.
    """
    cut: dict[str, str] = {}
    fits = bundle | {"cut": cut}
    while _size(fits) > limit and len(fits) > 1:
        name = max(fits.keys() - {"cut"}, key=lambda name: (_size(fits[name]), name))
        if isinstance(fits[name], list) and len(fits[name]) > 1:
            fits[name] = fits[name][len(fits[name]) // 2 :]
            cut[name] = f"the first {len(bundle[name]) - len(fits[name])} of {len(bundle[name])} entries"
        else:
            del fits[name]
            cut[name] = "all of it"
    return fits


def _size(value: object) -> int:
    return len(orjson.dumps(value, default=str))
