"""The kind ``files`` at work on a real outbox, to be killed; and what a consumer has of it in the end."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from edge_agent.core.submission import Submission
from edge_agent.jobs.files import KIND
from tests.fakes import FakeBroker
from tests.support.job_context import context, run
from tests.support.killing import Report
from tests.support.outbox_worker import running


def own_folder(folder: Path) -> Path:
    """Return where the job keeps what has to survive."""
    return folder / "own" / "j"


async def _work(folder: Path, report: Report, options: dict[str, Any], *, for_ever: bool) -> None:
    async with running(folder / "state", looks_after=False) as one:

        async def publish(data: bytes, *, key: str | None = None) -> str:
            return await one.outbox.accept(Submission("data/j", data, key=key))

        ctx = context(folder, publish, folders={"in": {"path": str(folder / "in"), "may": ["read", "delete"]}})
        assert ctx.folder == own_folder(folder)
        report(b"R")
        await run(KIND, ctx, folder="in", **options)
        while for_ever:
            await asyncio.sleep(0.005)
            await run(KIND, ctx, folder="in", **options)


def for_ever(report: Report, folder: str, options: str) -> None:
    """Be the worker that is killed: one run after another."""
    asyncio.run(_work(Path(folder), report, json.loads(options), for_ever=True))


def once(report: Report, folder: str, options: str) -> None:
    """Be the worker that ends: one run."""
    asyncio.run(_work(Path(folder), report, json.loads(options), for_ever=False))


async def consumed(folder: Path) -> list[Any]:
    """Send all that is in the outbox, and return the data of each event that a consumer has, repeats dropped."""
    broker, events = FakeBroker(), dict[str, Any]()
    async with running(folder / "state", broker=broker, looks_after=False) as one:
        await one.until(lambda: one.outbox.online and not one.outbox.state.records, within_s=120)
    for message in broker.log:
        if message.topic.endswith("/up/data/j"):
            event = json.loads(message.payload)
            events.setdefault(event["id"], event["data"])
    return list(events.values())
