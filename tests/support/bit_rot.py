"""Damages files the way worn flash does: one bit that is wrong, one page that has been lost."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

PAGE: Final = 4096


def flip(path: Path, rng: random.Random) -> int:
    """Flip one bit of a file that is not empty, and return the offset of its byte."""
    offset = rng.randrange(path.stat().st_size)
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1 << rng.randrange(8)]))
    return offset


def zero_page(path: Path, rng: random.Random) -> int:
    """Fill one page of a file with zeros, where it keeps its size, and return the page's offset."""
    size = path.stat().st_size
    offset = rng.randrange(0, size, PAGE)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(min(PAGE, size - offset)))
    return offset
