"""The registry: what is built in, what other packages bring, and what is said of it."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import Field

from edge_agent.command_ports import Call, Command, NoArgs
from edge_agent.commands import advertised, registry
from edge_agent.core.config_types import Section


async def _nothing(_call: Call, _args: Section) -> None:
    return None


class Args(Section):
    """Some arguments."""

    title: str = Field(description="A title is no title of the schema.")


PING = Command("ping", "Answer.", NoArgs, dict, _nothing)
BROUGHT = Command("brought", "Come from elsewhere.", Args, dict, _nothing, touches="nothing")


def brings(folder: Path, monkeypatch: pytest.MonkeyPatch, group: str = "edge_agent.commands", **points: str) -> None:
    """Install a package ``brings-commands`` that has entry points."""
    info = folder / "brings_commands-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brings-commands\nVersion: 1.0\n")
    lines = "".join(f"{name} = {value}\n" for name, value in points.items())
    (info / "entry_points.txt").write_text(f"[{group}]\n{lines}")
    monkeypatch.syspath_prepend(str(folder))


def test_what_a_package_brings_is_a_command_among_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own name."""
    (tmp_path / "brought_command.py").write_text("from tests.commands.test_registry import BROUGHT\n")
    brings(tmp_path, monkeypatch, b="brought_command:BROUGHT")
    known = registry([PING])
    assert list(known) == ["ping", "brought"]
    assert known["brought"].args.__name__ == "Args"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import no_such_module", "it does not load: ModuleNotFoundError: No module named 'no_such_module'; repair"),
        ("IT = = 1", "it does not load: SyntaxError"),
        ("", "it does not load: AttributeError"),
        ("IT = 1", "it is no edge_agent.command_ports.Command"),
        ("from tests.commands.test_registry import PING as IT", "the name ping is taken"),
        (
            "import dataclasses, tests.commands.test_registry as t; IT = dataclasses.replace(t.PING, name='a/b')",
            "with a name of 1 to 64",
        ),
    ],
)
def test_a_package_that_is_broken_is_named_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: str, words: str
) -> None:
    """The agent starts all the same, and what is built in is not replaced."""
    module = f"broken_command_{abs(hash(code))}"
    (tmp_path / f"{module}.py").write_text(code)
    brings(tmp_path, monkeypatch, b=f"{module}:IT")
    with caplog.at_level(logging.ERROR):
        known = registry([PING])
    assert dict(known) == {"ping": PING}
    (line,) = caplog.records
    assert (line.message, line.__dict__["package"]) == ("command_unusable", "brings-commands")
    assert words in line.__dict__["reason"]


def test_where_nobody_brings_any_the_metadata_is_not_read() -> None:
    """It would cost 1 MiB."""
    code = (
        "import sys; from edge_agent.cli.lean import defer_unused; defer_unused(); "
        "from edge_agent.commands import registry; assert registry([]) == {}; sys.exit('email' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_is_advertised_is_what_is_allowed_with_the_schema_of_its_arguments() -> None:
    """For tools that build a form from it."""
    found = advertised({"brought": BROUGHT, "ping": PING}, lambda name: name == "brought")
    assert found == {
        "commands": [
            {
                "name": "brought",
                "summary": "Come from elsewhere.",
                "args": {
                    "description": "Some arguments.",
                    "type": "object",
                    "properties": {
                        "title": {"type": "string", "description": "A title is no title of the schema."},
                    },
                    "required": ["title"],
                    "additionalProperties": False,
                },
                "idempotent": True,
                "timeout_s": 30.0,
                "touches": "nothing",
            }
        ]
    }
