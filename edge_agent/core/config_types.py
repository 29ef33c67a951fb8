"""The kinds of value that a configuration holds: each text, what it is turned into, and what is said when it is wrong.

A value is written in the one form that its field names (durations, sizes, URLs and names are strings). Every text is
turned into its inner form by one function that raises ``ValueError`` with the words a person reads, so that nothing of
pydantic's own wording is needed. No message repeats what may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema
from typing_extensions import override

from edge_agent.core.cron import zone_named
from edge_agent.core.timebase import NANOSECONDS_PER_SECOND, DurationNs
from edge_agent.core.units import (
    DURATION_PATTERN,
    SIZE_PATTERN,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
    quoted,
)

T = TypeVar("T")

NAME_PATTERN: Final = r"[A-Za-z0-9_:-]{1,64}"
_NAME: Final = re.compile(NAME_PATTERN)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_HOST: Final = r"\[[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9_.-]{1,32})?\]|[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})"
_HOST_PORT: Final = re.compile(rf"(?P<host>{_HOST})(?::(?P<port>[0-9]{{1,5}}))?")


@dataclass(frozen=True, slots=True)
class FromText:
    """Marks a field that is written as a string and kept in the form that ``parse`` gives.

    Attributes:
        parse: text to inner form; raises ``ValueError`` with what was found and what is allowed.
        needed: what to say when something else than a string stands there (``a duration like "30s"``).
        show: inner form back to text.
        pattern: regular expression of the text for the JSON Schema; empty when there is none worth stating.
    """

    parse: Callable[[str], object]
    needed: str
    show: Callable[[Any], str] = str
    pattern: str = ""

    def __get_pydantic_core_schema__(self, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate with ``parse`` and dump to JSON with ``show``."""
        shown = core_schema.plain_serializer_function_ser_schema(self.show, when_used="json")
        return core_schema.no_info_plain_validator_function(self.read, serialization=shown)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe the text."""
        return {"type": "string"} | ({"pattern": self.pattern} if self.pattern else {})

    def read(self, value: object) -> object:
        """Return the inner form of what stands in the file."""
        if not isinstance(value, str):
            raise ValueError(f"found {kind_of(value)}; {self.needed} in quotes is needed")  # noqa: TRY004 - pydantic takes only ValueError
        return self.parse(value)


def kind_of(value: object) -> str:
    """Return what a TOML value is, in words; never the value itself, which may be a secret."""
    kinds = {str: "a string", bool: "a boolean", int: "a number", float: "a decimal number", dict: "a table"}
    return kinds.get(type(value), "an array" if isinstance(value, list | tuple) else "a date or time")


def duration(minimum: str, maximum: str, *, whole_seconds: bool = False) -> FromText:
    """Return the mark of a duration within inclusive bounds, kept in nanoseconds."""
    low, high = parse_duration(minimum), parse_duration(maximum)

    def parse(text: str) -> DurationNs:
        value = parse_duration(text)
        if not low <= value <= high:
            raise ValueError(f"found {quoted(text)}; {minimum} to {maximum} is allowed")
        if whole_seconds and value % NANOSECONDS_PER_SECOND:
            raise ValueError(f"found {quoted(text)}; whole seconds are needed")
        return value

    return FromText(parse, 'a duration like "30s"', show=format_duration, pattern=DURATION_PATTERN)


def size(minimum: str, maximum: str) -> FromText:
    """Return the mark of a size within inclusive bounds, kept in bytes."""
    low, high = parse_size(minimum), parse_size(maximum)

    def parse(text: str) -> int:
        value = parse_size(text)
        if not low <= value <= high:
            raise ValueError(f"found {quoted(text)}; {minimum} to {maximum} is allowed")
        return value

    return FromText(parse, 'a size like "64MiB"', show=format_size, pattern=SIZE_PATTERN)


def matching(pattern: str, needed: str) -> FromText:
    """Return the mark of a text that matches a pattern whole; ``needed`` says it in words."""
    compiled = re.compile(pattern)

    def parse(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f"found {quoted(text)}; {needed} is needed")
        return text

    return FromText(parse, needed, pattern=f"^(?:{pattern})$")


def plain_text(maximum: int) -> FromText:
    """Return the mark of a text of 1 to ``maximum`` characters without control characters; it is never shown."""
    needed = f"a text of 1 to {maximum} characters without control characters"

    def parse(text: str) -> str:
        if not 1 <= len(text) <= maximum or _CONTROL.search(text):
            raise ValueError(f"found {len(text)} characters; {needed} is needed")
        return text

    return FromText(parse, needed)


def _parse_device_id(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(f"found {quoted(text)}; 1 to 64 of A-Z a-z 0-9 _ : - are needed")
    if text.startswith("_"):
        raise ValueError(f"found {quoted(text)}; a device id never begins with _")
    return text


def _parse_prefix(text: str) -> str:
    if len(text) > 200 or not all(_NAME.fullmatch(level) for level in text.split("/")):
        raise ValueError(
            f"found {quoted(text)}; topic levels of A-Z a-z 0-9 _ : - separated by single slashes are needed, "
            "none at either end, at most 200 characters",
        )
    return text


_DEFAULT_PORTS: Final = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}


@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """Where a broker listens.

    Attributes:
        scheme: ``mqtt``, ``mqtts``, ``ws`` or ``wss``.
        host: name or address; IPv6 without brackets.
        port: 1 to 65535.
        path: of a WebSocket, begins with a slash; empty otherwise.
    """

    scheme: str
    host: str
    port: int
    path: str = ""

    @property
    def encrypted(self) -> bool:
        """Whether TLS is spoken."""
        return self.scheme in {"mqtts", "wss"}

    @override
    def __str__(self) -> str:
        """Return the URL with its port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def parse_broker_url(text: str) -> BrokerUrl:
    """Return the broker that a URL names.

    Raises:
        ValueError: it is no such URL; the message never repeats one that holds credentials.
    """
    needed = 'a URL like "mqtt://localhost:1883" is needed (mqtt, mqtts, ws, wss)'
    if "@" in text:
        raise ValueError("found a URL with credentials; use username and password_file instead")
    scheme, separator, rest = text.partition("://")
    authority, slash, path = rest.partition("/")
    match = _HOST_PORT.fullmatch(authority)
    if not separator or scheme not in _DEFAULT_PORTS or match is None or not re.fullmatch(r"[!-~]{0,1000}", path):
        raise ValueError(f"found {quoted(text)}; {needed}")
    if path and not scheme.startswith("ws"):
        raise ValueError(f"found {quoted(text)}; only ws and wss have a path")
    port = int(match["port"] or _DEFAULT_PORTS[scheme])
    if not 1 <= port <= 65_535:
        raise ValueError(f"found port {port}; 1 to 65535 is allowed")
    return BrokerUrl(scheme, match["host"].strip("[]"), port, f"{slash}{path}" if scheme.startswith("ws") else "")


def _parse_server(text: str) -> str:
    match = _HOST_PORT.fullmatch(text)
    if match is None or (match["port"] and not 1 <= int(match["port"]) <= 65_535):
        raise ValueError(f'found {quoted(text)}; a host or host:port like "ntp1.example:123" is needed')
    return text


def _parse_listen(text: str) -> str:
    match = _HOST_PORT.fullmatch(text)
    if match is not None and match["port"] and 1 <= int(match["port"]) <= 65_535:
        return text
    if text.startswith("/") and len(text.encode()) <= 107 and not _CONTROL.search(text):  # sun_path, unix(7)
        return text
    raise ValueError(f"found {quoted(text)}; host:port or the absolute path of a Unix socket is needed")


def _parse_secret_file(text: str) -> str:
    if not re.fullmatch(r"(/[^\x00-\x1f\x7f]{0,1000})|[A-Za-z0-9_.@:-]{1,255}", text):
        # not repeated: somebody may have put the secret itself here
        raise ValueError("an absolute path or the name of a systemd credential is needed")
    return text


def parse_http_url(text: str) -> str:
    """Return an http or https URL as it is.

    Raises:
        ValueError: it is none; the message never repeats it, its query may be a secret.
    """
    try:
        parts = urlsplit(text)
        good = (
            parts.scheme in {"http", "https"} and bool(parts.hostname) and "@" not in parts.netloc and parts.port != 0
        )
    except ValueError:
        good = False
    if not good or not re.fullmatch(r"[!-~]{1,2000}", text):
        raise ValueError('a URL like "https://example.com/status" is needed (http, https; no credentials)')
    return text


def _parse_zone(text: str) -> str:
    if text != "local":
        zone_named(text)
    return text


Name = Annotated[str, matching(NAME_PATTERN, "a name of 1 to 64 of A-Z a-z 0-9 _ : -")]
Glob = Annotated[str, matching(r"[A-Za-z0-9_:*?-]{1,64}", 'a name or a pattern like "job-*"')]
DeviceId = Annotated[str, FromText(_parse_device_id, "a name")]
Prefix = Annotated[str, FromText(_parse_prefix, "topic levels")]
Broker = Annotated[BrokerUrl, FromText(parse_broker_url, "a URL", pattern="^(mqtt|mqtts|ws|wss)://.+$")]
Listen = Annotated[str, FromText(_parse_listen, "host:port or a path")]
AbsolutePath = Annotated[str, matching(r"/[^\x00-\x1f\x7f]{0,1000}", "an absolute path (it begins with a slash)")]
Server = Annotated[str, FromText(_parse_server, "a host")]
Zone = Annotated[str, FromText(_parse_zone, 'a zone like "Europe/Berlin"')]
SecretFile = Annotated[str, FromText(_parse_secret_file, "an absolute path or the name of a systemd credential")]
HttpUrl = Annotated[str, FromText(parse_http_url, "a URL")]
Listed = Annotated[tuple[T, ...], Field(strict=False)]  # TOML gives lists; nothing inside becomes lenient by it


class Section(BaseModel):
    """What all models share: frozen, strict, no unknown keys, built on first use."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", defer_build=True)
