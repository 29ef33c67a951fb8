"""Jobs, and what they may name: programs, folders and endpoints."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from edge_agent.core.config_types import (
    AbsolutePath,
    FromText,
    HttpUrl,
    Listed,
    Name,
    Section,
    Zone,
    duration,
    matching,
    size,
)
from edge_agent.core.cron import translate
from edge_agent.core.timebase import DurationNs, UtcNs, rfc3339
from edge_agent.core.units import INSTANT_PATTERN, parse_instant


def _parse_cron(text: str) -> str:
    translate(text)
    return " ".join(text.split())


_ARGUMENT: Final = matching(r"[^\x00]{1,4096}", "a text of 1 to 4096 characters without NUL", secret=True)
_VALUE: Final = matching(r"[^\x00]{0,4096}", "a text of at most 4096 characters without NUL", secret=True)
_VARIABLE: Final = matching(r"[A-Za-z_][A-Za-z0-9_]{0,127}", 'the name of a variable like "LANG"')
_KIND: Final = matching(r"[A-Za-z][A-Za-z0-9_-]{0,63}", 'the name of a kind like "system"')

_WHEN: Final = ("every", "cron", "at", "after")

Instant = Annotated[
    UtcNs, FromText(parse_instant, 'a time like "2026-12-01T00:00:00Z"', show=rfc3339, pattern=INSTANT_PATTERN)
]
Cron = Annotated[str, FromText(_parse_cron, 'a cron expression like "*/5 * * * *"')]


class Program(Section):
    """A program that jobs and commands may run."""

    argv: Listed[Annotated[str, _ARGUMENT]] = Field(
        min_length=1, max_length=256, description="The program and its arguments; no shell."
    )
    env: dict[Annotated[str, _VARIABLE], Annotated[str, _VALUE]] = Field(
        {}, description="Its environment, with PATH and LANG; it has nothing of ours."
    )
    cwd: AbsolutePath | None = Field(
        None, description="Where it runs; default: the job's own folder below the state directory."
    )
    timeout: DurationNs | None = duration(None, "100ms", "7d", "Longest run; default: the job's or command's")
    max_output: int = size("64KiB", "0B", "16MiB", "What is kept of its output")


class Folder(Section):
    """A folder that jobs may read or prune."""

    path: AbsolutePath = Field(description="Where it is.")
    may: Listed[Literal["read", "delete"]] = Field(("read",), description="What jobs may do there.")


class Endpoint(Section):
    """A URL that the kind http may ask."""

    url: HttpUrl = Field(description="http or https URL.")


class Runner(Section):
    """How many jobs run at once."""

    max_concurrent: int = Field(4, ge=1, le=64, description="Jobs that run at the same time.")
    max_waiting: int = Field(64, ge=0, le=10_000, description="Runs that wait for a place.")


class Retry(Section):
    """What follows a failed run."""

    attempts: int = Field(1, ge=1, le=100, description="Attempts per run, the first included; 1: no retry.")
    backoff: DurationNs = duration("5s", "100ms", "1d", "First pause, doubled each time")


class Breaker(Section):
    """When a job that fails again and again is left alone for a while."""

    failures: int = Field(5, ge=1, le=1000, description="Failed runs in a row that open it.")
    cooldown: DurationNs = duration("5m", "1s", "7d", "How long it stays open")


class Job(Section):
    """One job: what it does, when, and what becomes of runs that fail or are missed."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": [key]} for key in _WHEN],
            "dependentRequired": {"fallback": ["breaker"]},
        }
    )

    kind: Annotated[str, _KIND] = Field(description="system, exec, files, prune, http, or one from an entry point.")
    every: DurationNs | None = duration(None, "100ms", "3650d", "Interval")
    cron: Cron | None = Field(None, description="5 cron fields, or 6 with seconds first, or @daily and the like.")
    at: Instant | None = Field(None, description="Once, at this time; RFC 3339.")
    after: DurationNs | None = duration(None, "0s", "3650d", "Once, that long after it was put")
    splay: DurationNs | None = duration(None, "0s", "3650d", "Spread over the fleet; default: every, else 0s")
    timezone: Zone | None = Field(None, description="Time zone of cron; default: device.timezone.")
    timeout: DurationNs = duration("20s", "100ms", "7d", "Longest attempt")
    priority: Literal["critical", "normal", "bulk"] = Field(
        "normal", description="Of its records, and in the waiting line."
    )
    misfire: Literal["skip", "run_once", "run_all"] = Field("skip", description="What becomes of missed runs.")
    misfire_window: DurationNs = duration("1d", "1s", "3650d", "Runs missed longer ago are skipped")
    guarantee: Literal["at_most_once", "at_least_once"] = Field(
        "at_most_once", description="What holds when a crash cuts a run off."
    )
    durability: Literal["auto", "always"] = Field("auto", description="always: disk first, even online.")
    grace: DurationNs = duration("5s", "0s", "5m", "Time to end before it is killed")
    overlap: Literal["skip", "queue", "cancel"] = Field("skip", description="When it is due while it still runs.")
    keep: Literal["all", "latest"] = Field("all", description="latest: a newer unsent record replaces an older one.")
    enabled: bool = Field(default=True, description="Whether it is scheduled.")
    fallback: Name | None = Field(None, description="Job run instead while the breaker is open.")
    retry: Retry = Field(Retry.model_construct(), description="What follows a failed run.")
    breaker: Breaker | None = Field(None, description="When it is left alone for a while; default: never.")
    options: dict[str, object] = Field({}, description="The kind's own.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = [key for key in _WHEN if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of every, cron, at, after is needed; found {', '.join(given) or 'none'}")
        if self.fallback is not None and self.breaker is None:
            raise ValueError("found fallback alone; fallback needs a breaker table: it runs while the breaker is open")
        return self
