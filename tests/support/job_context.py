"""What a run of a job is given, with an outbox that keeps to what ``job_ports.Publish`` promises."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_agent.adapters.system_clock import SystemClock
from edge_agent.core.config_models import Config
from edge_agent.core.timebase import UtcNs, seconds
from edge_agent.errors import OutboxError
from edge_agent.job_ports import Context, Kind, Locals, Publish
from edge_agent.ports import Clock


@dataclass
class Published:
    """The records that were handed in, in order.

    Attributes:
        max_record: bytes of the largest one.
        refusal: what each is answered with from the n-th on, if anything.
    """

    max_record: int = 120 << 10
    refusal: OutboxError | None = None
    after: int = 0
    records: list[Any] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)

    async def __call__(self, data: bytes, *, key: str | None = None) -> str:
        """See ``job_ports.Publish``."""
        await asyncio.sleep(0)
        if key is not None and key in self.keys:
            return self.keys[key]
        if len(data) > self.max_record:
            raise OutboxError(f"the record has {len(data)} bytes", word="too_large")
        if self.refusal is not None and len(self.records) >= self.after:
            raise self.refusal
        self.records.append(json.loads(data))
        name = f"s.{len(self.records)}"
        if key is not None:
            assert 1 <= len(key) <= 256
            self.keys[key] = name
        return name


def context(
    folder: Path,
    publish: Publish | None = None,
    *,
    clock: Clock | None = None,
    job: str = "j",
    grace_s: float = 1,
    max_record: int = 120 << 10,
    **tables: Any,  # noqa: ANN401  # programs, folders, endpoints as they stand in a file
) -> Context:
    """Return what a run gets; ``tables`` are those of the configuration."""
    config = Config.model_validate(tables)
    return Context(
        job=job,
        slot=UtcNs(0),
        trace="0" * 32,
        locals=Locals(config.programs, config.folders, config.endpoints),
        publish=publish or Published(max_record),
        max_record=max_record,
        clock=clock or SystemClock(),
        folders=folder / "own",
        grace_ns=seconds(grace_s),
    )


async def run(kind: Kind, ctx: Context, **options: Any) -> Any:  # noqa: ANN401  # as they stand in a file
    """Run a kind once."""
    return await kind.run(ctx, kind.options.model_validate(options))
