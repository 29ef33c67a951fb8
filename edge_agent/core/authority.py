"""Who may command: reads what arrived as a command, and says what its sender may ask for.

Without keys in ``[commands.keys]`` a command is plain JSON, and ``commands.allow`` says which are obeyed. With any key
only signed commands are: a JWT (RFC 7519) in the compact serialisation (RFC 7515 §7.1) and by EdDSA (RFC 8037) alone.
Whether its times have passed is for others to judge: only they know true time.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Final, Protocol

import orjson

from edge_agent.core.command_request import MAX_PAYLOAD, Code, CommandError, Request, parse_request, request_from
from edge_agent.core.config_models import Commands
from edge_agent.core.config_remote import MAX_DESIRED_BYTES, parse_payload
from edge_agent.core.config_types import NAME_NEEDED, NAME_PATTERN
from edge_agent.core.timebase import NANOSECONDS_PER_SECOND, UtcNs
from edge_agent.core.units import quoted

ALL: Final = "_all"
CONFIGURE: Final = "config"
"""What ``allow`` of a key has to match, where there is one, for configuration to be signed with it."""
MAX_CONFIGURATION: Final = 2 * MAX_DESIRED_BYTES
"""Bytes: base64url makes them more."""

_GROUP: Final = "_group/"
_TOKEN: Final = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+")
_PLAIN: Final = ("args", "ttl", "delay")
_CLAIMS: Final = ("jti", "aud", "exp", "nbf", "cmd", *_PLAIN, "iss", "sub", "iat")  # the last three are not looked at
_MAX_DATE: Final = (1 << 63) // NANOSECONDS_PER_SECOND

Claims = Mapping[str, Any]


class Verify(Protocol):
    """The verifier of signatures."""

    def __call__(self, token: bytes, public: str) -> bytes:
        """Return the payload of a compact JWS that the owner of an Ed25519 key (base64url) has signed with EdDSA.

        Raises:
            ValueError: it is none, or somebody else has.
        """


@dataclass(frozen=True, slots=True)
class Grant:
    """What the sender of a command may ask for.

    Attributes:
        allow: names or patterns of commands.
        rule: where in the configuration that stands.
    """

    allow: tuple[str, ...]
    rule: str

    def allows(self, name: str) -> bool:
        """Return whether a command may be asked for."""
        return any(fnmatchcase(name, pattern) for pattern in self.allow)

    def refusal(self, name: str) -> str:
        """Return, for a command that may not be, what is allowed and where to change that."""
        return f"{quoted(name)} is not allowed here; {self.rule} allows {', '.join(self.allow) or 'nothing'}"


class Authority:
    """Knows from whom this device takes which commands.

    Attributes:
        commands: the section of the configuration.
        addresses: to which commands for this device are sent.
    """

    def __init__(self, commands: Commands, device: str, groups: Sequence[str], verify: Verify | None) -> None:
        """Prepare.

        Args:
            commands: the section of the configuration.
            device: its id.
            groups: that it is in.
            verify: ``None`` where no keys are configured.
        """
        assert verify is not None or not commands.keys, "who has keys can verify"
        self.commands = commands
        self.addresses = {device, ALL, *(f"{_GROUP}{group}" for group in groups)}
        self._verify = verify

    def read(self, command: str, address: str, payload: bytes) -> tuple[Request, Grant]:
        """Return what a command asks for, and what its sender may ask for.

        Args:
            command: its name, from where it arrived.
            address: to which of those of this device it was sent.
            payload: as it arrived.

        Raises:
            CommandError: ``bad_signature`` where the sender is not known, else ``invalid_args``; with the id, where it
                can be read. Of a bad signature the id, too, is only what somebody says.
        """
        if len(payload) > MAX_PAYLOAD:
            raise CommandError(Code.INVALID_ARGS, f"the payload has {len(payload)} bytes; {MAX_PAYLOAD} are allowed")
        payload = payload.strip()
        is_token = payload.startswith(b"e")  # so does the base64url of every object, and nothing in JSON
        if not self.commands.keys and not is_token:
            return parse_request(command, payload), Grant(self.commands.allow, "commands.allow")
        said = _claimed(payload)
        command_id = said.get("jti" if is_token else "id")
        try:
            kid, claims, audience = self._verified(payload)
            if address not in audience:
                raise ValueError(f"aud: {quoted(address)}, to which it was sent, is not named there; sign it for that")  # noqa: TRY301
            request = _request(command, claims)
        except ValueError as error:
            named = isinstance(command_id, str) and re.fullmatch(NAME_PATTERN, command_id)
            raise CommandError(Code.BAD_SIGNATURE, str(error), id=command_id if named else None) from None
        return request, self._grant(kid, address)

    def configuration(self, payload: bytes) -> Claims | None:
        """Return what a configuration says that has arrived; ``None`` = that there is to be none.

        Signed, it may be for the device, for all, or for a group that it is in.

        Raises:
            ValueError: it is none, or its sender is not known, or may not say it.
        """
        if len(payload) > MAX_CONFIGURATION:
            raise ValueError(f"{len(payload)} bytes; {MAX_CONFIGURATION} are allowed")
        payload = payload.strip()
        if not self.commands.keys and not payload.startswith(b"e"):
            return parse_payload(payload) if payload else None
        if not payload:
            raise ValueError('nothing counts that is not signed; sign {"version": …, "config": {}}')
        kid, claims, audience = self._verified(payload)
        if not any(one in audience and self._may_configure(kid, one) for one in self.addresses):
            raise ValueError(f"aud: nothing that {quoted(kid)} may configure; sign for this device, by a key that may")
        for name in {"exp", "nbf"} & claims.keys():
            raise ValueError(f"{name}: a configuration counts from now on, until the next one; leave it out")
        return claims

    def _may_configure(self, kid: str, address: str) -> bool:
        allow = self.commands.keys[kid].allow
        return self._reaches(kid, address) and (allow is None or Grant(allow, "").allows(CONFIGURE))

    def _verified(self, token: bytes) -> tuple[str, Claims, list[object]]:
        """Return who has signed a token (the ``kid``), what it claims, and for whom it is."""
        keys, verify = self.commands.keys, self._verify
        if verify is None or not keys:
            raise ValueError("signed, but this device has no keys; add one as [commands.keys.NAME], or do not sign")
        parts = _TOKEN.fullmatch(token)
        if parts is None:
            raise ValueError("only signed commands and configuration count here: one JWT in the compact form is needed")
        kid = _kid(_object(parts[1]))
        if kid not in keys:
            raise ValueError(
                f"unknown kid {quoted(kid)}; add the key as [commands.keys.NAME], or use one that is there"
            )
        claims = _parsed(verify(token, keys[kid].public))
        audience = claims.get("aud")
        return kid, claims, audience if isinstance(audience, list) else [audience]

    def _reaches(self, kid: str, address: str) -> bool:
        """Whether a key may address that: one for groups addresses them, and single devices."""
        groups = self.commands.keys[kid].groups
        return not groups or (address != ALL and (not address.startswith(_GROUP) or address[len(_GROUP) :] in groups))

    def _grant(self, kid: str, address: str) -> Grant:
        key = self.commands.keys[kid]
        if not self._reaches(kid, address):
            return Grant((), f"commands.keys.{kid}.groups")
        if key.allow is None:
            return Grant(self.commands.allow, "commands.allow")
        return Grant(key.allow, f"commands.keys.{kid}.allow")


def _kid(header: Claims) -> str:
    """Return the key id of a header that asks for nothing but EdDSA."""
    if header.get("alg") != "EdDSA":
        raise ValueError(f"alg: {quoted(str(header.get('alg')))} is not taken; EdDSA with an Ed25519 key is needed")
    if "crit" in header or "b64" in header:
        raise ValueError("crit, b64: no extensions of JWS are understood here; leave them out")
    kid = header.get("kid")
    if not isinstance(kid, str):
        raise ValueError("kid: the name of the key is needed in the token's header")  # noqa: TRY004  # one kind of trouble
    return kid


def _request(command: str, claims: Claims) -> Request:
    """Return what verified claims ask for.

    Raises:
        ValueError: they are not those of this command, or incomplete.
        CommandError: ``invalid_args``.
    """
    if claims.get("cmd") != command:
        raise ValueError(f"cmd: {quoted(command)}, as which it was sent, is needed")
    command_id = claims.get("jti")
    if not (isinstance(command_id, str) and re.fullmatch(NAME_PATTERN, command_id)):
        raise ValueError(f"jti: {NAME_NEEDED} is needed")
    if claims.get("exp") is None:
        raise ValueError("exp: when it expires is needed, in seconds since 1970")
    expires, not_before = _instant(claims, "exp"), _instant(claims, "nbf")
    for name in claims:
        if name not in _CLAIMS:  # a misspelt "delay" must not mean: at once
            raise CommandError(
                Code.INVALID_ARGS, f"unknown claim {quoted(name)}; known: {', '.join(_CLAIMS)}", id=command_id
            )
    said = {name: claims[name] for name in _PLAIN if name in claims}
    request = request_from(command, {"id": command_id} | said)
    return replace(request, expires=expires, not_before=not_before)


def _instant(claims: Claims, name: str) -> UtcNs | None:
    """Return a NumericDate (RFC 7519 §2) as an instant."""
    value = claims.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < _MAX_DATE:
        raise ValueError(f"{name}: a number of seconds since 1970 is needed, before the year 2262")
    return UtcNs(round(value * 1_000_000) * 1000)  # a float holds microseconds


def _claimed(payload: bytes) -> Claims:
    """Return what a payload says of itself, whoever wrote it; nothing where it cannot be read."""
    parts = _TOKEN.fullmatch(payload)
    try:
        return _object(parts[2]) if parts else _parsed(payload)
    except ValueError:
        return {}


def _object(segment: bytes) -> Claims:
    try:
        return _parsed(base64.urlsafe_b64decode(segment + b"=="))
    except binascii.Error:
        raise ValueError("no JWT: a part of it is not base64url") from None


def _parsed(text: bytes) -> Claims:
    try:
        said = orjson.loads(text)
    except orjson.JSONDecodeError:
        said = None
    if not isinstance(said, dict):
        raise ValueError("no JWT: a part of it is no JSON object")  # noqa: TRY004  # one kind of trouble
    return said
