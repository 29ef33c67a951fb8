"""Debian's libfaketime: processes whose clocks run too fast or too slow, or whose wall clock somebody sets.

What it gives is for the environment of a child process. The kernel's own stamps and timers are not faked.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tests.support.brokers import require
from tests.support.iotrace import shim


def clocks_at_rate(factor: float) -> dict[str, str]:
    """Return an environment in which all clocks run so many times as fast as they should.

    The wall clock begins an hour ahead: stamps of the kernel, which are not faked, must not seem to be of that clock.
    """
    return _preloaded(FAKETIME=f"+1h x{factor!r}")


def wall_clock_at(moment: str) -> dict[str, str]:
    """Return an environment in which the wall clock starts at ``YYYY-MM-DD hh:mm:ss``; the counters are left alone."""
    return _preloaded(FAKETIME=f"@{moment}", FAKETIME_DONT_FAKE_MONOTONIC="1", TZ="UTC")


def wall_clock_off_by(ahead_s: int) -> dict[str, str]:
    """Return an environment in which the wall clock is so many seconds ahead, at no cost: not by libfaketime.

    Each look at one of its clocks takes a lock, and threads that write to a disk stand in line for that.
    """
    before = os.environ.get("LD_PRELOAD", "")
    return {
        "LD_PRELOAD": f"{shim(Path(__file__).with_name('wrong_wall.c'))} {before}".strip(),
        "WRONG_WALL_S": str(ahead_s),
    }


@dataclass(frozen=True, slots=True)
class WallClock:
    """A wall clock that can be set while processes run; the counters are left alone.

    Attributes:
        file: says by how much it is off.
    """

    file: Path

    def __post_init__(self) -> None:
        self.set(0)

    @property
    def environ(self) -> dict[str, str]:
        """The environment in which it is the wall clock."""
        return _preloaded(
            FAKETIME_TIMESTAMP_FILE=str(self.file), FAKETIME_NO_CACHE="1", FAKETIME_DONT_FAKE_MONOTONIC="1"
        )

    def set(self, off_s: float) -> None:
        """From now on it is off by so many seconds."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(f"{off_s:+.3f}\n")
        fresh.replace(self.file)


def _preloaded(**settings: str) -> dict[str, str]:
    require("faketime", "faketime")
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    before = os.environ.get("LD_PRELOAD", "")
    timers = shim(Path(__file__).with_suffix(".c"))
    return {"LD_PRELOAD": f"{timers} {library} {before}".strip(), "NO_FAKE_STAT": "1", **settings}
