"""Damaged files."""

from __future__ import annotations

import random
from pathlib import Path

from tests.support.bit_rot import PAGE, flip, zero_page


def test_one_bit_is_flipped(tmp_path: Path) -> None:
    """One byte differs, at the offset that is returned, by one bit; the seed decides which."""
    path = tmp_path / "file"
    before = bytes(range(256)) * 40
    seen: set[int] = set()
    for seed in range(50):
        path.write_bytes(before)
        offset = flip(path, random.Random(seed))  # noqa: S311  # reproducible
        seen.add(offset)
        after = path.read_bytes()
        assert [at for at in range(len(before)) if before[at] != after[at]] == [offset]
        assert (before[offset] ^ after[offset]).bit_count() == 1
    assert len(seen) > 40


def test_one_page_is_zeroed(tmp_path: Path) -> None:
    """One page of zeros, the rest and the size as before; the last page may be a short one."""
    path = tmp_path / "file"
    before = b"x" * (2 * PAGE + 100)
    seen: set[int] = set()
    for seed in range(50):
        path.write_bytes(before)
        offset = zero_page(path, random.Random(seed))  # noqa: S311  # reproducible
        seen.add(offset)
        length = min(PAGE, len(before) - offset)
        assert path.read_bytes() == before[:offset] + bytes(length) + before[offset + length :]
    assert seen == {0, PAGE, 2 * PAGE}
