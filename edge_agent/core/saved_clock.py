"""What is known of the clock and survives a restart, as a small document that damage or a newer version makes void."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError

from edge_agent.core.timebase import RawNs, UtcNs

MAX_SOURCES: Final = 17
_MAX_NS: Final = 1 << 62
_Ns = Annotated[int, Field(ge=0, lt=_MAX_NS)]


@dataclass(frozen=True, slots=True)
class SavedClock:
    """What is known of the clock.

    Attributes:
        boot: the kernel's boot id under which ``raw`` means something.
        raw: a reading of the counter; ``utc`` is true time then, ``error_ns`` the bound of its error.
        rate: how much faster true time runs than the counter: seconds per second, minus one.
        rate_sigma: the standard deviation of that.
        delays_ns: the shortest delay of each source.
        slept_ns: how long the device had slept in this boot.
        version: of the document.
    """

    boot: str
    raw: Annotated[RawNs, Field(ge=0, lt=_MAX_NS)]
    utc: Annotated[UtcNs, Field(gt=-_MAX_NS, lt=_MAX_NS)]
    error_ns: _Ns
    rate: Annotated[float, Field(ge=-0.1, le=0.1, allow_inf_nan=False)]
    rate_sigma: Annotated[float, Field(ge=0, le=0.1, allow_inf_nan=False)]
    delays_ns: Annotated[Mapping[str, _Ns], Field(max_length=MAX_SOURCES)] = field(default_factory=dict)
    slept_ns: _Ns = 0
    version: Literal[1] = 1

    def document(self) -> bytes:
        """Return it as JSON."""
        return _DOCUMENT.dump_json(self)


_DOCUMENT: Final = TypeAdapter(SavedClock)


def read(document: bytes) -> SavedClock | None:
    """Return what a document says; ``None`` if it is damaged or of another version."""
    try:
        return _DOCUMENT.validate_json(document, strict=True)
    except ValidationError:
        return None
