"""The commands' part of the agent: which configuration it goes by, and what it says it obeys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_agent.commanding import Commanding
from edge_agent.core.authority import Authority
from edge_agent.core.config_models import Config
from tests.support.dispatching import Desk, Handlers, StoodClock, incoming

pytestmark = pytest.mark.virtual
KEY = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"


def config(**commands: Any) -> Config:  # noqa: ANN401  # of the section
    """Return the configuration of a device in a group."""
    return Config.model_validate({"device": {"id": "dev-1", "groups": ["plant"]}, "commands": commands})


def commanding(folder: Path, loaded: Config) -> Commanding:
    """Return the part, with the commands of the tests."""
    desk = Desk(folder, {})
    return Commanding(loaded, Handlers().registry(), desk.outbox, clock=StoodClock(), new_name=lambda: "1")


def names(part: Commanding) -> list[str]:
    """Return what it says it obeys."""
    return [one["name"] for one in part.door(config()).advertised()["commands"]]


async def test_what_is_said_to_be_obeyed_is_what_somebody_may_ask_for(tmp_path: Path) -> None:
    """By the list of the section, or of any key; after an edit by the new ones."""
    part = commanding(tmp_path, config(allow=["s*"]))
    assert names(part) == ["see"]
    part.configure(config(allow=["*"]))
    assert names(part) == ["do", "end", "see"]
    keys = {"a": {"public": KEY, "allow": ["do"]}, "b": {"public": KEY}}
    part.configure(config(allow=["end"], keys=keys))
    assert names(part) == ["do", "end"]


async def test_an_edit_changes_whom_is_obeyed(tmp_path: Path) -> None:
    """With a key, only what is signed."""
    part = commanding(tmp_path, config(allow=["see"]))
    assert isinstance(part.dispatcher.authority, Authority)
    _, grant = part.dispatcher.authority.read("see", "_group/plant", b"{}")
    assert grant.allows("see")
    assert not grant.allows("do")
    part.configure(config(allow=["do"], keys={"a": {"public": KEY}}))
    with pytest.raises(Exception, match="signed"):
        part.dispatcher.authority.read("do", "dev-1", b"{}")


async def test_the_door_is_the_devices_and_goes_by_the_newest_configuration(tmp_path: Path) -> None:
    """Where replies may go changes without another door."""
    part = commanding(tmp_path, config())
    door = part.door(config())
    assert (door.topics.device, door.dispatcher) == ("dev-1", part.dispatcher)

    def answers() -> tuple[str, ...]:
        return door.dispatcher.authority.commands.answers

    assert answers() == ()
    part.configure(config(answers=["fleet/#"]))
    assert answers() == ("fleet/#",)
    assert incoming("do").address == "dev-1"
