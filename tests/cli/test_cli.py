"""The dispatcher, in real child processes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import edge_agent
from edge_agent import cli
from edge_agent.cli import config as configuration
from edge_agent.cli import jobs, queue
from edge_agent.errors import ConfigError, ConfigProblem, EdgeAgentError, UnreachableError

WITHIN_S = 60
MODULE = [sys.executable, "-m", "edge_agent"]


def edge_agent_command(*arguments: str, command: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run it and return what it said."""
    argv = [*(command or MODULE), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=WITHIN_S, check=False, stdin=subprocess.DEVNULL)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return a valid configuration file."""
    path = tmp_path / "x.toml"
    path.write_text('[device]\nid = "gw-1"\n')
    return path


# ---------------------------------------------------------------- what is asked for
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param([], "VERB", id="no-verb"),
        pytest.param(["frobnicate"], "frobnicate", id="unknown-verb"),
        pytest.param(["--frobnicate"], "VERB|frobnicate", id="unknown-option"),
        pytest.param(["check", "--frobnicate"], "--frobnicate", id="unknown-option-of-a-verb"),
        pytest.param(["check", "surplus"], "surplus", id="surplus-argument"),
        pytest.param(["check", "--config"], "--config", id="option-without-its-value"),
        pytest.param(["run", "--password", "x"], "--password", id="a-secret-on-the-command-line"),
        pytest.param([""], "VERB|choice|''", id="empty-verb"),
        pytest.param(["__init__"], "__init__", id="a-module-that-is-no-verb"),
        pytest.param(["loading"], "loading", id="another"),
        pytest.param(["..agent"], "agent", id="a-module-elsewhere"),
    ],
)
def test_what_does_not_exist_is_64_and_one_line(arguments: list[str], said: str) -> None:
    """On stderr, with what is wrong and where help is."""
    done = edge_agent_command(*arguments)
    assert done.returncode == 64
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("edge-agent: ")
    assert re.search(said, line), line
    assert "--help" in line


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_help(verb: str) -> None:
    """It exits with 0, names the verb, and writes nothing to stderr."""
    done = edge_agent_command(verb, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"edge-agent {verb}" in done.stdout


@pytest.mark.parametrize(
    "verb",
    [
        *sorted(set(cli.VERBS) - {"config", "demo", "jobs", "keygen", "queue"}),
        *(f"config {action}" for action in configuration.ACTIONS),
        *(f"jobs {action}" for action in jobs.ACTIONS),
        *(f"queue {action}" for action in queue.ACTIONS),
    ],
)
def test_every_verb_takes_config(verb: str) -> None:
    """But the demo, which makes its own, and keygen, which needs none; where a verb has actions, behind the action."""
    assert "--config" in edge_agent_command(*verb.split(), "--help").stdout


def test_help_lists_every_verb() -> None:
    """With a line for each."""
    done = edge_agent_command("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for verb, text in cli.VERBS.items():
        assert re.search(rf"^ +{verb} +{re.escape(text[:20])}", done.stdout, re.MULTILINE), verb


def test_only_the_verb_that_is_asked_for_is_imported(config: Path) -> None:
    """``check`` needs neither MQTT nor the agent."""
    code = (
        "import sys; from edge_agent.cli import main\n"
        f"assert main(['check', '--config', {str(config)!r}]) == 0\n"
        "print(sorted({name for name in sys.modules if name.split('.')[0] in ('aiomqtt', 'paho', 'iotcore')}))"
    )
    done = edge_agent_command(command=[sys.executable, "-c", code])
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_version_is_the_packages(config: Path) -> None:
    """One line, with or without the rest."""
    for arguments in (["--version"], ["--version", "check", "--config", str(config)]):
        done = edge_agent_command(*arguments)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"edge-agent {edge_agent.__version__}\n", "")


def test_the_module_and_the_script_are_the_same(config: Path) -> None:
    """``python -m edge_agent`` and ``edge-agent``."""
    script = shutil.which("edge-agent", path=str(Path(sys.executable).parent))
    if script is None:
        pytest.skip("the package is not installed")
    for arguments in (["--version"], ["check", "--config", str(config)], ["--help"], ["nonsense"]):
        module, console = (edge_agent_command(*arguments, command=command) for command in (MODULE, [script]))
        assert (module.returncode, module.stdout, module.stderr) == (console.returncode, console.stdout, console.stderr)


# ---------------------------------------------------------------- errors
def test_a_configuration_error_is_a_line_for_each_problem(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From whichever verb; exit 78."""
    problems = [ConfigProblem("/etc/x.toml", "mqtt.brokers", "empty"), ConfigProblem("/etc/y.toml", "", "bad", 3)]
    code = said_by_check(ConfigError(problems), config, monkeypatch)
    assert code == 78
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "edge-agent: /etc/x.toml: mqtt.brokers: empty\nedge-agent: /etc/y.toml:3: bad\n"


def test_every_other_error_is_its_own_exit_code_and_one_line(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """69 for who cannot be reached, 1 for what failed."""
    for error, code in ((UnreachableError("no daemon; start it"), 69), (EdgeAgentError("failed; try again"), 1)):
        assert said_by_check(error, config, monkeypatch) == code
        assert capsys.readouterr() == ("", f"edge-agent: {error}\n")


def test_ctrl_c_is_130_without_a_word(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a shell has it."""
    assert said_by_check(KeyboardInterrupt(), config, monkeypatch) == 130
    assert capsys.readouterr() == ("", "")


def said_by_check(error: BaseException, config: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a verb that raises this, through the dispatcher."""

    def read(_reader: object) -> None:
        raise error

    monkeypatch.setattr("edge_agent.cli.check.ConfigReader.read", read)
    return cli.main(["check", "--config", str(config)])


# ---------------------------------------------------------------- stdout
def to(descriptor: int, *arguments: str) -> tuple[int, str]:
    """Run it with this as stdout; return its exit code and stderr."""
    done = subprocess.run(
        [*MODULE, *arguments], stdout=descriptor, stderr=subprocess.PIPE, text=True, timeout=WITHIN_S, check=False
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["check", "--help"], ["check", "--schema"]], ids=" ".join
)
def test_a_reader_that_went_away_is_no_error(arguments: list[str]) -> None:
    """``edge-agent … | head -0``: exit 0, not a word on stderr."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert to(writing, *arguments) == (0, "")
    finally:
        os.close(writing)


def test_a_reader_of_errors_that_went_away_changes_no_exit_code(config: Path) -> None:
    """``edge-agent … 2>&1 | head -1``, of more errors than a pipe holds: 78 stays 78."""
    config.write_text("".join(f'[jobs.j{number}]\nkind = "nobody"\n' for number in range(100)))
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*MODULE, "check", "--config", str(config)], stderr=writing, timeout=WITHIN_S, check=False
        )
    finally:
        os.close(writing)
    assert done.returncode == 78


def test_a_full_disk_is_one_line_and_no_traceback() -> None:
    """``edge-agent … > file`` on a full disk: not 0, for nothing was written."""
    with Path("/dev/full").open("wb") as full:
        code, said = to(full.fileno(), "check", "--schema")
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1
    assert code == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("arguments", ["--version", "check --config CONFIG"])
def test_closed_standard_streams_make_no_traceback(closed: str, arguments: str, config: Path) -> None:
    """As a careless parent starts its children; argparse then prints the version on stderr."""
    command = " ".join([sys.executable, "-m edge_agent", arguments.replace("CONFIG", str(config)), closed])
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=WITHIN_S, check=False)
    assert done.stderr in {"", f"edge-agent {edge_agent.__version__}\n"}
    assert done.returncode == 0
