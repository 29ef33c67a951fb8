"""The commands ``config-…``: what is in force, and to read it again."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from edge_agent.command_ports import Call, Command, NoArgs
from edge_agent.commands.agent import Host
from edge_agent.core.config_findings import nearest
from edge_agent.core.config_models import Config
from edge_agent.core.config_types import FromText, Section
from edge_agent.core.redaction import redact
from edge_agent.core.timebase import seconds


def _section(text: str) -> str:
    if text not in Config.model_fields:
        raise ValueError(f"there is no such section; {nearest(text, list(Config.model_fields))}")
    return text


class Which(Section):
    """Of what."""

    section: Annotated[str, FromText(_section, 'a section like "mqtt"')] | None = Field(
        None, description="Only this one, like mqtt; default: all."
    )


class InForce(TypedDict):
    """The configuration in force, templates filled in, without secrets."""

    digest: str
    config: dict[str, Any]


class Reloaded(TypedDict):
    """What is in force now, and whether it is another one than before."""

    digest: str
    changed: bool


def commands(host: Host) -> list[Command]:
    """Return them."""

    async def get(_call: Call, args: Which) -> InForce:
        loaded = host.loaded()
        jobs = {name: job.model_dump(mode="json") for name, (job, _) in host.jobs().items()}
        shown, _ = redact(loaded.config.model_dump(mode="json") | {"jobs": jobs})
        return {
            "digest": loaded.digest,
            "config": {key: part for key, part in shown.items() if args.section in (None, key)},
        }

    async def reload(_call: Call, _args: NoArgs) -> Reloaded:
        changed = await host.reload()
        return {"digest": host.loaded().digest, "changed": changed}

    return [
        Command("config-get", "Show the configuration in force, without secrets.", Which, InForce, get),
        Command(
            "config-reload",
            "Read the configuration files again.",
            NoArgs,
            Reloaded,
            reload,
            "config",
            timeout=seconds(60),
            at_once=1,
        ),
    ]
