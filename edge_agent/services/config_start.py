"""Which configuration the agent starts with: what the files say, or if that is bad, what was in force last."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from edge_agent.config_ports import ConfigFiles, MemoryStore
from edge_agent.core.cloud_config import Reasons
from edge_agent.core.config import Loaded
from edge_agent.core.config_diff import MAX_TOLD
from edge_agent.core.config_document import Source
from edge_agent.core.config_memory import ConfigMemory, Snapshot, fingerprint
from edge_agent.core.config_remote import Desired
from edge_agent.core.timebase import RawNs
from edge_agent.errors import ConfigError, ConfigProblem

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Begun:
    """What the agent starts with.

    Attributes:
        loaded: the configuration.
        snapshot: how it was said.
        memory: what is remembered of the configuration.
        seen: the ``fingerprint`` of the files as they are.
        rejected: what is wrong with them, if something else than they say is in force.
        unfit: why what the cloud says is not in force, if it is not.
    """

    loaded: Loaded
    snapshot: Snapshot
    memory: ConfigMemory
    seen: str
    rejected: Sequence[ConfigProblem] = ()
    unfit: Reasons = ()


def begin(
    files: ConfigFiles, found: Sequence[Source] | ConfigError, store: MemoryStore, *, boot: str, raw: RawNs
) -> Begun:
    """Return what to start with, and take note of the start where a change from the cloud is on trial.

    Args:
        files: read and parse.
        found: what they hold.
        store: what is remembered.
        boot: the kernel's boot id.
        raw: the counter that goes with it.

    Raises:
        ConfigError: the files are bad, and nothing of theirs was in force before.
    """
    memory = _recall(store, boot=boot, raw=raw)
    begun = _begin(files, found, store, memory)
    own = memory.of(begun.loaded.config.device.id)
    if own.cloud == memory.cloud:
        return begun
    log.warning("config_of_another_device", extra={"device": memory.device})
    return _begin(files, found, store, own)


def _begin(
    files: ConfigFiles, found: Sequence[Source] | ConfigError, store: MemoryStore, memory: ConfigMemory
) -> Begun:
    seen, pin = fingerprint(found), memory.pin
    pinned = store.snapshot(pin.digest) if pin is not None and pin.files == seen else None
    if pinned is not None:
        try:
            loaded, unfit = fit(files, pinned.sources, memory.cloud.layer, starting=True)
        except ConfigError as bad:  # to another version of the agent, perhaps
            report(bad)
        else:
            log.warning("config_pinned", extra={"config": loaded.digest})
            return Begun(loaded, replace(pinned, desired=memory.cloud.layer), memory, seen, unfit=unfit)
    try:
        if isinstance(found, ConfigError):
            raise found
        loaded, unfit = fit(files, found, memory.cloud.layer, starting=True)
        unpinned = replace(memory, pin=None)
        return Begun(loaded, Snapshot(tuple(found), memory.cloud.layer), unpinned, seen, unfit=unfit)
    except ConfigError as bad:
        last = store.snapshot(memory.in_force or "")
        if last is None or last.sources[0].name != files.main:
            raise
        loaded, unfit = fit(files, last.sources, memory.cloud.layer, starting=True)
        report(bad)
        log.warning("config_of_before", extra={"config": loaded.digest, "reason": "the files are not valid"})
        return Begun(loaded, replace(last, desired=memory.cloud.layer), memory, seen, bad.problems, unfit)


def _recall(store: MemoryStore, *, boot: str, raw: RawNs) -> ConfigMemory:
    memory = store.load()
    if memory.cloud.trial is not None:
        memory = replace(memory, cloud=memory.cloud.start(boot=boot, raw=raw))
        try:
            store.save(memory)  # before anything is done with it: it may be what ends the agent
        except OSError as error:
            log.warning("config_not_kept", extra={"reason": str(error)})
            if memory.cloud.trial is not None:  # what ends the agent would do so for ever
                how = f"a start with it cannot be noted on disk, and so it is not started: {error.strerror}"
                memory = replace(memory, cloud=memory.cloud.give_up((("", how),)))
        if memory.cloud.given_up is not None:
            log.error("config_rolled_back", extra={"errors": [reason for _, reason in memory.cloud.given_up]})
    return memory


def fit(
    files: ConfigFiles,
    sources: Sequence[Source],
    desired: Desired | None,
    **how: Any,  # noqa: ANN401  # as parse has it
) -> tuple[Loaded, Reasons]:
    """Return the configuration of files that are valid by themselves, with what the cloud says if that fits them.

    Returns:
        the configuration, and why what the cloud says is not in it.

    Raises:
        ConfigError: the files are not valid.
    """
    alone = files.parse(sources, **how)
    if desired is None:
        return alone, ()
    try:
        return files.parse(sources, desired=desired, **how), ()
    except ConfigError as bad:
        return alone, reasons(bad)


def reasons(bad: ConfigError) -> Reasons:
    """Return what is wrong, by key, as far as it is told."""
    told = tuple((problem.key, problem.reason) for problem in bad.problems[:MAX_TOLD])
    more = len(bad.problems) - MAX_TOLD
    return (*told, ("", f"{more} more")) if more > 0 else told


def report(bad: ConfigError) -> None:
    """Log what is wrong, a line each."""
    for problem in bad.problems:
        log.error("config_rejected", extra=asdict(problem))
