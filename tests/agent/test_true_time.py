"""What the agent knows of time, on clocks that are really wrong (libfaketime), from servers that are real (chronyd)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
import struct
import time
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from edge_agent.adapters.ntp_client import NtpClient
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.core.discipline import Discipline, Policy
from edge_agent.core.sample import Sample
from edge_agent.core.saved_clock import SavedClock
from edge_agent.core.timebase import BUILD_EPOCH, RawNs, UtcNs, later, rfc3339, seconds
from tests.adapters.test_kernel_clock import SETTERS, set_clock_by_a_microsecond
from tests.agent.test_jobs import check_grid
from tests.cli.test_queue import edge_agent
from tests.support.agents import (
    DEVICE,
    HEARTBEAT,
    STATUS,
    AgentProcess,
    Observer,
    Seen,
    agent,
    config_text,
    observer,
    time_servers,
)
from tests.support.brokers import LOOPBACK, free_port, missing, mosquitto, require, tls_files
from tests.support.chrony import chronyd, free_udp_port
from tests.support.faketime import WallClock, clocks_at_rate, wall_clock_at
from tests.support.killing import Report, finished
from tests.support.netns import namespace

SYNC_S: Final = 40
CLOCK_EVENT: Final = f"edge/{DEVICE}/up/event/clock"
RATES: Final = (1.0003, 0.99995)


def learn(report: Report, server: str, polls: str, every_s: str) -> None:
    """Ask a server so many times on the clocks of this process; report what was learned of them."""

    async def ask() -> None:
        clock = SystemClock()
        client = NtpClient(pair=clock.pair, near=BUILD_EPOCH)
        discipline = Discipline(Policy([server]))
        answer, due = await client.ask(server, within=seconds(3)), clock.monotonic()
        for _ in range(int(polls)):
            assert isinstance(answer, Sample), answer
            discipline.take(answer)
            due = later(due, seconds(float(every_s)))
            await clock.sleep_until(due)
            answer = await client.ask(server, within=seconds(3))
        assert isinstance(answer, Sample), answer
        known = discipline.at(answer.raw, clock.wall())
        found = {
            "ppm": discipline.frequency_ppm,
            "bound_ppm": discipline.rate_error_ppm,
            "off_ns": known.utc - answer.utc,
            "error_ns": (known.error_ns or 0) + answer.max_error_ns,
            "state": known.state,
        }
        report(json.dumps(found).encode())

    asyncio.run(ask())


async def learned(tmp_path: Path, *, polls: int, every_s: float) -> list[float]:
    """Return by how many ppm the rates are wrong that were learned by processes whose clocks run at ``RATES``."""
    errors = []
    async with chronyd(tmp_path) as server:
        runs = [
            asyncio.to_thread(
                finished, learn, server, str(polls), str(every_s), environ=clocks_at_rate(rate), within_s=300
            )
            for rate in RATES
        ]
        for rate, (mark,) in zip(RATES, await asyncio.gather(*runs), strict=True):
            found = json.loads(mark)
            print(rate, found)
            errors.append(abs(found["ppm"] - (rate - 1) * 1e6))
            assert errors[-1] <= found["bound_ppm"]
            assert found["state"] == "synced"
            assert abs(found["off_ns"]) <= found["error_ns"]
    return errors


async def test_a_wrong_rate_is_learned(tmp_path: Path) -> None:
    """Of clocks that are 300 ppm fast, or 50 slow, in a few seconds: within the bound that the agent itself claims."""
    assert max(await learned(tmp_path, polls=24, every_s=0.2)) < 50


@pytest.mark.slow
@pytest.mark.timeout_s(120)
async def test_a_wrong_rate_is_learned_to_one_part_in_a_million_within_a_minute(tmp_path: Path) -> None:
    """By 60 samples, one a second."""
    assert max(await learned(tmp_path, polls=60, every_s=1.0)) <= 1


# ---------------------------------------------------------------- a wall clock that is set
TICK: Final = '[jobs.tick]\nkind = "system"\nevery = "1s"\nsplay = "0s"\noptions = { what = ["load"] }'


@pytest.mark.root
@pytest.mark.broker
@pytest.mark.alone
@pytest.mark.parametrize(
    ("every_s", "beats", "job"),
    [(0.2, 8, ""), pytest.param(1.0, 19, TICK, marks=[pytest.mark.slow, pytest.mark.timeout_s(200)])],
)
async def test_a_wall_clock_that_is_set_by_an_hour_shifts_no_heartbeat_and_no_job(
    tmp_path: Path, every_s: float, beats: int, job: str
) -> None:
    """Forward and back, four times: each step is told; each beat of the grid has its one heartbeat, a slot its run."""
    if os.geteuid() != 0:
        missing("only root may set the clock")
    wall = WallClock(tmp_path / "wall")
    async with mosquitto(tmp_path) as broker, chronyd(tmp_path) as server, observer(broker.url) as seen:
        text = config_text(broker.url, every=f"{every_s * 1000:.0f}ms", extra=f"{time_servers(server)}\n{job}")
        async with agent(tmp_path, text, **wall.environ) as process:
            await process.logged("clock_event", what="sync_gained", within_s=SYNC_S)
            before = len(process.events("job_run"))
            begins = []
            for number, off_s in enumerate((0, 3600, 0, -3600, 0)):
                if number:
                    wall.set(off_s)
                    set_clock_by_a_microsecond(1 if number % 2 else -1)  # the kernel tells who waits for it
                    await process.logged("clock_event", number, what="wall_stepped", within_s=SYNC_S)
                begins.append(len(seen.on(HEARTBEAT)))
                await seen.wait(HEARTBEAT, count=begins[-1] + beats, within_s=60)
            steps = [round(step["by_ms"] / 1000) for step in process.events("clock_event", what="wall_stepped")]
            assert steps == [3600, -3600, -3600, 3600]
            await seen.wait(CLOCK_EVENT, count=5)
            if job:
                check_grid(process, "tick", since=before)
                assert len(process.events("job_run")) - before >= 5 * beats - 1
        beaten = seen.on(HEARTBEAT)[begins[0] :]
        grid = on_grid([moment(beat) for beat in beaten], every_s)
        assert grid == sorted(set(grid)), "one came twice"
        # of those that are a fifth of a second apart, a busy machine may stop the whole process over some
        assert len(grid) >= (1.0 if every_s >= 1 else 0.8) * (grid[-1] + 1), "some were missed"
        late = [beat.at - beaten[0].at - number * every_s for number, beat in zip(grid, beaten, strict=True)]
        phases = [min(late[begin - begins[0] :][:beats]) for begin in begins]  # the least late: machines are busy
        assert max(phases) - min(phases) <= 0.005
        told = [event.data for event in seen.on(CLOCK_EVENT)]
        assert [round(event["by_ms"] / 1000) for event in told if event["what"] == "wall_stepped"] == steps


def on_grid(moments: list[float], every_s: float) -> list[int]:
    """Return which beat each moment is of, by the moment that is nearest in phase to all others: any may be late."""

    def distance(one: float, other: float) -> float:
        return abs(math.remainder(one - other, every_s))

    phase = min(moments, key=lambda one: sum(distance(one, other) for other in moments))
    beats = [math.floor((one - phase) / every_s + 0.1) for one in moments]  # late by 9 tenths of a period, never early
    return [beat - beats[0] for beat in beats]


def vouched_for(seen: Observer, topic: str) -> list[Seen]:
    """Return the events that were made when time was known."""
    return [one for one in seen.on(topic) if json.loads(one.payload)["timestate"] == "synced"]


def moment(one: Seen) -> float:
    """Return the time of an event, in seconds of UTC."""
    return datetime.fromisoformat(json.loads(one.payload)["time"]).timestamp()


# ---------------------------------------------------------------- a boot without a network
def saved_at(utc: int) -> bytes:
    """Return what an agent has saved in an earlier boot."""
    saved = SavedClock("another boot", RawNs(10**12), UtcNs(utc), 1000, 30e-6, 1e-6)
    return saved.document()


LATER: Final = BUILD_EPOCH + 10 * 86_400 * 10**9
BOOTS: Final[dict[str, tuple[str | None, bytes]]] = {  # when it is by the wall clock, and what was saved
    "1970": ("1970-01-02 00:00:00", b""),
    "1970, and it has been later": ("1970-01-02 00:00:00", saved_at(LATER)),
    "the build's day": (rfc3339(BUILD_EPOCH)[:19].replace("T", " "), b""),
    "the next era of NTP": ("2036-02-08 00:00:00", b""),
    "2099": ("2099-01-01 00:00:00", b""),
    "a file that is torn": (None, saved_at(LATER)[:-20]),
}


@pytest.mark.broker
@pytest.mark.timeout_s(90)
async def test_a_boot_without_a_network_trusts_no_clock_until_a_server_is_there(tmp_path: Path) -> None:
    """It beats from the start, and vouches for no time; never is it earlier than is known; 20 s later it is right."""
    port = free_udp_port()
    async with contextlib.AsyncExitStack() as stack:
        broker = await stack.enter_async_context(mosquitto(tmp_path))
        seen = await stack.enter_async_context(observer(broker.url))
        devices: dict[str, tuple[AgentProcess, str]] = {}
        for number, (name, (wall, saved)) in enumerate(BOOTS.items()):
            folder = tmp_path / str(number)
            (folder / "state").mkdir(parents=True)
            if saved:
                (folder / "state" / "clock.json").write_bytes(saved)
            text = config_text(
                broker.url, extra=time_servers(f"{LOOPBACK}:{port}"), prefix=f"edge/{number}", client_id=str(number)
            )
            running = agent(folder, text, **wall_clock_at(wall) if wall else {})
            devices[name] = await stack.enter_async_context(running), f"edge/{number}/{DEVICE}/up/heartbeat"
        for name, (_, topic) in devices.items():
            await seen.wait(topic, count=2)
            for beat in seen.on(topic):
                assert moment(beat) >= (LATER if "later" in name else BUILD_EPOCH) / 1e9, name
        assert devices["a file that is torn"][0].events("clock_file_unusable")
        await stack.enter_async_context(chronyd(tmp_path, port=port))
        await asyncio.gather(*(edge_agent(process, "clock", "--sync") for process, _ in devices.values()))
        for name, (process, topic) in devices.items():
            await process.logged("clock_event", what="sync_gained", within_s=SYNC_S)
            first = await seen.until(partial(vouched_for, seen, topic))
            assert abs(moment(first) - time.time()) < 30, name
            states = [json.loads(beat.payload)["timestate"] for beat in seen.on(topic)]
            assert states[0] == "unsynced", name
            assert states == sorted(states, reverse=True), name  # unsynced until it is synced


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout_s(120)
async def test_a_network_that_comes_up_is_asked_at_once(tmp_path: Path) -> None:
    """The kernel tells it, long after the agent has become patient; time is known within 20 s."""
    with namespace() as space:
        card = re.findall(r"\d+: (i\w+)@", space.run("ip", "-o", "link"))[0]
        space.run("ip", "link", "set", card, "down")
        async with chronyd(tmp_path, host=space.outside) as server:
            text = config_text(f"mqtt://{space.outside}:{free_port()}", extra=time_servers(server))
            async with agent(tmp_path, text, prefix=space.prefix) as process:
                await process.logged("started")
                source: dict[str, Any] = {}
                while source.get("next_s", 0) < 30:
                    source = json.loads((await edge_agent(process, "clock", "--json"))[1])["sources"][0]
                assert source["standing"] == "unreachable"
                space.run("ip", "link", "set", card, "up")
                await process.logged("clock_event", what="sync_gained", within_s=20)


# ---------------------------------------------------------------- the host's own word
def kernel_says(max_error_us: int, *, state: int = 0) -> str:
    """Return strace's order to have the kernel say so of its clock, whatever it really thinks."""
    timex = struct.pack("<IIqqqqi", 0, 0, 0, 0, max_error_us, max_error_us, 0x40 if state else 0)
    return f":retval={state}:poke_exit=@arg2={timex.hex()}"


HOSTS: Final = {  # what the kernel says, and what the agent makes of it
    "synchronised": (kernel_says(2000), "synced", 3),
    "left alone for hours, without the flag yet": (kernel_says(15_000_000), "unsynced", None),
    "not synchronised": (kernel_says(16_000_000, state=5), "unsynced", None),
    "nothing, as under a service manager's filter": (":error=EPERM", "unsynced", None),
}


@pytest.mark.broker
async def test_without_servers_the_kernel_s_word_counts_as_far_as_it_goes(tmp_path: Path) -> None:
    """And while the agent lives it asks and waits, and never sets any clock."""
    require("strace", "strace")
    async with contextlib.AsyncExitStack() as stack:
        broker = await stack.enter_async_context(mosquitto(tmp_path))
        server = await stack.enter_async_context(chronyd(tmp_path))
        seen = await stack.enter_async_context(observer(broker.url))
        trace = ["strace", "-D", "-f", "-v", "-e", "trace=" + ",".join(f"?{name}" for name in SETTERS), "-o"]
        for number, (order, *_) in enumerate(HOSTS.values()):
            folder = tmp_path / str(number)
            folder.mkdir()
            prefix = [*trace, "/dev/null", "-e", f"inject=adjtimex,clock_adjtime{order}"]
            text = config_text(broker.url, prefix=f"edge/{number}", client_id=str(number))
            await stack.enter_async_context(agent(folder, text, prefix=prefix))
        calls = tmp_path / "calls"
        text = config_text(broker.url, extra=time_servers(server))
        process = await stack.enter_async_context(agent(tmp_path, text, prefix=[*trace, str(calls)]))
        await process.logged("clock_event", what="sync_gained", within_s=SYNC_S)
        for number, (name, (_, state, error_ms)) in enumerate(HOSTS.items()):
            beat = await seen.wait(f"edge/{number}/{DEVICE}/up/heartbeat", count=2)
            event = json.loads(beat.payload)
            assert (event["timestate"], event.get("timeerrorms")) == (state, error_ms), name
            assert event["data"]["clock"]["state"] == "os", name
        lines = [line for line in calls.read_text().splitlines() if "<unfinished" not in line]  # a later one resumes it
        made = [line for line in lines if any(call in line for call in SETTERS)]
        assert made, "those that read are seen"
        assert all("modes=0" in call for call in made), made


# ---------------------------------------------------------------- certificates
@pytest.mark.broker
@pytest.mark.timeout_s(60)
async def test_a_certificate_judged_by_a_wrong_clock_is_refused_and_explained(tmp_path: Path) -> None:
    """First that the clock may be wrong, then by how much it is; once it is right, the agent is online."""
    wall, files = WallClock(tmp_path / "wall"), tls_files(tmp_path)
    wall.set(-3650 * 86_400)
    async with mosquitto(tmp_path, tls=files) as broker, chronyd(tmp_path) as server, observer(broker.url) as seen:
        text = config_text(broker.tls_url, extra=time_servers(server)) + f'[mqtt.tls]\nca = "{files.ca}"\n'
        async with agent(tmp_path, text, **wall.environ) as process:
            first = (await process.logged("connect_failed"))[0]["error"]
            assert "certificate is not yet valid" in first
            assert "judged by the system clock, 20" in first
            await process.logged("clock_event", what="sync_gained", within_s=SYNC_S)
            explained: list[str] = []
            while not explained:
                await process.logged("connect_failed", len(process.events("connect_failed")) + 1)
                errors = [failure["error"] for failure in process.events("connect_failed")]
                explained = [error for error in errors if "the system clock is off" in error]
            off_s, true = re.findall(r"the system clock is off by (\S+) s; true time is (\S+):", explained[0])[0]
            assert float(off_s) == pytest.approx(-3650 * 86_400, abs=1)
            assert abs(datetime.fromisoformat(true).timestamp() - time.time()) < 60
            assert seen.on(STATUS) == []
            wall.set(0)
            await seen.wait(STATUS, b"online")
