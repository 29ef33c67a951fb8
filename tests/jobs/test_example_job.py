"""The example package of docs/jobs.md, installed and used as a user would."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest

EXAMPLE: Final = Path(__file__).parents[2] / "docs/examples/edge_agent_example_job"
ROOT: Final = Path(__file__).parents[2]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Return a folder with the package installed: what pip would unpack there, made from its pyproject.toml.

    Without pip and its build backend, which tests may not have and which would want a network.
    """
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())
    about, folder = project["project"], tmp_path / "target"
    info = folder / f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in about["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups))
    for name in project["tool"]["hatch"]["build"]["targets"]["wheel"]["include"]:
        shutil.copy(EXAMPLE / name, folder)
    return folder


def python(target: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python where the package is installed."""
    environ = os.environ | {"PYTHONPATH": os.pathsep.join((str(target), str(ROOT)))}
    return subprocess.run(
        [sys.executable, *arguments], env=environ, capture_output=True, text=True, timeout=60, check=False
    )


def check(target: Path, options: str) -> subprocess.CompletedProcess[str]:
    """Run ``edge-agent check`` on a job of the package's kind."""
    config = target.parent / "edge-agent.toml"
    config.write_text(
        f'[device]\nid = "d"\n[jobs.gateway]\nkind = "reach"\nevery = "1m"\n[jobs.gateway.options]\n{options}'
    )
    return python(target, "-m", "edge_agent", "check", "--config", str(config))


def test_its_kind_is_known_where_it_is_installed(target: Path) -> None:
    """And its options are checked in the same words as all others."""
    good = check(target, 'host = "192.0.2.1"\nport = 502\n')
    assert (good.returncode, good.stderr) == (0, "")
    bad = check(target, 'hots = "192.0.2.1"\nport = 70000\n')
    assert bad.returncode == 78
    assert "jobs.gateway.options.host: this key is needed" in bad.stderr
    assert "jobs.gateway.options.port: found 70000; 1 to 65535 is allowed" in bad.stderr
    assert "jobs.gateway.options.hots: unknown key 'hots'; did you mean 'host'?" in bad.stderr


def test_elsewhere_it_is_not_known(target: Path) -> None:
    """The error names the kinds that there are."""
    elsewhere = target.parent / "empty"
    elsewhere.mkdir()
    assert check(target, 'host = "h"\nport = 1\n').returncode == 0
    config = str(target.parent / "edge-agent.toml")
    bad = python(elsewhere, "-m", "edge_agent", "check", "--config", config)
    assert bad.returncode == 78
    assert "jobs.gateway.kind: unknown kind 'reach'; known here: exec, files, http, prune, system" in bad.stderr


def test_it_runs(target: Path) -> None:
    """It publishes what it measured; without a server it fails with the reason."""
    code = (
        "import asyncio, json, sys; from pathlib import Path\n"
        "from edge_agent.errors import JobError\nfrom edge_agent.jobs import kinds\n"
        "from tests.support.job_context import Published, context, run\n"
        "published = Published()\nctx = context(Path('/nowhere'), published)\n"
        "try: asyncio.run(run(kinds()['reach'], ctx, host='127.0.0.1', port=int(sys.argv[1])))\n"
        "except JobError as error: sys.exit(str(error))\n"
        "print(json.dumps(published.records))"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = python(target, "-c", code, str(port))
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)
    assert (record["host"], record["port"]) == ("127.0.0.1", port)
    assert record["ms"] > 0
    done = python(target, "-c", code, str(port))
    assert (done.returncode, done.stderr.strip()) == (1, f"127.0.0.1:{port}: Connect call failed ('127.0.0.1', {port})")
