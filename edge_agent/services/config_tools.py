"""What may be asked of the configuration over the control socket: what is in force and why, and to go back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from pydantic import Field

from edge_agent.command_ports import NoArgs
from edge_agent.core.config_diff import dump, leaves, shown
from edge_agent.core.config_document import dotted
from edge_agent.core.config_jobs import Job
from edge_agent.core.config_types import Section
from edge_agent.core.job_entry import Origin
from edge_agent.core.redaction import redact
from edge_agent.core.timebase import rfc3339
from edge_agent.errors import ConfigError
from edge_agent.services.configuring import Configuring
from edge_agent.services.control import Method, method


class Which(Section):
    """To which configuration."""

    digest: str | None = Field(
        None, description="Of one in the history; default: the one before.", pattern="^[0-9a-f]{12}$"
    )


class ConfigTools:
    """Shows the configuration, and goes back."""

    def __init__(self, configuring: Configuring, jobs: Callable[[], Mapping[str, tuple[Job, Origin]]]) -> None:
        """Prepare.

        Args:
            configuring: changes the configuration.
            jobs: returns the jobs that there are, and who says so.
        """
        self._configuring = configuring
        self._jobs = jobs

    def methods(self) -> dict[str, Method]:
        """Return what may be asked."""
        return {
            "config-show": method(NoArgs, self._show),
            "config-diff": method(NoArgs, self._diff),
            "config-history": method(NoArgs, self._history),
            "config-rollback": method(Which, self._roll_back),
        }

    async def _show(self, _args: NoArgs) -> object:
        now, jobs = self._configuring.now, self._jobs()
        config = dump(now.loaded.config)
        config["jobs"] = {name: job.model_dump(mode="json", exclude_none=True) for name, (job, _) in jobs.items()}
        put = {name for name, (_, origin) in jobs.items() if origin == "runtime"}
        origins = {
            dotted(path): "put at run time"
            if path[0] == "jobs" and not put.isdisjoint(path[1:2])
            else now.loaded.origins.get(path, "default")
            for path, _ in leaves(config)
        }
        return {
            "digest": now.loaded.digest,
            "since": rfc3339(now.since),
            "version": now.loaded.version,
            "cloud": self._configuring.said(),
            "conditions": self._configuring.conditions(),
            "config": redact(config)[0],
            "origins": origins,
        }

    async def _diff(self, _args: NoArgs) -> object:
        try:
            new = self._configuring.compare()
        except ConfigError as bad:
            return {"changes": [], "pending": [], "errors": [asdict(problem) for problem in bad.problems]}
        changes = shown(self._configuring.now.loaded.config, new.config)
        return {"changes": changes, "pending": list(new.pending), "errors": []}

    async def _history(self, _args: NoArgs) -> object:
        kept, history = self._configuring.kept(), self._configuring.now.memory.history
        entries: list[dict[str, Any]] = [entry.document() | {"kept": entry.digest in kept} for entry in history]
        return {"digest": self._configuring.now.loaded.digest, "entries": entries}

    async def _roll_back(self, args: Which) -> object:
        changed = await self._configuring.roll_back(args.digest)
        return {"digest": self._configuring.now.loaded.digest, "changed": changed}
