"""The kinds of value that a configuration holds: each text, what it is turned into, and what is said when it is wrong.

A value is written in the one form that its field names (durations, sizes, URLs and names are strings). Every text is
turned into its inner form by one function that raises ``ValueError`` with the words a person reads, so that nothing of
pydantic's own wording is needed. No message repeats what may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema
from typing_extensions import override

from edge_agent.core.cron import zone_named
from edge_agent.core.topics import is_filter
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
        bounds: the least and the most that is allowed, as text; ``None`` where there is no order.
        step: what it has to be a whole multiple of, as text; empty when there is no such thing.
        template: regular expression of what a file may have in the text, to be filled in before it is parsed.
    """

    parse: Callable[[str], Any]
    needed: str
    show: Callable[[Any], str] = str
    pattern: str = ""
    bounds: tuple[str, str] | None = None
    step: str = ""
    template: str = ""

    def __get_pydantic_core_schema__(self, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate with ``parse`` and dump to JSON with ``show``."""
        shown = core_schema.plain_serializer_function_ser_schema(self.show, when_used="json-unless-none")
        return core_schema.no_info_plain_validator_function(self.read, serialization=shown)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe the text."""
        pattern = f"{self.pattern}|{self.template}" if self.template else self.pattern
        return {"type": "string"} | ({"pattern": pattern} if pattern else {})

    def read(self, value: object) -> object:
        """Return the inner form of what stands in the file."""
        if not isinstance(value, str):
            raise ValueError(f"found {kind_of(value)}; {self.needed} in quotes is needed")  # noqa: TRY004 - pydantic takes only ValueError
        return self.parse(value)


_DURATION: Final = FromText(parse_duration, 'a duration like "30s"', show=format_duration, pattern=DURATION_PATTERN)
_SIZE: Final = FromText(parse_size, 'a size like "64MiB"', show=format_size, pattern=SIZE_PATTERN)


def kind_of(value: object) -> str:
    """Return what a TOML value is, in words; never the value itself, which may be a secret."""
    kinds = {
        type(None): "null",
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a decimal number",
        dict: "a table",
    }
    return kinds.get(type(value), "an array" if isinstance(value, list | tuple) else "a date or time")


def _within(kind: FromText, default: str | None, bounds: tuple[str, str], said: str, step: str) -> Any:  # noqa: ANN401  # as pydantic's Field
    low, high = (kind.parse(bound) for bound in bounds)

    def parse(text: str) -> object:
        value: Any = kind.parse(text)
        if not low <= value <= high:
            raise ValueError(f"found {quoted(text)}; {' to '.join(bounds)} is allowed")
        if value % kind.parse(step):
            raise ValueError(f"found {quoted(text)}; whole multiples of {step} are allowed")
        return value

    field: Any = Field(default and kind.parse(default), description=f"{said}; {' to '.join(bounds)}.")
    field.metadata.append(replace(kind, parse=parse, bounds=bounds, step=step))
    return field


def duration(default: str | None, least: str, most: str, said: str, *, step: str = "1ms") -> Any:  # noqa: ANN401
    """Return the field of a duration within inclusive bounds, kept in nanoseconds; ``said`` describes it."""
    return _within(_DURATION, default, (least, most), said, step)


def size(default: str | None, least: str, most: str, said: str) -> Any:  # noqa: ANN401
    """Return the field of a size within inclusive bounds, kept in bytes; ``said`` describes it."""
    return _within(_SIZE, default, (least, most), said, "1B")


def matching(pattern: str, needed: str, *, secret: bool = False, template: str = "") -> FromText:
    """Return the mark of a text that matches a pattern whole; ``needed`` says it in words."""
    compiled = re.compile(pattern)

    def parse(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f"found {f'{len(text)} characters' if secret else quoted(text)}; {needed} is needed")
        return text

    return FromText(parse, needed, pattern=f"^(?:{pattern})$", template=template)


def plain_text(maximum: int) -> FromText:
    """Return the mark of a text of 1 to ``maximum`` characters without control characters; it is never shown."""
    needed = f"a text of 1 to {maximum} characters without control characters"
    return matching(rf"[^\x00-\x1f\x7f-\x9f]{{1,{maximum}}}", needed, secret=True)


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


def _address(text: str, *, default_port: int = 0) -> tuple[str, int] | None:
    """Return host and port; ``None`` where one of them is none."""
    match = _HOST_PORT.fullmatch(text)
    port = int(match["port"] or default_port) if match else 0
    return (match["host"].strip("[]"), port) if match and 1 <= port <= 65_535 else None


def parse_broker_url(text: str) -> BrokerUrl:
    """Return the broker that a URL names.

    Raises:
        ValueError: it is no such URL; the message never repeats one that holds credentials.
    """
    if "@" in text:
        raise ValueError("found a URL with credentials; use username and password_file instead")
    scheme, _, rest = text.partition("://")
    authority, slash, path = rest.partition("/")
    found = f"found {f'{len(text)} characters' if '?' in text else quoted(text)}"  # a query may be a secret
    address = _address(authority, default_port=_DEFAULT_PORTS.get(scheme, 1))
    if scheme not in _DEFAULT_PORTS or address is None or not re.fullmatch(r"[!-~]{0,1000}", path):
        needed = 'a URL like "mqtt://localhost:1883" is needed (mqtt, mqtts, ws, wss; port 1 to 65535)'
        raise ValueError(f"{found}; {needed}")
    if path and not scheme.startswith("ws"):
        raise ValueError(f"{found}; only ws and wss have a path")
    return BrokerUrl(scheme, *address, f"{slash}{path}" if scheme.startswith("ws") else "")


def _parse_server(text: str) -> str:
    if _address(text, default_port=123) is None:
        raise ValueError(f'found {quoted(text)}; a host or host:port like "ntp1.example:123" is needed')
    return text


def _parse_listen(text: str) -> str:
    is_path = re.fullmatch(r"/[^\x00-\x1f\x7f-\x9f]*", text) and len(text.encode()) <= 107  # sun_path, unix(7)
    if not is_path and _address(text) is None:
        raise ValueError(f"found {quoted(text)}; {_LISTEN_NEEDED} is needed")
    return text


def parse_http_url(text: str) -> str:
    """Return an http or https URL as it is.

    Raises:
        ValueError: it is none; the message never repeats it, its query may be a secret.
    """
    match = re.fullmatch(r"https?://([^/?#]*)[!-~]{0,2000}", text)
    if match is None or _address(match[1], default_port=80) is None:
        needed = 'a URL like "https://example.com/status" is needed (http, https; no credentials)'
        raise ValueError(f"found {len(text)} characters; {needed}")
    return text


def _parse_filter(text: str) -> str:
    if not is_filter(text):
        raise ValueError(f'found {quoted(text)}; a topic filter like "ops/replies/#" is needed (MQTT 5 §4.7)')
    return text


def _parse_zone(text: str) -> str:
    if text != "local":
        zone_named(text)
    return text


NAME_NEEDED: Final = "a name of 1 to 64 of A-Z a-z 0-9 _ : -"
_LEVELS_NEEDED: Final = (
    "a path of topic levels of A-Z a-z 0-9 _ : - (single slashes between them, 200 characters at most)"
)
_LISTEN_NEEDED: Final = "host:port or the absolute path of a Unix socket"
_SECRET_NEEDED: Final = "an absolute path or the name of a systemd credential"  # noqa: S105

Name = Annotated[str, matching(NAME_PATTERN, NAME_NEEDED)]
Glob = Annotated[str, matching(r"[A-Za-z0-9_:*?-]{1,64}", 'a name or a pattern like "job-*"')]
FileGlob = Annotated[str, matching(r"[^/\x00-\x1f\x7f]{1,255}", 'a pattern of file names like "*.json"')]
DeviceId = Annotated[str, matching(f"(?!_){NAME_PATTERN}", f"{NAME_NEEDED} (no _ first)", template=r"\{[a-z_]+\}")]
Prefix = Annotated[
    str, matching(f"(?=.{{1,200}}$){NAME_PATTERN}(/{NAME_PATTERN})*", _LEVELS_NEEDED, template=r"\{id\}")
]
Broker = Annotated[
    BrokerUrl, FromText(parse_broker_url, 'a URL like "mqtt://localhost:1883"', pattern="^(mqtt|mqtts|ws|wss)://[^@]+$")
]
Listen = Annotated[str, FromText(_parse_listen, _LISTEN_NEEDED, pattern=rf"^(?:/.*|(?:{_HOST}):[0-9]{{1,5}})$")]
AbsolutePath = Annotated[str, matching(r"/[^\x00-\x1f\x7f]{0,1000}", "an absolute path (it begins with a slash)")]
Server = Annotated[
    str, FromText(_parse_server, 'a host like "ntp1.example"', pattern=rf"^(?:{_HOST})(?::[0-9]{{1,5}})?$")
]
TopicFilter = Annotated[str, FromText(_parse_filter, 'a topic filter like "ops/replies/#"')]
Zone = Annotated[str, FromText(_parse_zone, 'a zone like "Europe/Berlin"')]
# not repeated: somebody may have put the secret itself here
SecretFile = Annotated[str, matching(r"/[^\x00-\x1f\x7f]{0,1000}|[A-Za-z0-9_.@:-]{1,255}", _SECRET_NEEDED, secret=True)]
HttpUrl = Annotated[
    str, FromText(parse_http_url, 'a URL like "https://example.com/status"', pattern="^https?://[^/?#@]+[!-~]*$")
]
Listed = Annotated[tuple[T, ...], Field(strict=False)]  # TOML gives lists; nothing inside becomes lenient by it


class Section(BaseModel):
    """What all models share: frozen, strict, no unknown keys, built on first use."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", defer_build=True)
