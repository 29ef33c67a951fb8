"""The verb clock, as a process of its own, on a running agent with a real time server."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from pathlib import Path

from tests.cli.test_queue import edge_agent
from tests.support.agents import agent, config_text
from tests.support.brokers import free_port
from tests.support.chrony import chronyd, free_udp_port

SYNC_S = 40
"""A server that is absent is waited for three times before the other one is believed alone; then four samples."""


def settings(*servers: str) -> str:
    """Return a configuration with these time servers, without a broker."""
    return config_text(f"mqtt://127.0.0.1:{free_port()}") + f"\n[time]\nservers = {json.dumps(servers)}\n"


async def test_it_shows_what_is_known_from_whom_and_how_well(tmp_path: Path) -> None:
    """A server that answers and one that is not there; for people and for programs."""
    async with chronyd(tmp_path) as server:
        absent = f"127.0.0.1:{free_udp_port()}"
        async with agent(tmp_path, settings(server, absent)) as process:
            await process.logged("clock_event", within_s=SYNC_S)
            code, out, _ = await edge_agent(process, "clock", "--json")
            assert code == 0
            report = json.loads(out)
            assert report["state"] == "synced"
            assert abs(report["offset_ms"]) <= report["error_ms"] < 100
            good, bad = report["sources"]
            assert (good["name"], good["used"], good["standing"]) == (server, True, "selected")
            assert (bad["name"], bad["used"], bad["standing"]) == (absent, False, "refused")
            _, out, _ = await edge_agent(process, "clock")
            assert re.search(r"^state +synced$", out, re.MULTILINE)
            assert "refused" in out
            before = good["reach"]
            assert (await edge_agent(process, "clock", "--sync"))[0] == 0
            assert before > 0


async def test_without_any_server_it_says_what_to_do(tmp_path: Path) -> None:
    """The operating system's clock alone is a state, too."""
    async with agent(tmp_path, settings()) as process:
        await process.logged("started")
        code, out, _ = await edge_agent(process, "clock")
        assert code == 0
        assert re.search(r"^state +os$", out, re.MULTILINE)
        assert "set time.servers" in out


async def test_that_nothing_is_known_yet_is_an_answer_too(tmp_path: Path) -> None:
    """It was asked for and is shown: nothing has failed."""
    async with agent(tmp_path, settings(f"127.0.0.1:{free_udp_port()}")) as process:
        await process.logged("started")
        code, out, _ = await edge_agent(process, "clock", "--json")
        assert (code, json.loads(out)["state"]) == (0, "unsynced")


async def test_a_trace_is_recorded_and_replayed(tmp_path: Path) -> None:
    """The replay ends with the state and about the bound that the device had."""
    trace = tmp_path / "trace.ndjson"
    async with chronyd(tmp_path) as server, agent(tmp_path, settings(server)) as process:
        await process.logged("clock_event", within_s=SYNC_S)
        recorder = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "edge_agent", "clock", "--trace", str(trace), "--config", str(process.config)),
            stderr=asyncio.subprocess.PIPE,
        )
        assert recorder.stderr is not None
        assert b"entries" in await recorder.stderr.readuntil(b"entries")
        recorder.send_signal(signal.SIGINT)
        assert await recorder.wait() == 0
        code, out, _ = await edge_agent(process, "clock", "--replay", str(trace), "--json")
        assert code == 0
        last = json.loads(out.splitlines()[-1])
        assert (last["source"], last["state"], last["standing"]) == (server, "synced", "selected")
        assert len(out.splitlines()) == len(trace.read_text().splitlines())
        bad = tmp_path / "bad"
        bad.write_text("no trace\n")
        code, _, err = await edge_agent(process, "clock", "--replay", str(bad))
        assert code == 64
        assert "bad:1: no entry of a trace" in err


async def test_it_shows_itself_again_until_interrupted(tmp_path: Path) -> None:
    """A report every other second."""
    async with agent(tmp_path, settings()) as process:
        await process.logged("started")
        watching = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "edge_agent", "clock", "--watch", "--json", "--config", str(process.config)),
            stdout=asyncio.subprocess.PIPE,
        )
        assert watching.stdout is not None
        reports = [json.loads(await watching.stdout.readline()) for _ in range(2)]
        assert reports[0]["time"] < reports[1]["time"]
        watching.send_signal(signal.SIGINT)
        assert await watching.wait() == 130


async def test_without_an_agent_it_says_so(tmp_path: Path) -> None:
    """In one line, with what to do."""
    async with agent(tmp_path, settings()) as process:
        await process.logged("started")
        assert process.process is not None
        process.process.terminate()
        process.process.wait()
        code, _, err = await edge_agent(process, "clock")
        assert code != 0
        assert len(err.splitlines()) == 1
