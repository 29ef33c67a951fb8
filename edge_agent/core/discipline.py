"""True time from samples: which sources are believed, and the state and the bound that the world is told.

The counter is never corrected. Samples feed an estimate of it (``estimate``); a clock that is slewed runs after that
estimate (``true_clock``). The bound is honest rather than small: what half a delay may hide, four standard deviations
of the estimate, and what the clock still lags behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from edge_agent.core.estimate import Estimate
from edge_agent.core.events import ClockState
from edge_agent.core.kalman import PPM, UNKNOWN_RATE
from edge_agent.core.peer import Peer, SourceFace
from edge_agent.core.sample import Sample
from edge_agent.core.saved_clock import SavedClock
from edge_agent.core.selection import Interval, intersection, overlap
from edge_agent.core.timebase import BUILD_EPOCH, DurationNs, RawNs, UtcNs, WallNs, milliseconds, seconds
from edge_agent.core.true_clock import TrueClock

HOST: Final = "host"
"""The name of the host's own discipline among the sources."""

USED: Final = ("selected", "gated")
"""The standings of sources that are believed; ``gated``: the last sample took too long to tell anything."""

ENOUGH: Final = 4
"""So many good samples make a first synchronisation, and a step."""

GOOD_NS: Final = seconds(0.25)
PANIC_NS: Final = seconds(1000)
STEP_AFTER: Final = seconds(6)
STEER_EVERY: Final = seconds(64)
HELD_AFTER: Final = seconds(600)
MISSES: Final = 3
"""So many requests to each source that brought nothing, and so long: then time is only held."""

FRESH: Final = seconds(1)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the configuration decides.

    Attributes:
        sources: the names of the servers; empty = the operating system's clock alone.
        host: whether the host's own discipline is one vote (``auto``), the only one (``trust``), or none.
        step_above_ns: larger errors of the agent's time are stepped.
        slew_max_ppm: the fastest slew.
        holdover_after_ns: after so long without a believed sample time is only held, even if nobody was asked.
        degraded_above_ns: a bound above this is called so.
    """

    sources: Sequence[str]
    host: Literal["auto", "trust", "off"] = "auto"
    step_above_ns: int = seconds(60)
    slew_max_ppm: int = 50_000
    holdover_after_ns: int = seconds(3 * 1024)
    degraded_above_ns: int = seconds(1)

    @property
    def is_os_alone(self) -> bool:
        """Whether nobody is asked, and the operating system's clock is all there is."""
        return not self.sources and self.host != "trust"


class Reading(NamedTuple):
    """True time, the bound of its error (``None`` = there is none), and the state of the clock."""

    utc: UtcNs
    error_ns: int | None
    state: ClockState


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that the operator should hear of: one stable word, and what belongs to it."""

    what: str
    data: dict[str, Any] = field(default_factory=dict)


class Discipline:
    """Turns samples into time.

    Attributes:
        policy: what the configuration decides.
        estimate: what is believed of the counter.
        peers: the sources.
        source: the one that speaks for all; ``None`` = none was believed yet.
        happenings: what has happened since somebody took it from here.
        slept: how long the device had slept when what is known of this boot was saved; ``None`` = nothing is.
    """

    def __init__(self, policy: Policy, *, saved: SavedClock | None = None, boot: str = "") -> None:
        """Start, perhaps with what was saved: in the same boot time goes on, in another one only the frequency does."""
        here = saved if saved is not None and saved.boot == boot else None
        self.policy = policy
        self._boot = boot
        self.estimate = Estimate(saved, same_boot=here is not None)
        self._floor = BUILD_EPOCH if saved is None else max(BUILD_EPOCH, saved.utc - (saved.raw if here else 0))
        delays = saved.delays_ns if saved is not None else {}
        self.peers = {name: Peer(name, delay_min_ns=delays.get(name)) for name in _names(policy)}
        self.source: str | None = None
        self.happenings: list[Happening] = []
        self.slept = DurationNs(here.slept_ns) if here else None
        self._host: Sample | None = None
        self._root_ns = 0
        self._good = self._idle = 0
        self._believed = RawNs(0)
        self._clock: TrueClock | None = None
        self._was_synced = self._has_panicked = self._disagree = False
        self._large: tuple[int, RawNs] | None = None
        self._steered = RawNs(0)
        self._face: tuple[int | None, ClockState] = (None, "unsynced")
        self._face_until = RawNs(-1)
        if here:
            self._was_synced = True
            self._clock = TrueClock(here.raw, here.utc, slew_max_ppm=policy.slew_max_ppm)
            self._steer(here.raw)

    def reconfigure(self, policy: Policy) -> None:
        """Go on with other sources and limits, and with all that is known."""
        self.policy = policy
        self.peers = {name: self.peers.get(name) or Peer(name) for name in _names(policy)}
        self.source = self.source if self.source in self.peers else None
        if self._clock is not None:
            self._clock.slew_max_ppm = policy.slew_max_ppm
        self._face_until = RawNs(-1)

    # -- in

    def take(self, sample: Sample) -> str:
        """Learn from a sample; return its source's standing, one stable word."""
        peer = self.peers.get(sample.source)
        if peer is None:
            return "not_configured"
        if not any(one.reach for one in self.peers.values()):
            for one in self.peers.values():
                one.asked = 0  # what kept all of them silent was the network: each may be expected back
        peer.add(sample)
        peer.standing = self._judge(peer, sample)
        if peer.standing in USED:
            self._idle, self._believed = 0, sample.raw
        else:
            self._idle += 1
        return peer.standing

    def missed(self, source: str, why: str = "no_answer") -> None:
        """Take note that a source did not answer, or not so that it could be believed."""
        if (peer := self.peers.get(source)) is not None:
            peer.missed(why)
            self._idle += 1

    def host(self, sample: Sample | None) -> None:
        """Take note of what the host's own discipline says; ``None`` = it is not synchronised, or nobody knows."""
        self._host = sample
        if HOST in self.peers:
            self.missed(HOST, "not_synchronised") if sample is None else self.take(sample)
        elif self.policy.is_os_alone:
            self._face_until = RawNs(-1)

    def suspended(self, duration: DurationNs) -> None:
        """Take note that the device slept."""
        self.estimate.slept(duration)
        self._host = None  # its clock was set from a coarse one
        for peer in self.peers.values():
            peer.recent.clear()
        self._face_until = RawNs(-1)

    def _judge(self, peer: Peer, sample: Sample) -> str:
        voters = [one for one in self.peers.values() if one.is_voting]
        if len(voters) > 1:
            answered = [one for one in voters if one.recent]
            agreed = self._vote(answered, len(voters), sample.raw)
            if agreed is None:
                if 2 * len(answered) <= len(voters):
                    return "waiting"
                self._say_disagree(disagree=True)
                return "no_majority"
            if not overlap(agreed, self.estimate.interval(sample, sample.raw)):
                return "outvoted"
        self._say_disagree(disagree=False)
        return self._feed(peer, sample)

    def _vote(self, answered: Sequence[Peer], voters: int, raw: RawNs) -> Interval | None:
        """Return what a majority agrees on by the best of each one's samples, if by the last ones it still does."""
        best = [self.estimate.interval(one.best(raw), raw) for one in answered]
        last = [self.estimate.interval(one.recent[-1], raw) for one in answered]
        if self.policy.host == "auto" and self._host is not None and len(answered) > 1:
            host = self.estimate.interval(self._host, raw)
            best, last, voters = [*best, host], [*last, host], voters + 1
        agreed = intersection(best, voters=voters)
        if agreed is None or 2 * sum(overlap(agreed, one) for one in last) <= voters:
            return None
        return agreed

    def _feed(self, peer: Peer, sample: Sample) -> str:
        restarts = self.estimate.restarts
        if not self.estimate.learn(peer, sample, leads=peer.name == self.source):
            return "gated"
        if self.estimate.restarts > restarts:
            self.happenings.append(Happening("estimate_restarted"))
        self._good += ENOUGH if peer.name == HOST else 1  # the host has compared often enough
        peer.standing = "selected"
        used = [one for one in self.peers.values() if one.recent and one.reach and one.standing in USED]
        self._root_ns = max(one.bound_ns() for one in used)
        self.source = min(used, key=Peer.bound_ns).name
        self._follow(sample)
        return "selected"

    def _say_disagree(self, *, disagree: bool) -> None:
        if disagree != self._disagree:
            self._disagree = disagree
            self.happenings.append(Happening("sources_disagree" if disagree else "sources_agree"))

    # -- the clock

    def _follow(self, sample: Sample) -> None:
        raw, utc = sample.raw, self.estimate.at(sample.raw)
        self._face_until = RawNs(-1)
        if self._clock is None:
            self._clock = TrueClock(raw, utc, slew_max_ppm=self.policy.slew_max_ppm)
        if not self._was_synced:  # the first synchronisation is a step that costs nobody anything
            self._clock.step(raw, utc)
        lag = utc - self._clock.at(raw)
        if abs(lag) <= self.policy.step_above_ns:
            self._large = None
        elif self._may_step(sample, lag):
            self._clock.step(raw, utc)
            self._large = None
            self.happenings.append(Happening("time_stepped", {"by_ms": milliseconds(lag)}))
        self._steer(raw)

    def _may_step(self, sample: Sample, lag: int) -> bool:
        """Return whether a large error is confirmed: by samples that agree, and where it is absurd by more sources."""
        raw = sample.raw
        count, since = self._large or (0, raw)
        self._large = count + 1, since
        if count + 1 < ENOUGH or raw - since < STEP_AFTER or abs(lag) < self.estimate.bound_ns(raw):
            return False
        agree = sum(one.standing in USED and one.reach > 0 for one in self.peers.values())
        if abs(lag) > PANIC_NS and agree < 3 and not self._host_agrees(sample):
            if not self._has_panicked:
                self._has_panicked = True
                self.happenings.append(Happening("panic", {"error_s": round(lag / 1e9, 3)}))
            return False
        self._has_panicked = False
        return True

    def _host_agrees(self, sample: Sample) -> bool:
        if self._host is None or self.policy.host == "off":
            return False
        return overlap(*(self.estimate.interval(one, sample.raw) for one in (self._host, sample)))

    def _steer(self, raw: RawNs) -> None:
        assert self._clock is not None, "it was made with the first sample"
        lag = self.estimate.at(raw) - self._clock.at(raw)
        if abs(lag) > self.policy.step_above_ns:
            lag = 0  # until the step is confirmed
        self._clock.steer(raw, error_ns=lag, rate=self.estimate.rate_at(raw))
        self._steered = raw

    # -- out

    def at(self, raw: RawNs, wall: WallNs) -> Reading:
        """Return true time; ``wall`` is what the operating system says: it counts until more is known."""
        if raw > self._face_until:
            self._refresh(raw)
        if self._clock is None or self.policy.is_os_alone:
            return Reading(UtcNs(wall if self.policy.is_os_alone else max(wall, self._floor + raw)), *self._face)
        return Reading(self._clock.at(raw), *self._face)

    def _refresh(self, raw: RawNs) -> None:
        self._face_until = RawNs(raw + FRESH)
        if self.policy.is_os_alone:
            self._face = (None if self._host is None else self._host.max_error_ns, "os")
            return
        if self._clock is None:
            self._face = None, "unsynced"
            return
        if raw - self._steered > STEER_EVERY:  # the rate changes as an excursion fades
            self._steer(raw)
        lag = abs(self.estimate.at(raw) - self._clock.at(raw))
        error_ns = self._root_ns + self.estimate.bound_ns(RawNs(raw + FRESH)) + lag
        state = self._state(raw, error_ns)
        self._was_synced = self._was_synced or state == "synced"
        if (state == "synced") != (self._face[1] == "synced"):
            what = "sync_gained" if state == "synced" else "sync_lost"
            self.happenings.append(Happening(what, {"state": state, "error_ms": milliseconds(error_ns)}))
        self._face = error_ns, state

    def _state(self, raw: RawNs, error_ns: int) -> ClockState:
        if not self._was_synced and (self._good < ENOUGH or error_ns > GOOD_NS):
            return "acquiring"
        if error_ns > self.policy.degraded_above_ns:
            return "degraded"
        silent = raw - self._believed
        in_vain = silent > HELD_AFTER and self._idle >= MISSES * len(self.peers)
        return "holdover" if in_vain or not self._good or silent > self.policy.holdover_after_ns else "synced"

    # -- the face

    def true_time(self, raw: RawNs) -> tuple[UtcNs, int] | None:
        """Return the estimate and its bound in nanoseconds at a reading of the counter, also of the past of this boot.

        ``None`` while there is none that deserves the name. Without servers it is the kernel's word.
        """
        if self.policy.is_os_alone and self._host is not None:
            age = raw - self._host.raw
            return UtcNs(self._host.utc + age), self._host.max_error_ns + round(abs(age) * UNKNOWN_RATE)
        if self.policy.is_os_alone or not self._was_synced:
            return None
        return self.estimate.at(raw), self._root_ns + self.estimate.bound_ns(raw)

    @property
    def frequency_ppm(self) -> float | None:
        """How fast the counter runs, positive = fast; ``None`` while that is not known."""
        return -self.estimate.rate / PPM if self.estimate.knows_rate else None

    @property
    def pace(self) -> float:
        """How much faster than the counter the clock runs: 0 while there is none."""
        return 0.0 if self._clock is None else self._clock.pace

    @property
    def rate_error_ppm(self) -> float:
        """Bound of the frequency's error."""
        return min(4 * self.estimate.rate_sigma, UNKNOWN_RATE) / PPM

    @property
    def uncertainty_ns(self) -> int:
        """Standard deviation of the estimate after the last sample."""
        return round(self.estimate.oscillator.sigma_s() * 1e9)

    def sources(self, raw: RawNs) -> list[SourceFace]:
        """Return how each source stands."""
        return [self._face_of(peer, raw) for peer in self.peers.values()]

    def _face_of(self, peer: Peer, raw: RawNs) -> SourceFace:
        last = peer.recent[-1] if peer.recent else None
        return {
            "name": peer.name,
            "standing": peer.standing,
            "used": peer.standing in USED and peer.reach > 0,
            "reach": peer.reach,
            "offset_ms": milliseconds(self._clock.at(last.raw) - last.utc) if last and self._clock else None,
            "delay_ms": milliseconds(last.delay_ns) if last else None,
            "root_ms": milliseconds(last.root_ns) if last else None,
            "age_s": round((raw - last.raw) / 1e9, 1) if last else None,
        }

    def snapshot(self, raw: RawNs, slept: int = 0) -> SavedClock | None:
        """Return what is worth saving, with how long the device has slept; ``None`` while nothing is."""
        known = self.true_time(raw)
        if known is None or self.policy.is_os_alone:
            return None
        delays = {name: peer.delay_min_ns for name, peer in self.peers.items() if peer.delay_min_ns is not None}
        oscillator = self.estimate.oscillator
        return SavedClock(self._boot, raw, *known, oscillator.rate, self.estimate.rate_sigma, delays, slept)


def _names(policy: Policy) -> Sequence[str]:
    return (HOST,) if policy.host == "trust" else tuple(policy.sources)
