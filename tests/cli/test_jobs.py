"""The verb jobs, as a process of its own, on a running agent."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import sys
from pathlib import Path

from tests.cli.test_queue import edge_agent
from tests.support.agents import AgentProcess, agent, config_text
from tests.support.brokers import free_port

JOBS = """
[programs]
fine.argv = ["/bin/echo", "hello"]
bad.argv = ["/bin/sh", "-c", "echo broken >&2; exit 3"]
[jobs.fine]
kind = "exec"
every = "1h"
timeout = "1m"
options = { program = "fine" }
[jobs.bad]
kind = "exec"
cron = "0 6 * * MON-FRI"
timezone = "Europe/Berlin"
breaker = { failures = 1 }
options = { program = "bad" }
"""
SYSTEM = 'kind = "system"\nevery = "2h"\noptions = { what = ["uptime"], disks = ["/", "/tmp"] }\n'


def settings() -> str:
    """Return a configuration with two jobs, without a broker."""
    return config_text(f"mqtt://127.0.0.1:{free_port()}", extra=JOBS)


async def jobs(process: AgentProcess, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
    """Run the verb; return exit code, stdout and stderr."""
    return await edge_agent(process, "jobs", *arguments, stdin=stdin.encode())


async def test_jobs_are_listed_run_and_shown(tmp_path: Path) -> None:
    """For people without microseconds, for programs exactly; the exit code says whether a run succeeded."""
    async with agent(tmp_path, settings()) as process:
        await process.logged("started")
        code, out, _ = await jobs(process, "run", "fine", "--wait")
        assert code == 0
        assert re.search(r'^status +succeeded$(.*\n)*^result +{"records":1}$', out, re.MULTILINE)
        code, out, _ = await jobs(process, "run", "bad", "--wait", "--json")
        run = json.loads(out)
        assert (code, run["status"], run["cause"]) == (1, "failed", "manual")
        assert run["reason"].endswith("exit code 3: broken")
        _, out, _ = await jobs(process, "list")
        _, bad, fine = out.splitlines()
        soon, ago = r"in [0-9dhms]+", r"\d+s ago"
        assert re.fullmatch(rf"fine +exec +every 1h +idle +{soon} +succeeded {ago} +\S+ +1 +0 +file", fine)
        when = r"cron 0 6 \* \* MON-FRI Europe/Berlin"
        assert re.fullmatch(
            rf"bad +exec +{when} +idle, breaker open +{soon} +failed {ago} +\S+ +-1 +0 +file",
            bad,
        )
        _, out, _ = await jobs(process, "list", "--json")
        found = json.loads(out)
        assert [job["last"]["status"] for job in found["jobs"]] == ["failed", "succeeded"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", found["jobs"][0]["next"])
        _, out, _ = await jobs(process, "show", "bad")
        assert re.search(r'^counts +{"failed":1}$', out, re.MULTILINE)
        assert re.search(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ  manual .* exit code 3: broken$", out, re.MULTILINE)
        code, out, _ = await jobs(process, "run", "fine")
        assert (code, out.split()[0]) == (0, "trace")
        assert (await jobs(process, "cancel", "bad"))[:2] == (0, "cancelled  no\n")


async def test_jobs_are_put_paused_and_deleted_over_a_restart(tmp_path: Path) -> None:
    """As the settings stand alone, below their table, or as ``show`` prints them."""
    async with agent(tmp_path, settings()) as process:
        await process.logged("started")
        file = tmp_path / "job.toml"
        file.write_text("[jobs.new]\n" + SYSTEM)
        code, out, _ = await jobs(process, "put", "new", "--file", str(file))
        assert code == 0
        assert re.search(r"^next +\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$", out, re.MULTILINE)
        assert re.search(r"^origin +runtime$", out, re.MULTILINE)
        _, out, _ = await jobs(process, "show", "new")
        assert SYSTEM in out
        assert (await jobs(process, "put", "fine", stdin=SYSTEM))[0] == 0
        assert re.search(r"^state +paused$", (await jobs(process, "pause", "new"))[1], re.MULTILINE)
        assert (await jobs(process, "delete", "bad"))[:2] == (0, "deleted  yes\n")
        assert process.process is not None
        process.process.kill()
        process.process.wait()
        process.start()
        await process.logged("started", 2)
        _, out, _ = await jobs(process, "list")
        _, fine, new, note = out.splitlines()
        assert "system  every 2h" in fine
        assert " paused " in new
        assert note == "note: deleted here, though the files have them: bad (put --restore)"
        assert re.search(r"^state +idle$", (await jobs(process, "resume", "new"))[1], re.MULTILINE)
        for name in ("fine", "bad"):
            assert "file" in (await jobs(process, "put", name, "--restore"))[1]
        assert (await jobs(process, "delete", "new"))[0] == 0
        _, out, _ = await jobs(process, "list", "--json")
        assert [(job["name"], job["kind"], job["origin"]) for job in json.loads(out)["jobs"]] == [
            ("bad", "exec", "file"),
            ("fine", "exec", "file"),
        ]


async def test_what_is_wrong_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    """1 if the agent refuses, 64 if it cannot be asked, 69 if it is not there."""
    async with agent(tmp_path, settings()) as process:
        await process.logged("started")
        large = "# " + "x" * (1 << 16)
        for arguments, stdin, code, words in (
            (("show", "x"), "", 1, "there is no job 'x'; known: bad, fine"),
            (("put", "x"), 'kind = "system"\nevry = "1m"', 1, "jobs.x.evry: unknown key 'evry'; did you mean 'every'?"),
            (("put", "x"), "", 1, "jobs.x.kind: this key is needed"),
            (("put", "x", "--restore"), "", 1, "the files have no job 'x'"),
            (("put", "x y"), SYSTEM, 64, 'args.job: found "x y"; a name of 1 to 64'),
            (("put", "x"), "kind = system", 64, 'settings like kind = "system", one a line, are needed (TOML)'),
            (("put", "x"), large, 64, "larger than 64 KiB"),
            (("put", "x"), f"[jobs.x]\n{SYSTEM}[jobs.y]\n{SYSTEM}", 64, "all of them below [jobs.x]"),
            (("put", "x"), f"[jobs.x]\n{SYSTEM}[heartbeat]\nevery = '1s'", 64, "the settings of one job are needed"),
            (("put", "x"), f"[jobs.y]\n{SYSTEM}", 64, "as they are or all of them below [jobs.x]"),
            (("put", "x"), "jobs = 1", 64, "the settings of one job are needed"),
            (("put", "x", "--file", "nowhere"), "", 64, "nowhere: No such file or directory"),
            (("run",), "", 64, "see edge-agent jobs run --help"),
            ((), "", 64, "see edge-agent jobs --help"),
        ):
            found, out, err = await jobs(process, *arguments, stdin=stdin)
            assert (found, out, len(err.splitlines())) == (code, "", 1), err
            assert words in err
        assert process.process is not None
        process.process.terminate()
        process.process.wait()
        code, _, err = await jobs(process, "list")
        assert code == 69
        assert "is it running?" in err


async def test_without_jobs_it_says_how_to_get_some(tmp_path: Path) -> None:
    """In place of an empty table."""
    async with agent(tmp_path, config_text(f"mqtt://127.0.0.1:{free_port()}")) as process:
        await process.logged("started")
        code, out, _ = await jobs(process, "list")
        assert (code, out.splitlines()) == (0, [out.strip()])
        assert "add a table [jobs.NAME]" in out


async def test_on_a_terminal_it_says_what_it_waits_for(tmp_path: Path) -> None:
    """And nothing of that stays."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    text = JOBS.replace('["/bin/echo", "hello"]', json.dumps(["/bin/sh", "-c", 'read _ < "$0"', str(fifo)]))
    async with agent(tmp_path, config_text(f"mqtt://127.0.0.1:{free_port()}", extra=text)) as process:
        await process.logged("started")
        ours, theirs = pty.openpty()
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "edge_agent", "jobs", "run", "fine", "--wait", "--config", str(process.config)),
            stdout=asyncio.subprocess.PIPE,
            stderr=theirs,
        )
        os.close(theirs)
        said = await asyncio.to_thread(os.read, ours, 100)
        assert said.startswith("\r\033[Kfine: running …".encode())
        await asyncio.to_thread(fifo.write_text, "go\n")
        out, _ = await child.communicate()
        assert b"succeeded" in out
        assert os.read(ours, 10_000).endswith(b"\r\033[K")
        os.close(ours)
