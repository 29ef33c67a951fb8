"""The kinds of job by name: one module each, imported when a configuration first names it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from edge_agent.errors import JobError
from edge_agent.job_ports import Kind

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

BUILT_IN: Final = ("system", "exec", "files", "prune", "http")
GROUP: Final = "edge_agent.jobs"
"""The entry points of other packages that bring kinds."""


class _Kinds(Mapping[str, Kind]):
    """See ``kinds``."""

    def __init__(self) -> None:
        self._loaded: dict[str, Kind] = {}

    @override
    def __getitem__(self, name: str) -> Kind:
        if name not in self._loaded:
            self._loaded[name] = (
                import_module(f"{__name__}.{name}").KIND if name in BUILT_IN else _brought(self._points[name])
            )
        return self._loaded[name]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*BUILT_IN, *sorted(self._points))))

    @override
    def __len__(self) -> int:
        return sum(1 for _ in self)

    @cached_property
    def _points(self) -> Mapping[str, EntryPoint]:
        """What packages bring; looked for once, for that takes milliseconds, and somebody may name a thousand kinds."""
        from importlib.metadata import entry_points  # noqa: PLC0415  # 1 MiB that few need

        return {point.name: point for point in reversed(tuple(entry_points(group=GROUP)))}


def kinds() -> Mapping[str, Kind]:
    """Return the kinds, each loaded when it is first asked for.

    To ask raises ``JobError`` for a kind that is installed and cannot be used: the message says which package is at
    fault.
    """
    return _Kinds()


def _brought(point: EntryPoint) -> Kind:
    """Return the kind that a package brings."""
    package = point.dist.name if point.dist else point.module
    try:
        kind = point.load()
    except Exception as error:  # somebody else's code: whatever it raises is its fault
        raise JobError(
            f"the package {package} does not load: {type(error).__name__}: {error}; repair or remove it"
        ) from error
    if not isinstance(kind, Kind):
        raise JobError(f"the package {package} brings no kind: {point.value} is no edge_agent.job_ports.Kind")
    return kind
