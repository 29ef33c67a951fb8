"""Who may command: with the real verifier, against tokens that are made without it."""

from __future__ import annotations

import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.adapters import jose
from edge_agent.core.authority import MAX_CONFIGURATION, Authority, Grant
from edge_agent.core.command_request import MAX_PAYLOAD, Code, CommandError, Request
from edge_agent.core.config_models import Commands
from tests.support.tokens import GOOD, Key, b64

OPS, FIELD, STRANGER = Key("ops"), Key("field"), Key("ops")
KEYS: dict[str, Any] = {
    "ops": {"public": OPS.public, "allow": ["job-*", "ping"]},
    "field": {"public": FIELD.public, "groups": ["plant-7"]},
}


def authority(**commands: Any) -> Authority:  # noqa: ANN401  # as the file has it
    """Return that of the device ``dev-1`` in two groups; with two keys unless told otherwise."""
    section = Commands.model_validate(commands or {"keys": KEYS})
    return Authority(section, "dev-1", ["plant-7", "plant-8"], jose.verify if section.keys else None)


def refused(
    payload: bytes, *, to: str = "dev-1", by: Authority | None = None, command: str = "job-run"
) -> CommandError:
    """Return the error with which a payload is refused."""
    with pytest.raises(CommandError) as caught:
        (by or authority()).read(command, to, payload)
    assert str(caught.value).isprintable()
    return caught.value


# ---------------------------------------------------------------- without keys
def test_without_keys_a_command_is_json_and_the_allow_list_grants() -> None:
    """From the device's address, its groups' and everybody's; an empty payload is a command, too."""
    plain = authority(allow=["ping", "job-*"])
    for address in ("dev-1", "_group/plant-7", "_all"):
        request, grant = plain.read("job-run", address, b'{"id": "c-1", "args": {"job": "x"}}')
        assert request == Request("job-run", "c-1", {"job": "x"})
        assert (grant.allows("job-run"), grant.allows("ping"), grant.allows("exec")) == (True, True, False)
    assert plain.read("ping", "dev-1", b"")[0] == Request("ping")
    assert refused(b'{"id": "c-1", "args": 5}', by=plain).code is Code.INVALID_ARGS


def test_a_signed_command_is_refused_where_there_are_no_keys() -> None:
    """Nobody could say by whom it is; it is not taken for broken JSON."""
    error = refused(OPS.token(), by=authority(allow=["*"]))
    assert (error.code, error.id, "has no keys" in str(error)) == (Code.BAD_SIGNATURE, "c-1", True)


def test_patterns_are_as_written_and_the_refusal_says_where_to_change_it() -> None:
    """Case counts; nothing is allowed by an empty list."""
    grant = Grant(("*-get", "q?-x"), "commands.allow")
    assert [grant.allows(name) for name in ("config-get", "CONFIG-GET", "-get", "get", "qa-x", "q-x")] == [
        *(True, False, True, False, True, False)
    ]
    assert grant.refusal("exec") == '"exec" is not allowed here; commands.allow allows *-get, q?-x'
    assert Grant((), "commands.keys.k.groups").refusal("x").endswith("allows nothing")


# ---------------------------------------------------------------- with keys
def test_a_signed_command_is_read_with_its_times() -> None:
    """Seconds since 1970, whole or not; whether they have passed is not judged here."""
    claims = GOOD | {"exp": 1, "nbf": 1_900_000_000.25, "ttl": "10m", "delay": "1s", "iat": 5, "iss": "x", "sub": None}
    request, grant = authority().read("job-run", "dev-1", OPS.token(claims))
    assert (request.command, request.id, request.args) == ("job-run", "c-1", {"job": "sync"})
    assert (request.expires, request.not_before) == (1_000_000_000, 1_900_000_000_250_000_000)
    assert (request.ttl, request.delay) == (600_000_000_000, 1_000_000_000)
    assert grant == Grant(("job-*", "ping"), "commands.keys.ops.allow")


def test_white_space_around_a_token_and_a_list_as_audience_are_no_trouble() -> None:
    """A file that is published as it is ends with a newline."""
    for audience in ("dev-1", ["other", "dev-1"], ["dev-1", 5, None]):
        assert authority().read("job-run", "dev-1", OPS.token(GOOD | {"aud": audience}) + b"\n")[0].id == "c-1"


def test_a_key_without_a_list_of_its_own_has_the_sections() -> None:
    """And its groups limit whom it may address: others of them, and everybody, get nothing from it."""
    for address, allowed in (("dev-1", True), ("_group/plant-7", True), ("_group/plant-8", False), ("_all", False)):
        _, grant = authority().read("job-run", address, FIELD.token(GOOD | {"aud": address}))
        assert (grant.allows("ping"), address) == (allowed, address)
        assert grant.rule == ("commands.allow" if allowed else "commands.keys.field.groups")
        assert authority().read("job-run", address, OPS.token(GOOD | {"aud": address}))[1].allows("ping")


HEADER = {"alg": "EdDSA", "kid": "ops"}
SIGNED = OPS.token().split(b".")


def hs256(header: dict[str, str], secret: bytes) -> bytes:
    """Return a token that is authenticated by a shared secret, for which somebody takes the public key."""
    signed = b".".join((b64(json.dumps(header).encode()), SIGNED[1]))
    return signed + b"." + b64(hmac.digest(secret, signed, "sha256"))


def without(*names: str) -> dict[str, Any]:
    """Return good claims but for some."""
    return {name: value for name, value in GOOD.items() if name not in names}


ATTACKS: dict[str, tuple[bytes, str]] = {
    "unsigned": (b'{"id": "c-1", "args": {"job": "sync"}}', "only signed commands"),
    "empty": (b"", "only signed commands"),
    "alg none": (b64(b'{"alg":"none","kid":"ops"}') + b"." + SIGNED[1] + b".", "only signed commands"),
    "alg none, signed": (OPS.token(header=HEADER | {"alg": "none"}), "alg: "),
    "no alg": (OPS.token(header={"kid": "ops"}), "alg: "),
    "alg in another case": (OPS.token(header=HEADER | {"alg": "eddsa"}), "alg: "),
    "alg as a list": (OPS.token(header=HEADER | {"alg": ["EdDSA"]}), "alg: "),
    "the public key as a secret": (hs256(HEADER | {"alg": "HS256"}, OPS.raw), "alg: "),
    "its text as a secret": (hs256(HEADER | {"alg": "HS256"}, OPS.public.encode()), "alg: "),
    "a secret under the right alg": (hs256(HEADER, OPS.raw), "signature"),
    "no kid": (OPS.token(header={"alg": "EdDSA"}), "kid"),
    "unknown kid": (OPS.token(header=HEADER | {"kid": "other"}), 'unknown kid "other"'),
    "kid as a number": (OPS.token(header=HEADER | {"kid": 1}), "kid"),
    "kid as a path": (OPS.token(header=HEADER | {"kid": "../../dev/null"}), "unknown kid"),
    "kid of another key": (OPS.token(header=HEADER | {"kid": "field"}), "signature"),
    "kid twice": (OPS.token(header=b'{"alg":"EdDSA","kid":"ops","kid":"field"}'), "signature"),
    "a stranger's key": (STRANGER.token(), "signature"),
    "a key that it brings": (STRANGER.token(header=HEADER | {"jwk": json.loads(STRANGER.jwk)}), "signature"),
    "critical": (OPS.token(header=HEADER | {"crit": ["exp"], "exp": 1}), "crit"),
    "critical and empty": (OPS.token(header=HEADER | {"crit": []}), "crit"),
    "critical nonsense": (OPS.token(header=HEADER | {"crit": 5}), "crit"),
    "unencoded payload": (OPS.token(header=HEADER | {"b64": False, "crit": ["b64"]}), "crit"),
    "header no object": (OPS.token(header=b'"alg"'), "no JSON object"),
    "header a list": (OPS.token(header=b'["alg"]'), "no JSON object"),
    "header not JSON": (OPS.token(header=b"\xff\xfe"), "no JSON object"),
    "header too deep": (OPS.token(header=b"[" * 4000), "no JSON object"),
    "header too long": (OPS.token(header=HEADER | {"x": "y" * 4000}), "signature"),
    "payload no object": (OPS.token(claims=[GOOD]), "no JSON object"),
    "payload a number": (OPS.token(claims=5), "no JSON object"),
    "payload not JSON": (OPS.token(claims=b"{'jti': 1}"), "no JSON object"),
    "payload too deep": (OPS.token(claims=b'{"args":' + b"[" * 9000), "no JSON object"),
    "exp not a number": (OPS.token(claims=b'{"exp": NaN}'), "no JSON object"),
    "truncated": (OPS.token()[:-5], "signature"),
    "one letter off": (
        b".".join((*SIGNED[:2], (b"B" if SIGNED[2][:1] == b"A" else b"A") + SIGNED[2][1:])),
        "signature",
    ),
    "no signature": (b".".join((*SIGNED[:2], b"")), "only signed commands"),
    "two parts": (b".".join(SIGNED[:2]), "only signed commands"),
    "four parts": (OPS.token() + b".AAAA", "only signed commands"),
    "padded": (OPS.token() + b"==", "only signed commands"),
    "base64 that is none": (b"e%." + SIGNED[1] + b"." + SIGNED[2], "only signed commands"),
    "base64 of no length": (b"eyJhb.e.e", "base64url"),
    "another payload": (b".".join((SIGNED[0], b64(b'{"jti":"c-1","cmd":"exec"}'), SIGNED[2])), "signature"),
    "another header": (b".".join((b64(json.dumps(HEADER | {"typ": "x"}).encode()), *SIGNED[1:])), "signature"),
    "JSON around it": (json.dumps({"payload": SIGNED[1].decode()}).encode(), "only signed commands"),
    "no aud": (OPS.token(without("aud")), "aud"),
    "aud of another device": (OPS.token(GOOD | {"aud": "dev-2"}), "aud"),
    "aud of everybody": (OPS.token(GOOD | {"aud": "_all"}), "aud"),
    "aud that begins so": (OPS.token(GOOD | {"aud": "dev-10"}), "aud"),
    "aud as an object": (OPS.token(GOOD | {"aud": {"dev-1": 1}}), "aud"),
    "aud empty": (OPS.token(GOOD | {"aud": []}), "aud"),
    "aud twice": (OPS.token(json.dumps(GOOD).encode()[:-1] + b',"aud":"dev-2"}'), "aud"),
    "another cmd": (OPS.token(GOOD | {"cmd": "exec"}), "cmd"),
    "no cmd": (OPS.token(without("cmd")), "cmd"),
    "no jti": (OPS.token(without("jti")), "jti"),
    "jti of null": (OPS.token(GOOD | {"jti": None}), "jti"),
    "jti that is no name": (OPS.token(GOOD | {"jti": "../x"}), "jti"),
    "no exp": (OPS.token(without("exp")), "exp"),
    "exp of null": (OPS.token(GOOD | {"exp": None}), "exp"),
    "exp as a text": (OPS.token(GOOD | {"exp": "1900000000"}), "exp"),
    "exp true": (OPS.token(GOOD | {"exp": True}), "exp"),
    "exp negative": (OPS.token(GOOD | {"exp": -1}), "exp"),
    "exp huge": (OPS.token(GOOD | {"exp": 10**12}), "exp"),
    "exp beyond numbers": (OPS.token(GOOD | {"exp": 10**300}), "exp"),
    "nbf as a list": (OPS.token(GOOD | {"nbf": [1]}), "nbf"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_not_signed_for_this_by_one_of_the_keys_is_a_bad_signature(attack: str) -> None:
    """With a reason that names the part that is wrong."""
    payload, words = ATTACKS[attack]
    error = refused(payload)
    assert (error.code, words in str(error)) == (Code.BAD_SIGNATURE, True), str(error)


INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "arguments": (GOOD | {"args": [1]}, "args"),
    "ttl": (GOOD | {"ttl": "soon"}, "ttl"),
    "delay": (GOOD | {"delay": 5}, "delay"),
    "a claim that is misspelt": (GOOD | {"dealy": "1h"}, 'unknown claim "dealy"'),
    "a claim of the unsigned form": (GOOD | {"expires": "2026-12-01T00:00:00Z"}, 'unknown claim "expires"'),
}


@pytest.mark.parametrize("name", INVALID)
def test_what_is_signed_and_makes_no_sense_is_invalid_args(name: str) -> None:
    """With the id."""
    claims, words = INVALID[name]
    error = refused(OPS.token(claims))
    assert (error.code, error.id, words in str(error)) == (Code.INVALID_ARGS, "c-1", True), str(error)


def test_the_id_comes_back_where_it_can_be_read() -> None:
    """So that an honest sender learns why; whatever is no name does not."""
    for payload in (b'{"id": "c-1"}', STRANGER.token(), OPS.token(GOOD | {"cmd": "x"})):
        assert refused(payload).id == "c-1"
    for payload in (b'{"id": 5}', b'{"id": "a/b"}', STRANGER.token(GOOD | {"jti": ["c-1"]}), b"eyJ.eyJ.e", b"[]"):
        assert refused(payload).id is None


def test_size_is_judged_before_anything_is_read() -> None:
    """Up to the limit it is."""
    for by in (authority(), authority(allow=["*"])):
        error = refused(b"e" * (MAX_PAYLOAD + 1), by=by)
        assert (error.code, error.id) == (Code.INVALID_ARGS, None)
    room = MAX_PAYLOAD - len(OPS.token()) - 100
    assert authority().read("job-run", "dev-1", OPS.token(GOOD | {"args": {"x": "y" * (room * 3 // 4)}}))[0].id == "c-1"


@given(
    st.binary(max_size=200)
    | st.builds(
        lambda header, claims: OPS.token(claims, header),
        st.dictionaries(
            st.sampled_from(["alg", "kid", "crit", "b64", "typ", "jwk"]),
            st.sampled_from(["EdDSA", "ops", 5, None, [], {}, True]),
        ),
        st.dictionaries(
            st.sampled_from(list(GOOD)), st.none() | st.booleans() | st.floats() | st.integers() | st.text()
        ),
    )
)
def test_whatever_arrives_only_a_command_error_comes_out(payload: bytes) -> None:
    """Nothing of the library's, and nothing of Python's."""
    for by in (authority(), authority(allow=["*"])):
        try:
            by.read("job-run", "dev-1", payload)
        except CommandError as error:
            assert error.code in {Code.BAD_SIGNATURE, Code.INVALID_ARGS}  # noqa: PT017  # it need not be raised


# ---------------------------------------------------------------- configuration
SAID: dict[str, Any] = {"version": 7, "config": {"heartbeat": {"every": "30s"}}}
CONFIGURING: dict[str, Any] = {
    "ops": {"public": OPS.public, "allow": ["ping", "conf*"]},
    "field": {"public": FIELD.public, "groups": ["plant-7"]},
}


def not_taken(payload: bytes, by: Authority | None = None) -> str:
    """Return why a configuration is not taken."""
    with pytest.raises(ValueError, match=r".") as caught:
        (by or authority(keys=CONFIGURING)).configuration(payload)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_without_keys_a_configuration_is_json() -> None:
    """Nothing at all says that there is to be none; a signed one cannot be verified."""
    plain = authority(allow=[])
    assert plain.configuration(json.dumps(SAID).encode()) == SAID
    assert plain.configuration(b" \n\t") is plain.configuration(b"") is None
    assert "has no keys" in not_taken(OPS.token(SAID | {"aud": "dev-1"}), plain)
    assert "no JSON" in not_taken(b"[", plain)
    assert "an object" in not_taken(b"7", plain)


@pytest.mark.parametrize("audience", ["dev-1", "_all", "_group/plant-7", ["x", 5, None, "_group/plant-8"], ["dev-1"]])
def test_a_signed_configuration_is_for_the_device_a_group_of_its_or_all(audience: object) -> None:
    """By a key that may sign configuration; white space around it is no trouble."""
    claims = authority(keys=CONFIGURING).configuration(b" " + OPS.token(SAID | {"aud": audience}) + b"\n")
    assert claims == SAID | {"aud": audience}


@pytest.mark.parametrize(
    ("audience", "taken"),
    [("dev-1", True), ("_group/plant-7", True), ("_group/plant-8", False), ("_all", False), (["_all", "dev-1"], True)],
)
def test_a_key_for_groups_configures_those_and_single_devices(audience: object, *, taken: bool) -> None:
    """A key without a list of its own may configure."""
    token = FIELD.token(SAID | {"aud": audience})
    if taken:
        assert authority(keys=CONFIGURING).configuration(token) is not None
    else:
        assert "sign for this device, by a key that may" in not_taken(token)


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"", "nothing counts that is not signed"),
        (b" ", "nothing counts that is not signed"),
        (json.dumps(SAID).encode(), "only signed commands and configuration count"),
        (b"e", "one JWT in the compact form is needed"),
        (OPS.token(SAID), "aud: "),
        (OPS.token(SAID | {"aud": None}), "aud: "),
        (OPS.token(SAID | {"aud": []}), "aud: "),
        (OPS.token(SAID | {"aud": {"dev-1": 1}}), "aud: "),
        (OPS.token(SAID | {"aud": "dev-2"}), "aud: "),
        (OPS.token(SAID | {"aud": "_group/plant-9"}), "aud: "),
        (OPS.token(SAID | {"aud": "dev-1", "exp": 1_900_000_000}), "exp: "),
        (OPS.token(SAID | {"aud": "dev-1", "exp": None}), "exp: "),
        (OPS.token(SAID | {"aud": "dev-1", "nbf": 1_900_000_000}), "nbf: "),
        (STRANGER.token(SAID | {"aud": "dev-1"}), ""),
        (OPS.token(SAID | {"aud": "dev-1"}, {"alg": "none", "kid": "ops"}), "alg: "),
        (OPS.token(SAID | {"aud": "dev-1"}, {"alg": "EdDSA", "kid": "who"}), "unknown kid"),
        (OPS.token([SAID]), "no JSON object"),
        (b"e" * (MAX_CONFIGURATION + 1), "bytes; "),
    ],
    ids=range(18),
)
def test_where_there_are_keys_nothing_else_is_taken(payload: bytes, words: str) -> None:
    """Least of all that there is to be none: whoever holds the broker must not undo what was signed."""
    assert words in not_taken(payload)


def test_a_key_that_may_not_configure_does_not() -> None:
    """Whatever else it may do; config-get is something else."""
    for allow in ([], ["ping", "config-*"], ["CONFIG"]):
        keys = {"ops": {"public": OPS.public, "allow": allow}}
        assert "by a key that may" in not_taken(OPS.token(SAID | {"aud": "dev-1"}), authority(keys=keys))


def test_a_signed_command_is_no_configuration_and_the_reverse() -> None:
    """What was signed for one purpose serves no other."""
    assert "exp: " in not_taken(OPS.token())
    error = refused(OPS.token(SAID | {"aud": "dev-1"}), by=authority(keys=CONFIGURING), command="config")
    assert error.code is Code.BAD_SIGNATURE


@given(
    st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: OPS.token(SAID | {"aud": "dev-1"})[:-30] + tail)
)
def test_whatever_arrives_as_configuration_only_a_reason_comes_out(payload: bytes) -> None:
    """With keys, and without."""
    not_taken(payload)
    try:
        found = authority(allow=[]).configuration(payload)
    except ValueError as error:
        found = {"why": str(error)}
    assert found is None or isinstance(found, dict)
