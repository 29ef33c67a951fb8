"""Signatures by the library, checked against the curve itself."""

from __future__ import annotations

import base64
import json
import warnings

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edge_agent.adapters import jose
from tests.support.tokens import Key, b64

KEY = Key("ops")


def decoded(part: bytes) -> bytes:
    """Undo ``b64``."""
    return base64.urlsafe_b64decode(part + b"==")


def test_what_is_signed_is_as_the_standards_say_and_is_verified() -> None:
    """By the curve alone, and by ourselves; with the key's own name, or the one that is given."""
    for kid in (None, "other"):
        token = jose.sign(b'{"a":1}', KEY.jwk, kid=kid)
        head, payload, signature = token.split(b".")
        assert json.loads(decoded(head)) == {"alg": "EdDSA", "kid": kid or "ops"}
        assert decoded(payload) == b'{"a":1}'
        Ed25519PublicKey.from_public_bytes(KEY.raw).verify(decoded(signature), head + b"." + payload)
        assert jose.verify(token, KEY.public) == b'{"a":1}'


def test_a_new_key_signs_and_has_a_name_of_its_own() -> None:
    """The file holds both halves; no two keys have one name by chance."""
    made = [jose.generate(None) for _ in range(20)]
    assert len({name for _, name, _ in made}) == 20
    for held, name, public in made:
        assert json.loads(held) | {"d": "", "x": public} == {
            "kty": "OKP",
            "crv": "Ed25519",
            "alg": "EdDSA",
            "use": "sig",
            "kid": name,
            "d": "",
            "x": public,
        }
        assert jose.verify(jose.sign(b"x", held, kid=None), public) == b"x"
    assert jose.generate("mine")[1] == "mine"


@pytest.mark.parametrize(
    "held",
    [
        *(b"", b"5", b"[]", b"{}", b'"x"', b"\xff", b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"),
        b'{"kty": "oct", "k": "aGVsbG8"}',
        b'{"kty": "OKP", "crv": "Ed25519", "x": 5, "kid": "k"}',
        json.dumps({"kty": "OKP", "crv": "Ed25519", "x": KEY.public, "kid": "k"}).encode(),
        json.dumps({"kty": "OKP", "crv": "X25519", "x": KEY.public, "d": KEY.public, "kid": "k"}).encode(),
        KEY.jwk.replace(b'"d": "', b'"d": "hunter2'),
    ],
    ids=[str(number) for number in range(12)],  # the key is another one in each worker
)
def test_what_is_no_private_key_is_refused_without_a_word_of_it(held: bytes) -> None:
    """One sentence that says what is needed."""
    with pytest.raises(ValueError, match=r"^a JWK with the private half") as caught:
        jose.sign(b"x", held, kid=None)
    assert "hunter2" not in str(caught.value)


def test_a_key_without_a_name_needs_one() -> None:
    """The device finds a key by it."""
    nameless = json.dumps({name: value for name, value in json.loads(KEY.jwk).items() if name != "kid"}).encode()
    with pytest.raises(ValueError, match="--kid"):
        jose.sign(b"x", nameless, kid=None)
    assert jose.verify(jose.sign(b"x", nameless, kid="k"), KEY.public) == b"x"


@pytest.mark.parametrize(
    "token",
    [
        *(b"", b"a", b"..", b"a.b.c", b"\xff.\xff.\xff", KEY.token()[:-1], KEY.token() + b"A", KEY.token() + b"="),
        Key("ops").token(),
        KEY.token(header={"alg": "none"}),
        KEY.token(header={"alg": "Ed448"}),
        KEY.token(header={"kid": "ops"}),
        b64(b'{"alg":"none"}') + b".e30.",
    ],
)
def test_what_that_key_has_not_signed_is_a_value_error(token: bytes) -> None:
    """Whatever it is; the algorithm is ours to choose, not the token's."""
    with pytest.raises(ValueError, match="the signature is not that key's"):
        jose.verify(token, KEY.public)


def test_the_library_has_nothing_to_warn_of() -> None:
    """A warning would go to the daemon's stderr."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jose.generate(None)
        assert jose.verify(jose.sign(b"x", KEY.jwk, kid=None), KEY.public) == b"x"
