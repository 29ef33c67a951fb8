"""Changes from the cloud that cut the device off or end the agent, and kills at any moment: the good one is back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest

from edge_agent.ports import Message
from tests.support.agents import DEVICE, AgentProcess, Observer, Seen, agent, config_text, observer, toml
from tests.support.brokers import RealBroker, free_port, mosquitto
from tests.support.iotrace import Iotrace
from tests.support.power_cut import PowerCut

pytestmark = pytest.mark.broker
WITHIN_S: Final = 10
"""The shortest time that a change may have to be confirmed."""

OPEN: Final = f'[config]\nremote = ["heartbeat", "jobs", "mqtt"]\nconfirm_timeout = "{WITHIN_S}s"\n'
STARTS_WITHIN_S: Final = 20
"""Several at once, on a busy machine."""

AT_ONCE: Final = 4
"""Devices side by side: they mostly wait."""

ENDING: Final = '''
import asyncio, os, signal
from edge_agent.core.config_types import Section
from edge_agent.job_ports import Kind

class Options(Section):
    """None."""

async def leave(ctx, options):
    os._exit(7)

async def die(ctx, options):
    os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(3600)

async def stumble(ctx, options):
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)

if os.path.exists(os.path.join(os.path.dirname(__file__), "armed")):
    os._exit(7)

LEAVE, DIE, STUMBLE = Kind("leave", Options, leave), Kind("die", Options, die), Kind("stumble", Options, stumble)
'''


ENDS: Final = {"leave": 7, "die": -signal.SIGKILL, "stumble": 1}
"""The kinds, and the exit codes of an agent that they end."""


@dataclass(frozen=True, slots=True)
class Device:
    """One that the cloud may cut off.

    Attributes:
        name: its id.
        folder: where it lives.
        process: its agent.
        broker: the good one.
        seen: what it says there.
    """

    name: str
    folder: Path
    process: AgentProcess
    broker: RealBroker
    seen: Observer

    async def told(self, state: str, version: int | None, *, after: float = 0) -> dict[str, Any]:
        """Wait until the device says what has become of a version."""

        def found() -> list[Seen]:
            said = self.seen.on(f"edge/{self.name}/up/config", after=after)
            return [one for one in said if (one.data["state"], one.data["version"]) == (state, version)]

        return (await self.seen.until(found)).data

    def states(self, *, after: float) -> list[tuple[str, int | None]]:
        """Return what it has said, without repetitions."""
        said = [one.data for one in self.seen.on(f"edge/{self.name}/up/config", after=after)]
        return list(dict.fromkeys((one["state"], one["version"]) for one in said))

    async def desire(self, version: int, **config: Any) -> float:  # noqa: ANN401  # as JSON has it
        """Publish a configuration as the cloud does; return when."""
        return await desire(self.seen, self.name, version, **config)

    async def restart(self) -> float:
        """Kill the agent and start it again at once; return when."""
        self.process.signal(signal.SIGKILL)
        await self.process.wait()
        self.process.start()
        return time.monotonic()

    def begun(self) -> dict[int, float]:
        """Return when each version from the cloud came in force, as the disk has it; one that did so twice fails."""
        memory = json.loads((self.folder / "state" / "config" / "memory.json").read_bytes())
        entries = [entry for entry in memory["history"] if entry["by"] == "cloud"]
        found = {entry["version"]: datetime.fromisoformat(entry["time"]).timestamp() for entry in entries}
        assert len(found) == len(entries)
        return found

    async def is_well(self, digest: str, *, since: float) -> None:
        """Ask that what was in force before still is, and that a new good version can be; the bad one stays away."""
        at = await self.restart()
        assert (await self.told("rolled_back", 1, after=at))["digest"] == digest
        at = await self.desire(2, heartbeat={"every": "300ms"})
        await self.told("applied", 2, after=at)
        assert list(self.begun()) == [1, 2]
        said = self.states(after=since)
        assert said[said.index(("rolled_back", 1)) :] == [("rolled_back", 1), ("pending_confirm", 2), ("applied", 2)]
        beat = await self.seen.wait(f"edge/{self.name}/up/heartbeat", after=time.monotonic(), count=2)
        assert beat.data["config"]["version"] == 2
        assert {event["broker"] for event in self.process.events("connected")} == {self.broker.url}
        assert not self.process.events("config_memory_unusable")


async def desire(seen: Observer, name: str, version: int, **config: Any) -> float:  # noqa: ANN401  # as JSON has it
    """Publish a configuration for a device; return when."""
    at = time.monotonic()
    payload = json.dumps({"version": version, "config": config}).encode()
    await seen.connection.send(Message(f"edge/{name}/down/config", payload, retain=True))
    return at


@contextlib.asynccontextmanager
async def device(
    folder: Path, broker: RealBroker, seen: Observer, name: str = DEVICE, **environ: str
) -> AsyncIterator[Device]:
    """Run a device that lets the cloud say much."""
    folder.mkdir(exist_ok=True)
    text = config_text(broker.url, extra=OPEN).replace(toml(DEVICE), toml(name))
    async with agent(folder, text, **environ) as process:
        yield Device(name, folder, process, broker, seen)


def nowhere() -> dict[str, Any]:
    """Return a section that cuts a device off."""
    return {"brokers": [f"mqtt://127.0.0.1:{free_port()}"]}


# ---------------------------------------------------------------- cut off
@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(5, marks=pytest.mark.timeout_s(90)),
        pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout_s(900)]),
    ],
)
async def test_a_kill_at_any_moment_does_not_keep_a_device_cut_off(kills: int, tmp_path: Path) -> None:
    """Between the order and its taking back, also just where they are written down: back in time, and for good."""
    seed = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1 << 32)
    print(f"SEED={seed}")
    rng = random.Random(seed)  # noqa: S311  # no secret
    took: list[float] = []

    async def live(number: int, moment: float) -> None:
        async with device(tmp_path / f"d{number}", broker, seen, f"dev-{number}") as one:
            before = await one.told("applied", None)
            at = await one.desire(1, mqtt=nowhere())
            await asyncio.sleep(at + moment - time.monotonic())
            runs = len(one.process.events("started")) + 1
            await one.restart()
            await one.process.logged("started", runs)
            started = time.time()
            back = await one.told("rolled_back", 1, after=at)
            took.append(time.time() - one.begun()[1])  # a kill may have come first
            assert took[-1] < max(WITHIN_S, started - one.begun()[1]) + 10, moment
            assert back["digest"] == before["digest"]
            assert [error["key"] for error in back["errors"]] == ["mqtt.brokers"]
            await one.is_well(before["digest"], since=at)

    async with mosquitto(tmp_path) as broker, observer(broker.url) as seen:
        for first in range(0, kills, AT_ONCE):
            spans = [rng.choice(((0, 0.2), (0, WITHIN_S), (WITHIN_S, WITHIN_S + 0.4))) for _ in range(AT_ONCE)]
            moments = [rng.uniform(*span) for span in spans[: kills - first]]
            async with asyncio.TaskGroup() as group:
                for number, moment in enumerate(moments, first):
                    group.create_task(live(number, moment))
    print(f"back {min(took):.1f} to {sorted(took)[len(took) // 2]:.1f} to {max(took):.1f} s after it was begun")


@pytest.mark.parametrize(
    "states",
    [
        pytest.param(5, marks=pytest.mark.timeout_s(120)),
        pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout_s(900)]),
    ],
)
async def test_a_power_cut_at_any_write_does_not_keep_a_device_cut_off(states: int, tmp_path: Path) -> None:
    """Whatever of what was written for the change and for taking it back is on the disk."""
    rng = random.Random(states)  # noqa: S311  # reproducible
    log, config = tmp_path / "log", tmp_path / DEVICE / "state" / "config"

    async def live_again(number: int, cut: int) -> None:
        folder, name = tmp_path / f"d{number}", f"cut-{number}"
        folder.mkdir()
        whole.build(cut, rng, folder / "state" / "config")
        for memory in (folder / "state" / "config").glob("*memory.json"):  # or it would be that of another device
            memory.write_bytes(memory.read_bytes().replace(toml(DEVICE).encode(), toml(name).encode()))
        at = await desire(seen, name, 1, mqtt=bad)
        async with device(folder, broker, seen, name) as one:
            back = await one.told("rolled_back", 1, after=at)
            assert time.monotonic() - at < WITHIN_S + 10 + STARTS_WITHIN_S, cut
            await one.is_well(back["digest"], since=at)

    async with mosquitto(tmp_path) as broker, observer(broker.url) as seen:
        bad = nowhere()
        async with device(tmp_path / DEVICE, broker, seen, **Iotrace(config).environ(log=log)) as first:
            await first.told("applied", None)
            await first.desire(1, mqtt=bad)
            await first.told("rolled_back", 1)
        whole = PowerCut.load(log)
        cuts = whole.cuts(states, rng)
        print(f"{len(whole.ops)} writes")
        for begin in range(0, states, AT_ONCE):
            async with asyncio.TaskGroup() as group:
                for number, cut in enumerate(cuts[begin : begin + AT_ONCE], begin):
                    group.create_task(live_again(number, cut))


# ---------------------------------------------------------------- ended
def ending(folder: Path) -> dict[str, str]:
    """Install a package with kinds of job that end the agent; return the environment in which it is there."""
    (folder / "ending.py").write_text(ENDING)
    info = folder / "ending-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ending\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[edge_agent.jobs]\n" + "".join(f"{kind} = ending:{kind.upper()}\n" for kind in ENDS)
    )
    return {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize(
    ("kind", "every", "is_cut_off"),
    [
        ("leave", "200ms", False),
        ("stumble", "200ms", False),
        ("die", "200ms", True),
        ("die", "3s", False),
        ("leave", "1s", True),  # three times within the timeout, that of the starts included
    ],
)
async def test_a_change_that_ends_the_agent_is_taken_back_at_the_third_start(
    kind: str, every: str, tmp_path: Path, *, is_cut_off: bool
) -> None:
    """Whether or not a broker has confirmed it before; the agent stays alive then, and the change stays away."""
    async with (
        mosquitto(tmp_path) as broker,
        observer(broker.url) as seen,
        device(tmp_path, broker, seen, **ending(tmp_path)) as one,
    ):
        before = await one.told("applied", None)
        job = {"kind": kind, "every": every, "splay": "0s"}
        at = await one.desire(1, jobs={"end": job}, **({"mqtt": nowhere()} if is_cut_off else {}))
        for _ in range(3):
            assert await one.process.wait() == ENDS[kind]
            one.process.start()
        back = await one.told("rolled_back", 1, after=at)
        assert back["digest"] == before["digest"]
        assert "3 times" in back["errors"][0]["reason"]
        if is_cut_off or every == "3s":
            assert (("applied", 1) in one.states(after=at)) is not is_cut_off
        beat = f"edge/{DEVICE}/up/heartbeat"
        _ = await seen.wait(beat, after=time.monotonic(), count=3)
        assert one.process.process is not None
        assert one.process.process.poll() is None
        await one.is_well(before["digest"], since=at)
        one.process.log_path.write_text("")  # the bug that is logged there was ordered


async def test_a_kind_that_ends_the_agent_when_it_is_loaded_is_given_up_at_the_third_start(tmp_path: Path) -> None:
    """The change is not even in force by then, and another that is not valid leaves no trace."""
    async with (
        mosquitto(tmp_path) as broker,
        observer(broker.url) as seen,
        device(tmp_path, broker, seen, **ending(tmp_path)) as one,
    ):
        before = await one.told("applied", None)
        (tmp_path / "armed").touch()
        at = await one.desire(1, jobs={"end": {"kind": "leave", "every": "1h"}})
        for _ in range(3):
            assert await one.process.wait() == ENDS["leave"]
            one.process.start()
        assert (await one.told("rolled_back", 1, after=at))["digest"] == before["digest"]
        (tmp_path / "armed").unlink()
        at = await one.restart()
        await one.told("rolled_back", 1, after=at)
        await one.desire(2, jobs={"end": {"kind": "leave", "every": "1h", "timeout": "soon"}})
        await one.told("rejected", 2)
        at = await one.restart()
        await one.told("rejected", 2, after=at)
        assert one.begun() == {}
