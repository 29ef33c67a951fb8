"""What the options of a job may name, and whether every job suits its kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, TypeAlias

from edge_agent.core.config_document import Path
from edge_agent.core.config_findings import nearest, validated
from edge_agent.core.config_models import Config
from edge_agent.core.config_types import NAME_PATTERN, FromText, Section, matching, parse_http_url
from edge_agent.core.units import quoted
from edge_agent.errors import JobError

May: TypeAlias = Literal["read", "delete"]


class Described(Protocol):
    """A kind of job, as far as its options go."""

    @property
    def options(self) -> type[Section]:
        """The model of them."""
        ...


@dataclass(frozen=True, slots=True)
class Reference:
    """Marks an option that names an entry of a table of the local files.

    Attributes:
        table: which.
        needs: what has to be allowed in a folder, given all the options.
    """

    table: Literal["programs", "folders", "endpoints"]
    needs: Callable[[Any], tuple[May, ...]] = lambda _options: ()


def _parse_endpoint(text: str) -> str:
    return text if re.fullmatch(NAME_PATTERN, text) else parse_http_url(text)


_FOLDER = matching(rf"{NAME_PATTERN}|/[^\x00-\x1f\x7f]{{0,1000}}", "the name of a folder or an absolute path")

# not repeated: somebody may have put a command line here, with a secret in it
_PROGRAM = matching(NAME_PATTERN, "the name of a program below [programs]", secret=True)

ProgramName = Annotated[str, _PROGRAM, Reference("programs")]
FolderName = Annotated[str, _FOLDER]
"""To be marked with the ``Reference`` that says what has to be allowed there."""
EndpointName = Annotated[str, FromText(_parse_endpoint, "the name of an endpoint or a URL"), Reference("endpoints")]


def check_jobs(
    config: Config, kinds: Mapping[str, Described], *, remote: Container[str] = ()
) -> Iterator[tuple[Path, str]]:
    """Yield what is wrong with the kinds and options of the jobs, and where.

    Args:
        config: valid but for that.
        kinds: by name; raises ``JobError`` for one that is there and cannot be used.
        remote: names of jobs that come from afar: their options may hold names alone, no paths and URLs.
    """
    for name, job in config.jobs.items():
        at = ("jobs", name)
        try:
            kind = kinds.get(job.kind)
        except JobError as unusable:
            yield (*at, "kind"), str(unusable)
            continue
        if kind is None:
            yield (*at, "kind"), f"unknown kind '{job.kind}'; {nearest(job.kind, sorted(kinds))}"
            continue
        options, found = validated(kind.options, job.options)
        found += [] if options is None else _dangling(options, config, literals=name not in remote)
        if name in remote:
            said = {path for path, _ in found}
            found += [(path, "only local files may say a path") for path in _paths(job.options) if path not in said]
        yield from (((*at, "options", *path), reason) for path, reason in found)


def _dangling(options: Section, config: Config, *, literals: bool) -> Iterator[tuple[Path, str]]:
    """Yield the names in options that no table has, and folders in which too little is allowed."""
    for key, field in type(options).model_fields.items():
        for mark in field.metadata:
            if isinstance(mark, Reference):
                name = getattr(options, key)
                if re.fullmatch(NAME_PATTERN, name):
                    reason = _unresolved(mark, name, options, config)
                else:  # a path or a URL stands for itself; it is not repeated, it may hold a secret
                    reason = "" if literals else f"only local files may say it so; name a table below [{mark.table}]"
                if reason:
                    yield (key,), reason


def _paths(options: object, at: Path = ()) -> Iterator[Path]:
    """Yield where absolute paths stand in options that no ``Reference`` marks, whatever the kind takes them for."""
    inner = options.items() if isinstance(options, dict) else enumerate(options) if isinstance(options, list) else ()
    for key, value in inner:
        if isinstance(value, str) and value.startswith("/"):
            yield (*at, key)
        yield from _paths(value, (*at, key))


def _unresolved(mark: Reference, name: str, options: Section, config: Config) -> str:
    known: Mapping[str, object] = getattr(config, mark.table)
    if name not in known:
        return f"found {quoted(name)}; there is no [{mark.table}.{name}]; {nearest(name, list(known))}"
    missing = [need for need in mark.needs(options) if need not in config.folders[name].may]
    return f'folders.{name}.may does not allow it; add "{missing[0]}"' if missing else ""
