"""The commands config-…; a reload of a real agent is in tests/commands/test_built_in."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.commands.config import commands
from edge_agent.core.command_request import CommandError
from tests.fakes import FakeClock
from tests.support.commands import asked, host_of

TEXT = (
    '[mqtt]\nusername = "me"\npassword_file = "/run/pw"\n[programs.p]\nargv = ["/bin/x"]\nenv = { TOKEN = "s3cret" }\n'
)


async def test_what_is_in_force_is_shown_without_secrets(tmp_path: Path) -> None:
    """Defaults included; in the words of the files."""
    family = commands(host_of(tmp_path, TEXT, FakeClock()))
    found = await asked(family, "config-get")
    assert found["config"]["programs"]["p"]["env"] == {"TOKEN": "[hidden]"}
    assert "/run/pw" in found["config"]["mqtt"].values()
    assert found["config"]["heartbeat"] == {"every": "1m"}
    assert len(found["digest"]) == 12


async def test_jobs_are_shown_that_were_put_at_run_time(tmp_path: Path) -> None:
    """They are what is in force, in the place of the files'; without secrets, too."""
    family = commands(host_of(tmp_path, '[jobs.j]\nkind = "system"\nevery = "1m"\n', FakeClock()))
    found = (await asked(family, "config-get", {"section": "jobs"}))["config"]["jobs"]
    assert set(found) == {"put"}
    assert (found["put"]["every"], found["put"]["options"]) == ("9s", {"token": "[hidden]"})


async def test_one_section_is_shown_alone(tmp_path: Path) -> None:
    """One that does not exist is named with the nearest that does."""
    family = commands(host_of(tmp_path, TEXT, FakeClock()))
    assert (await asked(family, "config-get", {"section": "heartbeat"}))["config"] == {"heartbeat": {"every": "1m"}}
    with pytest.raises(CommandError, match=r"args\.section: there is no such section; did you mean 'mqtt'"):
        await asked(family, "config-get", {"section": "mqt"})


async def test_a_reload_says_whether_it_has_changed_anything(tmp_path: Path) -> None:
    """And what is in force now."""
    host = host_of(tmp_path, TEXT, FakeClock())
    assert await asked(commands(host), "config-reload") == {"digest": host.loaded().digest, "changed": False}
