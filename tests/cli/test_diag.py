"""The verb diag, as a process of its own, on a running agent, on a stopped one, and on a broken configuration."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.test_queue import edge_agent
from tests.support.agents import agent, config_text
from tests.support.brokers import free_port

SECRET = "s3cret-Wort"  # noqa: S105
EXTRA = f'[programs.p]\nargv = ["/bin/x"]\nenv = {{ PW = "{SECRET}" }}\n'


async def test_it_writes_what_is_known_with_and_without_an_agent(tmp_path: Path) -> None:
    """To a file or to stdout, and never a secret."""
    password = tmp_path / "pw"
    password.write_text(SECRET)
    text = config_text(f"mqtt://127.0.0.1:{free_port()}", extra=EXTRA, username="u", password_file=str(password))
    async with agent(tmp_path, text) as process:
        await process.logged("started")
        file = tmp_path / "diag.json"
        assert (await edge_agent(process, "diag", "--file", str(file)))[:2] == (0, "")
        found = json.loads(file.read_text())
        assert found["agent-status"]["agent"]["pid"] == process.pid
        assert any(line["event"] == "started" for line in found["log"])
        assert found["cut"] == {}
        assert SECRET not in file.read_text()
        assert process.process is not None
        process.process.terminate()
        process.process.wait()
        code, out, err = await edge_agent(process, "diag")
        found = json.loads(out)
        assert (code, SECRET in out) == (0, False)
        assert "is it running?" in found["agent"]
        assert "is it running?" in err
        assert found["config"]["programs"]["p"]["env"] == {"PW": "[hidden]"}
        assert {"python", "kernel"} <= set(found["versions"])
        assert found["disk"]["free"] > 0
        process.config.write_text("x = 1")
        code, out, _ = await edge_agent(process, "diag")
        assert code == 0
        assert "unknown key 'x'" in json.loads(out)["config"][0]
