"""Tokens as anybody may make them, good and bad, by nothing but the curve and base64: independent of what verifies."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

GOOD: dict[str, Any] = {"jti": "c-1", "aud": "dev-1", "exp": 1_900_000_000, "cmd": "job-run", "args": {"job": "sync"}}


def b64(data: bytes) -> bytes:
    """Return base64url without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@dataclass
class Key:
    """A key pair, and its name on the device."""

    kid: str
    private: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def raw(self) -> bytes:
        """The public half as bytes."""
        return self.private.public_key().public_bytes_raw()

    @property
    def public(self) -> str:
        """The public half as the configuration has it."""
        return b64(self.raw).decode()

    @property
    def jwk(self) -> bytes:
        """What a key's file holds."""
        private = b64(self.private.private_bytes_raw()).decode()
        return json.dumps({"kty": "OKP", "crv": "Ed25519", "x": self.public, "d": private, "kid": self.kid}).encode()

    def token(self, claims: object = None, header: object = None) -> bytes:
        """Return a token; what is given as bytes is taken as it is."""
        head = header if header is not None else {"alg": "EdDSA", "kid": self.kid}
        said = GOOD if claims is None else claims
        signed = b".".join(b64(part if isinstance(part, bytes) else json.dumps(part).encode()) for part in (head, said))
        return signed + b"." + b64(self.private.sign(signed))
