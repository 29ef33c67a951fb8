"""What may be asked of the configuration over the control socket: what is in force and why, and to go back."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Annotated, Any, Final

from pydantic import Field

from edge_agent.command_ports import NoArgs
from edge_agent.core.config_diff import dump, leaves, shown
from edge_agent.core.config_document import Layer, dotted, merge
from edge_agent.core.config_jobs import Job
from edge_agent.core.config_types import FromText, Section
from edge_agent.core.job_entry import Origin
from edge_agent.core.redaction import redact
from edge_agent.core.timebase import rfc3339
from edge_agent.core.units import quoted
from edge_agent.errors import ConfigError
from edge_agent.services.configuring import Configuring
from edge_agent.services.control import Method, method

_DIGEST_NEEDED: Final = "a digest of 12 hex digits, as config history shows them,"


def _digest(text: str) -> str:
    if re.fullmatch(r"[0-9a-f]{12}", text) is None:
        raise ValueError(f"found {quoted(text)}; {_DIGEST_NEEDED} is needed")
    return text


class Which(Section):
    """To which configuration."""

    digest: Annotated[str, FromText(_digest, _DIGEST_NEEDED)] | None = Field(
        None, description="Of one in the history; default: the one before."
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
        config, _ = merge([Layer("put", config)])  # what came as JSON may have null in its options, which TOML has not
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
        found: dict[str, Any] = {"changes": [], "pending": [], "unfit": [], "errors": []}
        now = self._configuring.now.loaded.config
        try:
            new, unfit = self._configuring.compare()
            restarted, _ = self._configuring.compare(restarting=True)
        except ConfigError as bad:
            found["errors"] = [asdict(problem) for problem in bad.problems]
        else:
            later = [change for change in shown(now, restarted.config) if change["key"] in new.pending]
            found["changes"] = shown(now, new.config) + later
            found["pending"] = list(new.pending)
            found["unfit"] = [{"key": key, "reason": reason} for key, reason in unfit]
        return found | {"conditions": self._configuring.conditions()}

    async def _history(self, _args: NoArgs) -> object:
        kept, history = self._configuring.kept(), self._configuring.now.memory.history
        entries = [entry.document() | {"kept": entry.digest in kept} for entry in reversed(history)]
        return {"digest": self._configuring.now.loaded.digest, "entries": entries}

    async def _roll_back(self, args: Which) -> object:
        before = self._configuring.now.loaded
        changed = await self._configuring.roll_back(args.digest)
        now = self._configuring.now
        return {
            "digest": now.loaded.digest,
            "changed": changed,
            "before": before.digest,
            "version": now.loaded.version,
            "changes": shown(before.config, now.loaded.config),
            "pinned": now.memory.pin is not None,
            "pending": list(now.loaded.pending),
        }
