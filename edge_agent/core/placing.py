"""When something happened that happened before the clock was known.

What was made carries an *age*: the outbox's own count of nanoseconds, which goes on while the device runs or sleeps and
stands still while it is off. Each boot thus has a range of ages, and at most one *anchor*: an age at which true time
was known. Within a boot true time is its anchor plus what has elapsed. What was made in a boot without an anchor
happened after the anchors before it and before those after it, by at least what has elapsed between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from edge_agent.core.events import Stamp
from edge_agent.core.records import TIME_STATES, Record
from edge_agent.core.timebase import BUILD_EPOCH, NANOSECONDS_PER_MILLISECOND, UtcNs

MAX_BOOTS: Final = 16
RATE_ERROR_PPM: Final = 500
"""How wrong a counter may run that was never compared with true time."""

_NEVER: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Boot:
    """One boot of the device.

    Attributes:
        since: the age at which it began.
        age: of its anchor; ``None`` = true time was never known in it.
        time: true time at that age, in nanoseconds of UTC.
        error_ns: bound of its error.
        ppm: how fast the counter ran, positive = slower than true time; with ``rate_error_ppm`` as bound of its error.
    """

    since: int
    age: int | None = None
    time: int = 0
    error_ns: int = 0
    ppm: float = 0.0
    rate_error_ppm: float = RATE_ERROR_PPM

    def bounds(self, age: int) -> tuple[int, int]:
        """Return the earliest and the latest true time of an age of this boot."""
        assert self.age is not None, "only a boot with an anchor bounds anything"
        elapsed = age - self.age
        time = self.time + elapsed + round(elapsed * self.ppm / 1e6)
        error = self.error_ns + round(abs(elapsed) * self.rate_error_ppm / 1e6)
        return time - error, time + error


def place(boots: Sequence[Boot], age: int, hint: UtcNs) -> Stamp | None:
    """Return when something of that age happened; ``None`` = nothing is known of the time since.

    Args:
        boots: from the oldest to the present one.
        age: when it was made.
        hint: what the clock of the operating system said then; believed if it is possible.
    """
    at = next((n for n in reversed(range(len(boots))) if boots[n].since <= age), -1)
    if at >= 0 and boots[at].age is not None:
        low, high = boots[at].bounds(age)
        return _stamp(low, high, (low + high) // 2)
    low, high = int(BUILD_EPOCH), _NEVER
    for number, boot in enumerate(boots):
        if boot.age is not None:
            # between two boots at least that has elapsed, with the device off for who knows how long
            earliest, latest = boot.bounds(boot.age)
            drift = abs(age - boot.age) * RATE_ERROR_PPM // 1_000_000
            if number < at:
                low = max(low, earliest + age - boot.age - drift)
            else:
                high = min(high, latest + age - boot.age + drift)
    if high == _NEVER:
        return None
    # else the latest possible: a device is mostly off for seconds
    return _stamp(low, high, hint if low <= hint <= high else high)


def _stamp(low: int, high: int, time: int) -> Stamp:
    error = max(abs(high - time), abs(time - low))
    return Stamp(UtcNs(time), "estimated", -(-error // NANOSECONDS_PER_MILLISECOND))


class Past:
    """The boots of which there may still be records.

    Attributes:
        boots: from the oldest to the present one.
    """

    def __init__(self, boots: Sequence[Boot], *, since: int) -> None:
        """Start with what is known of earlier boots, and the age at which the present one began."""
        earlier = [boot for boot in boots if boot.since < since]
        present = next((boot for boot in boots if boot.since == since), Boot(since))
        self.boots = [*earlier, present][-MAX_BOOTS:]
        self._is_anchored = any(boot.age is not None for boot in self.boots)

    def anchor(self, boot: Boot) -> None:
        """Take note of true time in the present boot."""
        assert boot.since == self.boots[-1].since, "only the present boot can be anchored"
        self.boots[-1] = boot
        self._is_anchored = True

    def correct(self, record: Record) -> None:
        """Correct the time of a record that was made before the clock was known, as well as that is possible by now."""
        if record.time_state or not self._is_anchored:
            return
        if (stamp := place(self.boots, record.made, record.time)) is not None:
            record.time, record.error_ms = stamp.time, stamp.error_ms
            record.time_state = TIME_STATES.index(stamp.state)

    def dump(self) -> bytes:
        """Return it as JSON."""
        return orjson.dumps([[b.since, b.age, b.time, b.error_ns, b.ppm, b.rate_error_ppm] for b in self.boots])


def load(text: object) -> list[Boot]:
    """Return the boots of what ``dump`` returned; none if it is damaged."""
    boots: list[Boot] = []
    try:
        rows = orjson.loads(text if isinstance(text, str | bytes) else b"")
    except orjson.JSONDecodeError:
        return boots
    for row in rows if isinstance(rows, list) else ():
        match row:
            case [
                int(since),
                int() | None as age,
                int(time),
                int(error),
                int() | float() as ppm,
                int() | float() as rate,
            ]:
                boots.append(Boot(since, age, time, error, float(ppm), float(rate)))
            case _:
                return []
    return boots
