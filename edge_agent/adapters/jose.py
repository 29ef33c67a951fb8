"""Signatures of commands: the only user of the JOSE library, imported only where keys are configured or used.

A key's file is a JWK (RFC 7517, RFC 8037) with its ``kid``. What is loaded for it is mostly OpenSSL's code: 11 MiB.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import orjson
from joserfc import jws
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwk import OKPKey
from typing_extensions import override

ALGORITHM: Final = "EdDSA"
_CURVE: Final = "Ed25519"
_NEEDED: Final = 'a JWK with the private half ("d") of an Ed25519 key is needed, as "edge-agent keygen" makes it'


class _EdDsaAlone(jws.JWSRegistry):
    """Knows one algorithm; the library would warn of its name, for RFC 9864 prefers one by curve."""

    @override
    def get_alg(self, name: str) -> Any:
        if name != ALGORITHM:
            raise UnsupportedAlgorithmError(f"{ALGORITHM} is needed")
        return self.algorithms[name]


_REGISTRY: Final = _EdDsaAlone(strict_check_header=False)  # what is not critical is ignored (RFC 7515 §4)


def verify(token: bytes, public: str) -> bytes:
    """See ``core.authority.Verify``."""
    try:
        return jws.deserialize_compact(token, _public_key(public), registry=_REGISTRY).payload
    except (JoseError, ValueError) as error:
        raise ValueError(f"the signature is not that key's ({_said(error)}); sign it with the private half") from None


def sign(payload: bytes, key: bytes, *, kid: str | None) -> bytes:
    """Return a payload signed, in the compact form.

    Args:
        payload: of the token.
        key: what a key's file holds.
        kid: the key's name; default: the one in its file.

    Raises:
        ValueError: the key cannot be used; the message says nothing of what it holds.
    """
    try:
        held = orjson.loads(key)
        private = OKPKey.import_key(held) if isinstance(held, dict) else None
    except (JoseError, ValueError, TypeError, KeyError):
        private = None
    if private is None or private.curve_name != _CURVE or not private.is_private:
        raise ValueError(_NEEDED)
    if not (named := kid or private.kid):
        raise ValueError("it has no kid; name it with --kid, as the device's configuration does")
    return jws.serialize_compact({"alg": ALGORITHM, "kid": named}, payload, private, registry=_REGISTRY).encode()


def generate(kid: str | None) -> tuple[bytes, str, str]:
    """Return a new key: what its file holds, its name (by default one that no other key has), and its public half."""
    key = OKPKey.generate_key(_CURVE)
    name = kid or f"key-{key.thumbprint()[:8].replace('_', '-')}"
    held = key.as_dict(private=True, kid=name, alg=ALGORITHM, use="sig")
    return orjson.dumps(held) + b"\n", name, str(held["x"])


@lru_cache(maxsize=16)
def _public_key(public: str) -> OKPKey:
    return OKPKey.import_key({"kty": "OKP", "crv": _CURVE, "x": public})


def _said(error: Exception) -> str:
    return str(error).rstrip(": ") or type(error).__name__
