"""What a device recorded of its sources, fed to a fresh estimator: a report from the field can thus be looked into."""

from __future__ import annotations

from typing import Any, Final

import orjson

from edge_agent.core.discipline import HOST, Discipline, Policy
from edge_agent.core.sample import Sample
from edge_agent.core.timebase import DurationNs, RawNs, UtcNs, WallNs, milliseconds

MAX_LINE: Final = 4096
_MAX_NS: Final = 1 << 62


class Replay:
    """Feeds a trace, line by line."""

    def __init__(self) -> None:
        self._discipline = Discipline(Policy(()))

    def take(self, line: bytes) -> dict[str, Any] | None:
        """Return what became of an entry, and what was known after it; ``None`` if it is none."""
        try:
            entry = orjson.loads(line)
        except orjson.JSONDecodeError:
            return None
        match entry:
            case {
                "kind": "sample",
                "source": str(source),
                "raw": int(raw),
                "utc": int(utc),
                "delay_ns": int(delay),
                "root_ns": int(root),
            } if max(abs(raw), abs(utc), delay, root) < _MAX_NS and min(raw, delay, root) >= 0:
                return self._sample(Sample(source, RawNs(raw), UtcNs(utc), delay, root))
            case {"kind": "missed", "source": str(source), "raw": int(raw), "standing": str(why)} if 0 <= raw < _MAX_NS:
                self._know(source)
                self._discipline.missed(source, why)
                return self._verdict(RawNs(raw), source, why)
            case {"kind": "suspended", "raw": int(raw), "duration_ns": int(slept)} if 0 <= raw < _MAX_NS > slept >= 0:
                self._discipline.suspended(DurationNs(slept))
                return self._verdict(RawNs(raw), "", "suspended")
        return None

    def _sample(self, sample: Sample) -> dict[str, Any]:
        if sample.source == HOST:
            self._discipline.host(sample)
            return self._verdict(sample.raw, HOST, "vote")
        self._know(sample.source)
        return self._verdict(sample.raw, sample.source, self._discipline.take(sample))

    def _know(self, source: str) -> None:
        if source not in self._discipline.peers:
            self._discipline.reconfigure(Policy((*self._discipline.policy.sources, source)))

    def _verdict(self, raw: RawNs, source: str, standing: str) -> dict[str, Any]:
        reading, faces = self._discipline.at(raw, WallNs(0)), self._discipline.sources(raw)
        offsets = {face["name"]: face["offset_ms"] for face in faces}
        return {
            "raw_s": round(raw / 1e9, 3),
            "source": source,
            "standing": standing,
            "state": reading.state,
            "offset_ms": offsets.get(source),
            "error_ms": milliseconds(reading.error_ns),
            "frequency_ppm": None if (ppm := self._discipline.frequency_ppm) is None else round(ppm, 3),
        }
