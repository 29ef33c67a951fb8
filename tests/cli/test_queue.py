"""The verb queue, as a process of its own, on a running and on a stopped agent."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path

from tests.support.agents import AgentProcess, agent, config_text
from tests.support.brokers import free_port


async def edge_agent(process: AgentProcess, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
    """Run a verb on an agent's configuration; return exit code, stdout and stderr."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edge_agent", *arguments, "--config", str(process.config)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await child.communicate(stdin)
    assert child.returncode is not None
    return child.returncode, out.decode(), err.decode()


async def at_a_terminal(process: AgentProcess, reply: bytes, *arguments: str) -> int:
    """Run a verb on an agent's configuration with a terminal as standard input; return its exit code."""
    ours, its = os.openpty()
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edge_agent", *arguments, "--config", str(process.config)),
        stdin=its,
        stderr=asyncio.subprocess.PIPE,
    )
    assert child.stderr is not None
    assert b"for good" in await child.stderr.readuntil(b"[y/N] ")
    os.write(ours, reply)
    await child.communicate()
    for end in (ours, its):
        os.close(end)
    assert child.returncode is not None
    return child.returncode


async def filled(process: AgentProcess) -> None:
    """Hand in five records of a normal and one of a bulk channel."""
    await process.logged("started")
    lines = b"".join(b'{"n": %d}\n' % number for number in range(5))
    assert (await edge_agent(process, "publish", "data/x", "--lines", stdin=lines))[0] == 0
    assert (await edge_agent(process, "publish", "data/y", "--priority", "bulk", stdin=b"{}"))[0] == 0


async def test_a_running_agent_s_outbox_can_be_read_exported_and_purged(tmp_path: Path) -> None:
    """Every action but the dead letters', which need a broker."""
    async with agent(tmp_path, config_text(f"mqtt://127.0.0.1:{free_port()}")) as process:
        await filled(process)
        code, out, _ = await edge_agent(process, "queue", "stat", "--json")
        assert code == 0
        assert json.loads(out)["records"] == 6
        _, out, _ = await edge_agent(process, "queue", "stat")
        assert re.search(r"^records +6$", out, re.MULTILINE)
        _, out, _ = await edge_agent(process, "queue", "peek", "-n", "2")
        assert [json.loads(line)["data"] for line in out.splitlines()] == [{"n": 0}, {"n": 1}]
        file = tmp_path / "export.ndjson"
        assert (await edge_agent(process, "queue", "export", "--file", str(file)))[0] == 0
        assert [json.loads(line)["subject"] for line in file.read_text().splitlines()] == ["x"] * 5 + ["y"]
        code, out, _ = await edge_agent(process, "queue", "check")
        assert (code, out) == (0, "ok: structure ok, 6 records intact, 0 damaged\n")
        for reply in (b"\n", b"n\n"):
            assert await at_a_terminal(process, reply, "queue", "purge") == 1
        code, _, err = await edge_agent(process, "queue", "purge", "--channel", "x")
        assert (code, err.count("\n")) == (64, 1)
        assert (await edge_agent(process, "queue", "purge", "--priority", "bulk", "--yes"))[1] == "purged 1\n"
        assert await at_a_terminal(process, b"y\n", "queue", "purge", "--channel", "data/y") == 0
        assert (await edge_agent(process, "queue", "purge"))[1] == "purged 5\n", "there is nobody to ask in a script"
        assert (await edge_agent(process, "queue", "retry"))[1] == "retried 0\n"
        assert (await edge_agent(process, "queue", "peek", "-n", "0"))[0] == 64
        code, _, err = await edge_agent(process, "queue", "export", "--file", str(tmp_path / "no" / "where"))
        assert code == 64
        assert "No such file" in err


async def test_a_stopped_agent_s_outbox_can_be_read_but_not_changed(tmp_path: Path) -> None:
    """Also one that was killed; who wants to change it is told to start the agent."""
    async with agent(tmp_path, config_text(f"mqtt://127.0.0.1:{free_port()}")) as process:
        await filled(process)
        process.signal(signal.SIGKILL)
        await process.wait()
        _, out, _ = await edge_agent(process, "queue", "stat")
        assert re.search(r"^running +no$", out, re.MULTILINE)
        assert re.search(r"^records +6$", out, re.MULTILINE)
        _, out, _ = await edge_agent(process, "queue", "export")
        assert len(out.splitlines()) == 6
        assert json.loads((await edge_agent(process, "queue", "check", "--json"))[1])["ok"] is True
        code, _, err = await edge_agent(process, "queue", "purge", "--yes")
        assert code == 69
        assert "is it running?" in err


async def test_a_damaged_record_is_found(tmp_path: Path) -> None:
    """One byte of a body is turned in the file of a stopped agent: exit 1, and the others are still shown."""
    async with agent(tmp_path, config_text(f"mqtt://127.0.0.1:{free_port()}")) as process:
        await filled(process)
        process.signal(signal.SIGTERM)
        await process.wait()
        file = tmp_path / "state" / "outbox.db"
        raw = file.read_bytes()
        assert raw.count(b'{"n":3}') == 1
        file.write_bytes(raw.replace(b'{"n":3}', b'{"n":7}'))
        code, out, _ = await edge_agent(process, "queue", "check")
        assert (code, out) == (1, "damaged: structure ok, 5 records intact, 1 damaged\n")
        assert len((await edge_agent(process, "queue", "peek"))[1].splitlines()) == 5
