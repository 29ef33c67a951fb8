"""The verb config, as a process of its own, on a running agent."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from edge_agent.cli.config import ACTIONS
from edge_agent.core.config import HostFacts, parse
from edge_agent.core.config_document import Source
from tests.agent.test_configuration import desire, told
from tests.cli.test_queue import edge_agent
from tests.support.agents import AgentProcess, agent, config_text, observer
from tests.support.brokers import mosquitto

JOB = 'kind = "system"\nevery = "2h"\n'
PROGRAM = '[programs]\np.argv = ["/bin/true", "--key=hunter2hunter2"]\n'


async def config(process: AgentProcess, *arguments: str) -> tuple[int, str, str]:
    """Run the verb; return exit code, stdout and stderr."""
    return await edge_agent(process, "config", *arguments)


async def as_json(process: AgentProcess, *arguments: str) -> Any:  # noqa: ANN401  # as JSON has it
    """Return what the verb says to programs."""
    code, out, err = await config(process, *arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def settings(every: str = "7s", *, extra: str = "") -> str:
    """Return a configuration without a broker."""
    return config_text("mqtt://127.0.0.1:1", every=every, extra=extra)


async def edited(
    process: AgentProcess,
    text: str,
    event: str,
    count: int = 1,
    **fields: Any,  # noqa: ANN401  # as the log has them
) -> None:
    """Change the file, and wait until the agent says what has become of it."""
    process.config.write_text(text)
    await process.logged(event, count, **fields)


async def restarted(process: AgentProcess, count: int) -> None:
    """Stop the agent gracefully, and start it again."""
    assert process.process is not None
    process.process.terminate()
    assert await process.wait() == 0
    process.start()
    await process.logged("started", count)


async def test_what_is_shown_can_be_loaded_again(tmp_path: Path) -> None:
    """It makes the same configuration, but for secrets, which are hidden, and named."""
    async with agent(tmp_path, 'profile = "metered"\n' + settings(extra=PROGRAM)) as process:
        await process.logged("started")
        code, out, _ = await config(process, "show")
        assert code == 0
        assert "hunter2" not in out
        assert "# [hidden] stands for what may be secret: programs.p.argv\n" in out
        assert re.match(r"# digest [0-9a-f]{12}, in force since 20\S{17}Z; nothing from the cloud\n", out)
        again = parse([Source("x.toml", out.replace("[hidden]", "--key=hunter2hunter2").encode())], HostFacts())
        found = await as_json(process, "show")
        assert again.digest == found["digest"]
        assert tomllib.loads(out) == found["config"]

        _, out, _ = await config(process, "show", "--origin")
        assert tomllib.loads(out) == found["config"]
        lines = out.splitlines()
        assert f'heartbeat.every = "7s"  # {process.config}' in lines
        assert f'state.dir = "{tmp_path}/state"  # {tmp_path}/edge-agent.d/00-places.toml' in lines
        assert 'mqtt.keepalive = "20m"  # profile metered' in lines
        assert 'mqtt.prefix = "edge"  # default' in lines

        _, out, _ = await config(process, "show", "heartbeat")
        assert tomllib.loads(out) == {"heartbeat": {"every": "7s"}}
        found = await as_json(process, "show", "heartbeat", "--origin")
        assert found["origins"] == {"heartbeat.every": str(process.config)}
        assert set(found) == {"digest", "since", "version", "cloud", "conditions", "config", "origins"}


async def test_origins_stand_below_each_other_on_a_terminal(tmp_path: Path) -> None:
    """But beside a long value, where they stand behind it."""
    async with agent(tmp_path, settings()) as process:
        await process.logged("started")
        ours, theirs = os.openpty()
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "edge_agent", "config", "show", "commands", "--origin"),
            *("--config", str(process.config)),
            stdout=theirs,
        )
        assert await child.wait() == 0
        os.close(theirs)
        lines = os.read(ours, 10_000).decode().splitlines()
        os.close(ours)
        assert lines[-3:] == [
            'commands.allow = ["ping", "*-status", "*-list", "*-get", "queue-stat", "job-run"]  # default',
            "commands.answers = []  # default",
            "commands.keys = {}     # default",
        ]


async def test_it_is_shown_who_says_what(tmp_path: Path) -> None:
    """The cloud, and whoever puts a job at run time; what became of the cloud's versions stands above."""
    async with (
        mosquitto(tmp_path) as broker,
        observer(broker.url) as seen,
        agent(tmp_path, config_text(broker.url)) as process,
    ):
        await told(seen, "applied", None)
        await desire(seen, 7, heartbeat={"every": "9s", "colour": "red"}, jobs={"a": {"kind": "system", "every": "1h"}})
        await told(seen, "applied", 7)
        assert (await edge_agent(process, "jobs", "put", "b", stdin=JOB.encode()))[0] == 0
        _, out, _ = await config(process, "show", "--origin")
        first, ignored, *_ = lines = out.splitlines()
        assert first.endswith("; cloud version 7, applied")
        assert ignored == "# ignored, for this version does not know it: heartbeat.colour"
        assert 'heartbeat.every = "9s"  # cloud version 7' in lines
        assert 'jobs.a.every = "1h"  # cloud version 7' in lines
        assert 'jobs.b.every = "2h"  # put at run time' in lines
        assert 'jobs.b.timeout = "20s"  # put at run time' in lines
        _, out, _ = await edge_agent(process, "status")
        assert re.search(r"^config .*; last changed 20\S+Z by cloud; cloud version 7, applied$", out, re.MULTILINE)

        await desire(seen, 8, heartbeat={"every": "9ms"})
        await told(seen, "rejected", 8)
        _, out, _ = await config(process, "show", "heartbeat")
        first, why, do, *_ = out.splitlines()
        assert first.endswith("; cloud version 8, rejected; of the cloud's, version 7 is in force")
        assert why.startswith('# rejected: heartbeat.every: found "9ms"; ')
        assert do == "# rejected: correct it, and publish it with a larger version"

        code, out, _ = await config(process, "rollback")
        assert code == 0
        undo = r"to undo it: edge-agent config rollback [0-9a-f]{12}\n"
        assert re.search(rf"note: it is what the files say, too; {undo}$", out)
        _, out, _ = await config(process, "show")
        assert "; cloud version 7, rolled_back; of the cloud's, nothing is in force\n# rolled_back: " in out
        assert set(tomllib.loads(out)["jobs"]) == {"b"}


async def test_a_rollback_holds_until_the_files_are_changed(tmp_path: Path) -> None:
    """Over a restart, too; what the files say meanwhile is the difference, and an edit puts it in force."""
    async with agent(tmp_path, settings("7s")) as process:
        await process.logged("started")
        await edited(process, settings("8s", extra="[outbox]\nrate = 7\n"), "config_applied")
        now, before = (await as_json(process, "history"))["entries"]
        assert [now["in_force"], before["in_force"]] == [True, False]
        code, out, _ = await config(process, "rollback")
        assert code == 0
        undo = f"to undo it: edge-agent config rollback {now['digest']}"
        assert out.splitlines() == [
            f"{before['digest']} is in force, in the place of {now['digest']}",
            'heartbeat.every: "8s" -> "7s"',
            "outbox.rate: 7 -> 80",
            f"note: it holds until the files are changed again, over restarts, too; {undo}, or edit them",
        ]
        await restarted(process, 2)
        _, out, _ = await config(process, "show", "heartbeat")
        assert tomllib.loads(out)["heartbeat"]["every"] == "7s"
        assert "\n# config_rolled_back: by hand; the files count again once they are changed: " in out
        assert re.search(r"^ +config_rolled_back; see", (await edge_agent(process, "status"))[1], re.MULTILINE)
        _, out, _ = await config(process, "diff")
        assert out.splitlines() == [
            'heartbeat.every: "7s" -> "8s"',
            "outbox.rate: 80 -> 7",
            "note: config_rolled_back: by hand; the files count again once they are changed",
        ]
        done = await as_json(process, "rollback", now["digest"])
        assert (done["digest"], done["changed"], done["pinned"]) == (now["digest"], True, False)
        assert (await config(process, "rollback", now["digest"]))[1] == f"{now['digest']} was in force already\n"
        assert (await config(process, "diff"))[:2] == (0, "nothing: what the files say is in force\n")
        await config(process, "rollback", before["digest"])
        await edited(process, settings("9s"), "config_applied", 2, by="files")
        assert (await as_json(process, "show", "heartbeat"))["conditions"] == []
        found = await as_json(process, "history")
        assert [entry["by"] for entry in found["entries"]] == ["files", *["rollback"] * 3, "files", "start"]


async def test_the_history_names_what_was_changed(tmp_path: Path) -> None:
    """A line for each change, the newest first; with a digest or --keys all of its keys."""
    async with agent(tmp_path, settings("7s")) as process:
        await process.logged("started")
        await edited(process, settings("8s", extra='[log]\nformat = "json"\n'), "config_applied")
        found = await as_json(process, "history")
        digest, first = (entry["digest"] for entry in found["entries"])
        assert found["digest"] == digest
        _, out, _ = await config(process, "history")
        title, *rows = out.splitlines()
        assert title.split() == ["time", "digest", "by", "cloud", "keys", "first", "kept"]
        assert re.fullmatch(rf"\*  20\S+Z  {digest}  files  -      2     heartbeat\.every  yes", rows[0])
        assert re.fullmatch(rf"   20\S+Z  {first}  start  -      0     -                yes", rows[1])
        _, out, _ = await config(process, "history", digest)
        assert re.fullmatch(rf"20\S+Z {digest} by files; in force", out.splitlines()[0])
        changes = ['  heartbeat.every: "7s" -> "8s"', '  log.format: not set -> "json"']
        assert out.splitlines()[1:] == changes
        _, out, _ = await config(process, "history", "--keys")
        assert out.splitlines()[1:3] == changes
        assert out.splitlines()[3].endswith(f"Z {first} by start; can be gone back to")


async def test_bad_files_are_named_as_check_names_them(tmp_path: Path) -> None:
    """Also where the file that names the socket is bad: the agent runs, and is asked where it is."""
    async with agent(tmp_path, settings("7s")) as process:
        await process.logged("started")
        for bad, key in ((settings("1ms") + "[a]\n", "a"), ("[heartbeat\n", "")):
            await edited(process, bad, "config_rejected", key=key)
            code, out, err = await config(process, "diff")
            assert (code, out) == (78, "")
            assert err == (await edge_agent(process, "check"))[2]
            code, out, _ = await config(process, "diff", "--json")
            assert (code, len(json.loads(out)["errors"])) == (78, err.count("\n"))
            _, out, _ = await config(process, "show", "heartbeat")
            assert tomllib.loads(out)["heartbeat"]["every"] == "7s"
            assert "\n# config_rejected: the files are not valid, and what was in force before still is: " in out
        await edited(process, settings("8s"), "config_applied")
        assert (await as_json(process, "show"))["conditions"] == []


async def test_what_waits_for_a_restart_is_marked(tmp_path: Path) -> None:
    """With the value that it will have."""
    async with agent(tmp_path, settings("7s")) as process:
        await process.logged("started")
        await edited(process, settings("8s").replace("dev-1", "dev-2"), "config_pending")
        waits = "waits for a restart: systemctl restart edge-agent"
        assert (await config(process, "diff"))[1] == f'device.id: "dev-1" -> "dev-2" ({waits})\n'
        _, out, _ = await config(process, "show", "device", "--origin")
        assert 'device.id = "dev-1"  # until a restart' in out.splitlines()
        assert "\n# restart_needed: device.id: the files have changed it, and only a restart does: " in out
        _, out, _ = await config(process, "rollback")
        assert "device.id" not in out
        await restarted(process, 2)
        assert (await as_json(process, "show"))["config"]["device"]["id"] == "dev-1"


async def test_what_is_wrong_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    """1 if the agent refuses, 64 if it cannot be asked, 69 if it is not there."""
    async with agent(tmp_path, settings()) as process:
        await process.logged("started")
        for arguments, code, words in (
            (("rollback",), 1, "there is no such configuration to go back to; see edge-agent config history"),
            (("rollback", "0" * 12), 1, "there is no such configuration to go back to"),
            (("rollback", "x"), 64, 'args.digest: found "x"; a digest of 12 hex digits'),
            (("history", "x"), 1, "'x' is not in the history"),
            (("show", "mqqt"), 64, "there is no section 'mqqt'; did you mean 'mqtt'?"),
            ((), 64, "see edge-agent config --help"),
        ):
            found, out, err = await config(process, *arguments)
            assert (found, out, len(err.splitlines())) == (code, "", 1), err
            assert words in err
        assert process.process is not None
        process.process.terminate()
        process.process.wait()
        for action in ACTIONS:
            code, out, err = await config(process, action)
            assert (code, out, len(err.splitlines())) == (69, "", 1)
            assert "is it running?" in err


@pytest.mark.parametrize("action", ACTIONS)
async def test_each_action_has_its_help(tmp_path: Path, action: str) -> None:
    """It says what the action does, and names its options."""
    process = AgentProcess(tmp_path / "x.toml", tmp_path / "log")
    code, out, _ = await config(process, action, "--help")
    text, _, options = ACTIONS[action]
    assert code == 0
    assert text[1:] in " ".join(out.split())
    assert all(option.strip("-").upper() in out.upper() for option in (*options, "--json", "--socket"))
