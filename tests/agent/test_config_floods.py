"""Changes of the configuration without end, of files and from the cloud: nothing is lost, late, or grows."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest

from edge_agent.ports import Message
from tests.agent.test_command_floods import beats, lateness
from tests.support.agents import DEVICE, HEARTBEAT, AgentProcess, agent, config_text, connect, toml
from tests.support.brokers import mosquitto
from tests.support.commanding import Operator, device_text, operator
from tests.support.feeding import Feeder, consumer
from tests.support.iotrace import Iotrace
from tests.support.power_cut import PowerCut

pytestmark = pytest.mark.broker
UP, DOWN = f"edge/{DEVICE}/up/config", f"edge/{DEVICE}/down/config"
MIB: Final = 1 << 20
STEADY_MS: Final = 500
STEADY: Final = f"""
[jobs.steady]
kind = "system"
every = "{STEADY_MS}ms"
splay = "0s"
overlap = "queue"
misfire = "run_all"
options = {{ what = ["uptime"] }}
"""
"""A job that no edit touches; where a busy machine is late for a slot of it, its run comes later."""


@dataclass
class Files:
    """The files of an agent, as somebody edits them.

    Attributes:
        process: the agent.
        broker: its broker.
    """

    process: AgentProcess
    broker: str
    _said: dict[str, str] = field(default_factory=lambda: {"every": "500ms", "period": "700ms", "label": "none"})

    def edit(self, number: int) -> None:
        """Make the edit of a number."""
        match number % 8:
            case 0:
                self._say("every", ("500ms", "300ms", "1s")[number // 8 % 3])
            case 1 | 5:
                self._drop("20-log", f'[log]\nlevel = "{"debug" if number % 8 == 1 else "info"}"\n')
            case 2:
                self._say("period", f"{400 + number}ms")
            case 3:
                self._say("label", f"edit {number}")
            case 4:
                self.process.config.write_text(self.text() + "[heartbeat]\n")  # it is there twice
            case 6:
                self._drop("30-more", f'[device.labels]\nmore = "{number}"\n')
            case _:
                (self._folder / "30-more.toml").unlink()
                self._say("every", "400ms")

    def text(self) -> str:
        """Return what the main file says."""
        job = f'[jobs.other]\nkind = "system"\nevery = "{self._said["period"]}"\nsplay = "0s"\n'
        options = '[jobs.other.options]\nwhat = ["load"]\n'
        label = f"[device.labels]\nlabel = {toml(self._said['label'])}\n"
        return config_text(self.broker, every=self._said["every"], extra=STEADY + job + options + label)

    @property
    def _folder(self) -> Path:
        return self.process.config.with_suffix(".d")

    def _say(self, key: str, value: str) -> None:
        self._said[key] = value
        self._put(self.process.config, self.text())

    def _drop(self, name: str, text: str) -> None:
        self._put(self._folder / f"{name}.toml", text)

    def _put(self, path: Path, text: str) -> None:
        new = path.with_suffix(".new")
        new.write_text(text)
        new.rename(path)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process has cost so far: memory in bytes, open descriptors, seconds of a processor."""

    rss: int
    descriptors: int
    cpu_s: float

    @classmethod
    def of(cls, pid: int) -> Cost:
        """Read it."""
        proc = Path(f"/proc/{pid}")
        ticks = (proc / "stat").read_text().rpartition(")")[2].split()[11:13]
        pages = int((proc / "statm").read_text().split()[1])
        cpu_s = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
        return cls(pages * os.sysconf("SC_PAGE_SIZE"), len(list((proc / "fd").iterdir())), cpu_s)


# ---------------------------------------------------------------- files
@pytest.mark.parametrize(
    ("edits", "within_s"),
    [
        pytest.param(40, 12, marks=pytest.mark.timeout_s(90)),
        pytest.param(200, 60, marks=[pytest.mark.slow, pytest.mark.timeout_s(240)]),
    ],
)
async def test_edits_without_end_cost_no_record_no_run_no_connection_and_no_memory(
    edits: int, within_s: float, tmp_path: Path
) -> None:
    """While a thousand records a second come in: heartbeat, log, a job, labels, drop-ins, and what is not valid."""
    every_s, count = 0.001, round(within_s * 1000)
    asyncio.get_running_loop().set_debug(False)  # it would be slower than what it feeds
    async with mosquitto(tmp_path, config_lines=("max_queued_messages 0",)) as broker, consumer(broker.url) as reader:
        text = Files(AgentProcess(tmp_path, tmp_path), broker.url).text()
        async with agent(tmp_path, text) as process:
            files, feeder = Files(process, broker.url), Feeder(tmp_path / "control.sock")
            await process.logged("health")
            async with asyncio.TaskGroup() as group:
                feeding = group.create_task(feeder.put(count, every_s=every_s))
                begun, early = time.monotonic(), Cost(0, 0, 0)
                first = Cost.of(process.pid)
                for number in range(edits):
                    files.edit(number)
                    if number == 20:
                        early = Cost.of(process.pid)
                    await asyncio.sleep(begun + (number + 1) * within_s / edits - time.monotonic())
                await feeding
            took, last = time.monotonic() - begun, Cost.of(process.pid)
            applied = process.events("config_applied", by="files")
            rejected = process.events("config_rejected")
            print(
                f"{edits} edits in {took:.1f} s, {count} records: {len(applied)} applied, {len(rejected)} rejected; "
                f"memory {early.rss / MIB:.1f} -> {last.rss / MIB:.1f} MiB, descriptors {early.descriptors} -> "
                f"{last.descriptors}, {(last.cpu_s - first.cpu_s) / took * 100:.0f} % of a core"
            )
            report = await reader.until_settled(count)
            assert report.ok, report
            assert len(reader.came) >= len(feeder.confirmed) == count
            assert not feeder.refused
            assert len(process.events("connected")) == 1
            assert len(applied) > edits / 4  # a burst is one change, and on a busy machine many are bursts
            beat = next(payload for _, topic, payload in reversed(reader.seen) if topic == HEARTBEAT)
            assert json.loads(beat)["data"]["interval_s"] == 0.4  # as the last edit says
            assert rejected
            assert last.descriptors <= early.descriptors + 2
            assert last.rss < early.rss + 3 * MIB  # what the allocator makes of it
            check_steady(process)


def check_steady(process: AgentProcess) -> None:
    """Ask that no slot of the job was left out, and that all are of one phase."""
    slots = [datetime.fromisoformat(run["slot"]) for run in process.events("job_run", task_name="steady")]
    offsets = [round((slot - slots[0]).total_seconds() * 1000) for slot in slots]
    assert offsets == [number * STEADY_MS for number in range(len(slots))]
    assert not process.events("job_missed", task_name="steady")
    assert len(slots) > 10


# ---------------------------------------------------------------- the cloud
@pytest.mark.parametrize(
    "each",
    [
        pytest.param(1_000, marks=pytest.mark.timeout_s(120)),
        pytest.param(20_000, marks=[pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout_s(600)]),
    ],
)
async def test_a_flood_from_the_cloud_wears_nothing_and_the_last_version_is_in_force(each: int, tmp_path: Path) -> None:
    """Valid ones, bad ones and old ones, as fast as the device takes them; commands are obeyed meanwhile."""
    config, log = tmp_path / "state" / "config", tmp_path / "log"
    environ = Iotrace(config).environ(log=log)
    async with (
        mosquitto(tmp_path, config_lines=("max_queued_messages 0", "max_inflight_messages 100")) as broker,
        agent(tmp_path, device_text(broker.url, every="200ms"), **environ) as process,
        operator(broker.url) as one,
    ):
        await process.logged("health")
        cloud = await connect(broker.url, client_id="cloud")

        async def say(said: dict[str, Any]) -> None:
            assert await cloud.room()
            _ = cloud.send(Message(DOWN, json.dumps(said).encode(), retain=True))

        await one.until(lambda: len(beats(one)) > 12, "heartbeats", within_s=30)
        begun, before, pings, rss = time.monotonic(), Cost.of(process.pid), list[float](), list[int]()
        for number in range(1, each + 1):
            await say({"version": 2 * number, "config": {"log": {"level": ("info", "warning")[number % 2]}}})
            await say({"version": 2 * number + 1, "config": {"heartbeat": {"every": f"{number}s ago"}}})
            await say({"version": max(number // 2, 1), "config": {"log": {"level": "debug"}}})
            if number % (each // 10) == 0:
                asked = time.monotonic()
                assert (await one.final(one.send("ping"), within_s=30)).state == "succeeded"
                pings.append(time.monotonic() - asked)
                rss.append(Cost.of(process.pid).rss)
        last = 2 * each + 2
        await say({"version": last, "config": {"log": {"level": "info"}, "heartbeat": {"every": "200ms"}}})
        await say({"version": 1, "config": {"log": {"level": "debug"}}})
        sent = time.monotonic()
        await one.until(lambda: said_last(one, last), "the last version", within_s=120)
        ended = time.monotonic()
        await one.until(lambda: beats(one)[-1][1]["data"]["config"]["version"] == last, "its heartbeat")
        await cloud.disconnect()
        assert not process.events("disconnected")
        rss.append(Cost.of(process.pid).rss)
        late = sorted(lateness(begun, ended, [at for at, _ in beats(one)]))
        ops = PowerCut.load(log).ops
        saves = sum(op.kind == "R" and op.names[1] == "memory.json" for op in ops)
        syncs = sum(op.kind in "SD" for op in ops)
        took = ended - begun
        print(
            f"{3 * each} in {sent - begun:.1f} s, in force after {took:.1f} s; {saves} saves, {syncs} syncs; memory "
            f"{before.rss / MIB:.1f} -> {rss[0] / MIB:.1f} -> {rss[-1] / MIB:.1f} MiB; pings up to {max(pings):.2f} s; "
            f"heartbeats late {late[len(late) // 2] * 1000:.0f} ms, 99 %: {late[len(late) * 99 // 100] * 1000:.0f} ms"
        )
        assert saves <= 2 * took + 5  # each is written down when it is begun, and when it is confirmed
        assert max(rss) - before.rss < 12 * MIB
        assert max(pings) < 10
        if each > 10_000:
            assert max(rss) - rss[0] < 2 * MIB, "it grows on"
            assert late[len(late) * 99 // 100] < 0.5


def said_last(one: Operator, version: int) -> bool:
    """Return whether the device has said of a version that it is in force."""
    said = [json.loads(payload)["data"] for _, topic, payload in one.other[-50:] if topic == UP]
    return bool(said) and (said[-1]["version"], said[-1]["state"]) == (version, "applied")
