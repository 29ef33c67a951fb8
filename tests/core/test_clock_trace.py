"""Tests of ``core/clock_trace.py``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.clock_trace import Replay
from edge_agent.core.timebase import seconds
from tests.support.clock_simulation import Counter, Device, servers


def recorded(minutes: int) -> tuple[list[bytes], Device]:
    """Return the trace of a device that lived for so long with two servers, and the device."""
    counter = Counter(3, "indoor", hours=2)
    device = Device(counter, servers("wan", 3, 2), poll_s=64)
    lines: list[bytes] = []
    take = device.discipline.take

    def recording(sample: Any) -> str:  # noqa: ANN401  # a sample
        lines.append(json.dumps({"n": len(lines), "kind": "sample", **asdict(sample)}).encode())
        return take(sample)

    device.discipline.take = recording  # type: ignore[method-assign]
    device.live(0, minutes * 60)
    return lines, device


def test_a_replay_comes_to_the_verdict_of_the_device() -> None:
    """The same frequency, the same bound and the same state."""
    lines, device = recorded(60)
    replay = Replay()
    verdicts = [replay.take(line) for line in lines]
    last = verdicts[-1]
    assert last is not None
    assert (last["state"], last["standing"]) == ("synced", "selected")
    known = device.discipline.frequency_ppm
    assert known is not None
    assert last["frequency_ppm"] == pytest.approx(known, abs=0.01)


def test_what_is_no_sample_is_replayed_too() -> None:
    """A loss, a sleep, the host's own word."""
    lines, _ = recorded(10)
    replay = Replay()
    for line in lines:
        replay.take(line)
    raw = json.loads(lines[-1])["raw"] + seconds(1)
    missed = replay.take(json.dumps({"kind": "missed", "source": "s1", "raw": raw, "standing": "refused"}).encode())
    assert missed is not None
    assert (missed["source"], missed["standing"]) == ("s1", "refused")
    before = missed["error_ms"]
    slept = replay.take(json.dumps({"kind": "suspended", "raw": raw, "duration_ns": seconds(60)}).encode())
    assert slept is not None
    assert slept["error_ms"] > before + 3000
    host = {"kind": "sample", "source": "host", "raw": raw, "utc": 10**18, "delay_ns": 0, "root_ns": 5}
    assert (replay.take(json.dumps(host).encode()) or {})["standing"] == "vote"


@given(
    st.binary(max_size=100)
    | st.fixed_dictionaries(
        {"kind": st.sampled_from(["sample", "missed", "suspended", "x"])},
        optional={
            key: st.integers(-10, 1 << 64) | st.text(max_size=3) | st.none()
            for key in ("source", "raw", "utc", "delay_ns", "root_ns", "standing", "duration_ns")
        },
    ).map(lambda entry: json.dumps(entry).encode())
)
def test_no_line_breaks_it(line: bytes) -> None:
    """It is an entry or it is none."""
    verdict = Replay().take(line)
    assert verdict is None or verdict["state"] in ("unsynced", "acquiring", "os")
