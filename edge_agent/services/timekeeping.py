"""Keeps true time: asks the servers, notices what happens to the clocks, tells what matters, saves what was learned."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import orjson

from edge_agent.clock_ports import Clocks, HostClock, TimeServers
from edge_agent.core.config_models import Time as TimeConfig
from edge_agent.core.discipline import HOST, Discipline, Policy
from edge_agent.core.events import ClockData
from edge_agent.core.ntp import Rejection
from edge_agent.core.placing import Boot
from edge_agent.core.polling import Poll, is_near
from edge_agent.core.records import Priority
from edge_agent.core.sample import Sample
from edge_agent.core.submission import Submission
from edge_agent.core.timebase import DurationNs, MonotonicNs, RawNs, later, milliseconds, rfc3339, seconds, to_seconds
from edge_agent.errors import OutboxError
from edge_agent.services.control import After, Method, method
from edge_agent.services.outbox import Outbox

log = logging.getLogger(__name__)

WITHIN: Final = seconds(3)
LOOK_EVERY: Final = seconds(64)
SAVE_EVERY: Final = seconds(900)
SLEPT_AT_LEAST: Final = seconds(0.1)
STEPPED_AT_LEAST: Final = seconds(0.1)
SETTLED_NS: Final = seconds(0.0025)
"""An estimate with a smaller standard deviation needs no more than the longest interval between samples."""

NOTICEABLE: Final = 100e-6
"""What is due is looked at again when true time runs faster or slower by so much than it did."""

TRACE: Final = 512
"""So many exchanges are kept for those who record them."""


def policy(config: TimeConfig, servers: tuple[str, ...]) -> Policy:
    """Return what the configuration decides, with the servers that it leaves to the host."""
    return Policy(
        servers,
        host=config.host,
        step_above_ns=config.step_above,
        slew_max_ppm=config.slew_max_ppm,
        holdover_after_ns=max(3 * config.poll_max, seconds(600)),
    )


@dataclass(eq=False)
class Timekeeping:
    """Feeds the discipline.

    Attributes:
        discipline: what learns.
        servers: the way to the servers.
        host: what happens to the host's clock.
        clocks: of the device.
        outbox: takes events, and wants to know when it was.
        uniform: draws from 0 to 1.
        steps: how often the operating system's clock was set since the start.
        changed: called whenever true time may be another than one would have expected, with whether it was stepped.
    """

    discipline: Discipline
    servers: TimeServers
    host: HostClock
    clocks: Clocks
    outbox: Outbox
    uniform: Callable[[], float]
    steps: int = 0
    changed: Callable[[bool], None] = lambda _stepped: None

    def __post_init__(self) -> None:
        self._polls: dict[str, tuple[Poll, asyncio.Event]] = {}
        known = self.discipline.slept  # perhaps it has slept while nobody looked
        self._slept = self.clocks.slept() if known is None else known
        self._wall_ahead = self._measure_wall()
        self._looked = self.clocks.raw()
        self._saved_at: MonotonicNs | None = None
        self._is_alarmed = False
        self._trace: deque[dict[str, object]] = deque(maxlen=TRACE)
        self._traced = 0
        self._alarm_ns = 0
        self._found: Callable[[], tuple[str, ...]] = tuple
        self._current: tuple[str, ...] = ()
        self._servers_changed = asyncio.Event()
        self._pace = 0.0

    async def run(self, config: TimeConfig, servers: Callable[[], tuple[str, ...]]) -> None:
        """Keep time until cancelled.

        Args:
            config: the ``[time]`` section.
            servers: returns those to ask; looked at again when the network has changed.
        """
        self._alarm_ns, self._found = config.alarm_offset, servers
        while True:
            self._current = servers()
            await self._keep(config, self._current)

    async def _keep(self, config: TimeConfig, servers: tuple[str, ...]) -> None:
        """Keep time with these servers until they are others."""
        self.discipline.reconfigure(policy(config, servers))
        self._plan(config, servers if config.host != "trust" else ())
        self._servers_changed.clear()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._ask(server), name=f"ntp-{server}") for server in self._polls]
                set_again = partial(self._clock_was_set, STEPPED_AT_LEAST)
                stepped = self._heed(self.host.stepped, self._clock_was_set, set_again)
                changed = self._heed(self.host.network_changed, self._network_changed, self._look_for_servers)
                tasks += [
                    group.create_task(stepped, name="clock-steps"),
                    group.create_task(changed, name="clock-net"),
                    group.create_task(self._look(), name="clock-look"),
                ]
                await self._servers_changed.wait()
                for task in tasks:
                    task.cancel()
        finally:
            await self._save()

    # -- servers

    def _plan(self, config: TimeConfig, servers: tuple[str, ...]) -> None:
        """Plan whom to ask; what a server has asked for, and what it may yet be burdened with, is not forgotten."""
        now, known = self.clocks.monotonic(), self._polls
        limits = {"poll_min": config.poll_min, "poll_max": config.poll_max}
        self._polls = {
            server: known.get(server)
            or (Poll(now, **limits, uniform=self.uniform, place=(number, len(servers))), asyncio.Event())
            for number, server in enumerate(servers)
        }
        for poll, _ in self._polls.values():
            poll.poll_min, poll.poll_max = config.poll_min, config.poll_max

    async def _ask(self, server: str) -> None:
        poll, sooner = self._polls[server]
        while True:
            sooner.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(to_seconds(DurationNs(poll.due - self.clocks.monotonic())), 0)):
                    await sooner.wait()
            if poll.due > self.clocks.monotonic():
                continue
            self._look_for_sleep()
            answer = await self.servers.ask(server, within=WITHIN)
            self._heard(server, answer)
            poll.heard(
                answer,
                self.clocks.monotonic(),
                near=is_near(self.servers.address(server)),
                settled=self.discipline.uncertainty_ns < SETTLED_NS,
            )

    def _heard(self, server: str, answer: Sample | Rejection) -> None:
        if isinstance(answer, Sample):
            standing = self.discipline.take(answer)
            self._record({"kind": "sample", **asdict(answer), "standing": standing})
            log.debug("ntp_sample", extra={"source": server, "standing": standing})
        else:
            self.discipline.missed(server, answer.value)
            self._record({"kind": "missed", "source": server, "raw": self.clocks.raw(), "standing": answer.value})
            log.debug("ntp_no_sample", extra={"source": server, "reason": answer.value})
            if answer.value.startswith("kiss_"):
                self._say("kiss_o_death", {"source": server, "code": answer.value.removeprefix("kiss_").upper()})
        self._review()
        if self.discipline.estimate.wants_samples:
            self.hurry()

    def _network_changed(self) -> None:
        self._look_for_servers()
        self.hurry()

    def _look_for_servers(self) -> None:
        if self._found() != self._current:
            self._servers_changed.set()

    def hurry(self) -> None:
        """Ask all servers soon, several times: after a resume, a step, a change of the network, or for somebody."""
        for poll, sooner in self._polls.values():
            poll.burst(self.clocks.monotonic())
            sooner.set()

    # -- the host

    async def _heed(
        self, happens: Callable[[], Awaitable[None]], then: Callable[[], None], afterwards: Callable[[], None]
    ) -> None:
        """Do something about what happens, but once a second at most, and look afterwards at what was missed."""
        while True:
            await happens()
            then()
            await self.clocks.sleep_until(later(self.clocks.monotonic(), seconds(1)))
            afterwards()

    def _measure_wall(self) -> int:
        raw, wall = self.clocks.pair()
        return wall - raw

    def _look_for_sleep(self) -> bool:
        slept = self.clocks.slept()
        duration = DurationNs(slept - self._slept)
        if duration < SLEPT_AT_LEAST:
            return False
        self._slept = slept
        self._wall_ahead = self._measure_wall()
        self.discipline.suspended(duration)
        self._record({"kind": "suspended", "raw": self.clocks.raw(), "duration_ns": duration})
        self._say("resumed", {"slept_s": round(to_seconds(duration), 1)})
        self.changed(False)  # noqa: FBT003
        self.hurry()
        return True

    def _clock_was_set(self, at_least: int = 0) -> None:
        """Tell a resume, which counts as a setting too, from a step."""
        if self._look_for_sleep():
            return
        ahead, raw = self._measure_wall(), self.clocks.raw()
        by = ahead - self._wall_ahead
        slewed = (raw - self._looked) // 10  # a daemon that slews takes a tenth at most
        self._wall_ahead, self._looked = ahead, raw
        if abs(by) > at_least + (slewed if at_least else 0):
            self.steps += 1
            self._say("wall_stepped", {"by_ms": milliseconds(by)})
            self.discipline.host(self.host.vote())
            self._review()
            self.changed(self.discipline.policy.is_os_alone)

    async def _look(self) -> None:
        while True:
            self._clock_was_set(STEPPED_AT_LEAST)
            self._look_for_servers()  # what came by DHCP is written down some time after the network has changed
            vote = self.host.vote()
            self.discipline.host(vote)
            if vote is not None:
                self._record({"kind": "sample", **asdict(vote), "standing": HOST})
            self._review()
            now = self.clocks.monotonic()
            if self._saved_at is None or now >= later(self._saved_at, SAVE_EVERY):
                await self._save()
            await self.clocks.sleep_until(later(now, LOOK_EVERY))

    # -- what follows from it

    def _review(self) -> None:
        """Tell what has happened, whether the operating system's clock is off, and the outbox when it is."""
        raw = self.clocks.raw()
        self.discipline.at(raw, self.clocks.wall())
        pace, happened = self.discipline.pace, [one.what for one in self.discipline.happenings]
        for happening in self.discipline.happenings:
            self._say(happening.what, happening.data)
        self.discipline.happenings.clear()
        if happened or abs(pace - self._pace) > NOTICEABLE:
            self._pace = pace
            self.changed("time_stepped" in happened)
        known = self.discipline.true_time(raw)
        if known is None:
            return
        utc, error_ns = known
        rate = -(self.discipline.frequency_ppm or 0.0)
        base = self.outbox.age_base
        is_first = self.outbox.past.boots[-1].age is None
        self.outbox.past.anchor(Boot(base, base + raw, utc, error_ns, rate, self.discipline.rate_error_ppm))
        if is_first:
            self.outbox.pending.meta["boots"] = self.outbox.past.dump()
        self._judge_offset(raw, error_ns)

    def _judge_offset(self, raw: RawNs, error_ns: int) -> None:
        offset = self._wall_offset_ns(raw)
        if offset is None:
            return
        if not self._is_alarmed and abs(offset) > self._alarm_ns + error_ns:
            self._is_alarmed = True
            self._say("offset_alarm", {"offset_ms": milliseconds(offset), "error_ms": milliseconds(error_ns)})
        elif self._is_alarmed and abs(offset) < self._alarm_ns * 3 // 4:
            self._is_alarmed = False
            self._say("offset_cleared", {"offset_ms": milliseconds(offset)})

    def _wall_offset_ns(self, raw: RawNs) -> int | None:
        """Return the operating system's clock minus true time, if there is another one than its own."""
        known, state = self.discipline.true_time(raw), self.discipline.at(raw, self.clocks.wall()).state
        return None if known is None or state == "os" else raw + self._measure_wall() - known[0]

    def _say(self, what: str, data: Mapping[str, object]) -> None:
        log.info("clock_event", extra={"what": what, **data})
        with contextlib.suppress(OutboxError):
            self.outbox.put(Submission("event/clock", orjson.dumps({"what": what, **data}), Priority.CRITICAL))

    async def _save(self) -> None:
        saved = self.discipline.snapshot(self.clocks.raw(), self._slept)
        if saved is None:
            return
        self._saved_at = self.clocks.monotonic()
        try:
            await self.host.save(saved)
        except OSError as error:
            log.warning("clock_not_saved", extra={"error": str(error)})

    # -- the face

    def measure(self) -> ClockData:
        """Return the clock's part of the heartbeat."""
        raw = self.clocks.raw()
        reading = self.discipline.at(raw, self.clocks.wall())
        offset, frequency = self._wall_offset_ns(raw), self.discipline.frequency_ppm
        return ClockData(
            state=reading.state,
            offset_ms=milliseconds(offset),
            error_ms=milliseconds(reading.error_ns),
            frequency_ppm=None if frequency is None else round(frequency, 3),
            source=self.discipline.source,
            steps=self.steps,
        )

    def report(self) -> dict[str, Any]:
        """Return all that ``edge-agent clock`` shows."""
        raw, now = self.clocks.raw(), self.clocks.monotonic()
        reading = self.discipline.at(raw, self.clocks.wall())
        sources = self.discipline.sources(raw)
        for face in sources:
            face["address"] = self.servers.address(face["name"])
            if (known := self._polls.get(face["name"])) is not None:
                face["next_s"] = round(max(to_seconds(DurationNs(known[0].due - now)), 0.0), 1)
                face["poll_s"] = round(to_seconds(known[0].interval), 1)
        return {
            "time": rfc3339(reading.utc),
            **asdict(self.measure()),
            "alarm": self._is_alarmed,
            "restarts": self.discipline.estimate.restarts,
            "uncertainty_ms": milliseconds(self.discipline.uncertainty_ns),
            "sources": sources,
        }

    def methods(self) -> dict[str, Method]:
        """Return what the control socket offers beside the commands."""
        return {"clock-trace": method(After, self.trace)}

    def _record(self, entry: dict[str, object]) -> None:
        self._traced += 1
        self._trace.append({"n": self._traced, **entry})

    async def trace(self, args: After) -> object:
        """Return what was recorded after a number."""
        return {"entries": [entry for entry in self._trace if int(str(entry["n"])) > args.after]}
