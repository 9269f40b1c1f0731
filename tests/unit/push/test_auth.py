"""Tokens: what opens the door, and all that must not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from notifyd.errors import ConfigError
from notifyd.push.auth import KeysUnavailable, PermissionDenied, TokenVerifier, issue_token
from tests.fixtures.push import SECRET, push_settings

ISSUER, AUDIENCE = "https://id.example", "notifyd"

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


class Clock:
    """A clock that tests move. PyJWT reads the real one, so tokens of tests live long."""

    def __init__(self) -> None:
        self.at = time.time()

    def __call__(self) -> float:
        return self.at


def jwk_of(key: Any, kid: str) -> dict[str, Any]:
    algorithm = {
        rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
        ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
        ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm,
    }
    [made] = [a for kind, a in algorithm.items() if isinstance(key, kind)]
    return {**json.loads(made.to_jwk(key.public_key())), "kid": kid, "use": "sig"}


class Publisher:
    """Publishes keys, counts how often it is asked, and can be away."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)
        self.asked = 0
        self.is_away = False

    async def fetch(self, url: str) -> bytes:
        self.asked += 1
        if self.is_away:
            raise OSError("no route")
        return json.dumps({"keys": self.keys}).encode()


def keyed(publisher: Publisher, clock: Clock) -> TokenVerifier:
    settings = push_settings(
        jwt_secret=None, jwt_jwks_url="https://id.example/jwks", jwt_issuer=ISSUER, jwt_audience=AUDIENCE
    )
    return TokenVerifier(settings, fetch=publisher.fetch, now=clock)


def claims(clock: Clock, **more: Any) -> dict[str, Any]:
    return {"sub": "alice", "exp": clock() + 7200, "iss": ISSUER, "aud": AUDIENCE, **more}


def unsigned(header: dict[str, Any], body: dict[str, Any]) -> str:
    parts = (base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in (header, body))
    return ".".join(parts)


def test_our_own_token_opens_with_its_scopes():
    settings = push_settings(jwt_issuer=ISSUER, jwt_audience=AUDIENCE)
    token = issue_token(settings, "alice", ["notify:send"], 60)
    identity = TokenVerifier(settings).verify(token)
    assert (identity.user, identity.scopes) == ("alice", {"notify:send"})
    identity.require("notify:send")
    with pytest.raises(PermissionDenied) as denied:
        identity.require("notify:ops")
    assert denied.value.reason == "missing_scope"


def secret_token(more: dict[str, Any], *, drop: str = "", key: str = SECRET, alg: str = "HS256") -> str:
    clock = Clock()
    body = {"sub": "alice", "exp": clock() + 7200, **more}
    body.pop(drop, None)
    return jwt.encode(body, key, algorithm=alg)


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (secret_token({}, key="another-secret-of-32-bytes-or-more!!"), "bad_token"),
        (secret_token({}, alg="HS512"), "bad_token"),
        (secret_token({}, drop="exp"), "bad_token"),
        (secret_token({}, drop="sub"), "bad_token"),
        (secret_token({"exp": 1}), "token_expired"),
        (secret_token({"exp": Clock()() - 1}), "token_expired"),
        (secret_token({"exp": "soon"}), "bad_token"),
        (secret_token({"nbf": Clock()() + 3600}), "bad_token"),
        (secret_token({"sub": ""}), "bad_token"),
        (secret_token({"sub": "a\0b"}), "bad_token"),
        (secret_token({"sub": "x" * 129}), "bad_token"),
        (secret_token({"scope": ["notify:ops"]}), "bad_token"),
        (secret_token({"aud": "another service"}), "bad_token"),
        ("x" * 9000, "bad_token"),
        ("a.b", "bad_token"),
        ("...", "bad_token"),
        ("", "bad_token"),
        ("ünïcode.x.y", "bad_token"),
        (unsigned({"alg": "none"}, {"sub": "alice", "exp": 9e9}) + ".", "bad_token"),
        (unsigned({"alg": "HS256"}, {"sub": "alice", "exp": 1e400}) + ".AAAA", "bad_token"),
    ],
)
def test_what_must_not_open(token, reason):
    with pytest.raises(PermissionDenied) as denied:
        TokenVerifier(push_settings()).verify(token)
    assert denied.value.reason == reason
    assert token == "" or token not in str(denied.value)


def test_issuer_and_audience_are_checked_where_they_are_set():
    verifier = TokenVerifier(push_settings(jwt_issuer=ISSUER, jwt_audience=AUDIENCE))
    for wrong in (
        {"iss": "https://evil.example", "aud": AUDIENCE},
        {"iss": ISSUER, "aud": "x"},
        {"iss": ISSUER},
        {},
    ):
        with pytest.raises(PermissionDenied):
            verifier.verify(secret_token(wrong))
    assert verifier.verify(secret_token({"iss": ISSUER, "aud": [AUDIENCE, "x"]})).user == "alice"


def test_scopes_that_nobody_knows_are_left_out():
    identity = TokenVerifier(push_settings()).verify(secret_token({"scope": "notify:ops admin *"}))
    assert identity.scopes == {"notify:ops"}


@pytest.mark.parametrize(("key", "alg"), [(RSA_KEY, "RS256"), (EC_KEY, "ES256"), (ED_KEY, "EdDSA")])
async def test_published_keys_open(key, alg):
    clock = Clock()
    publisher = Publisher(jwk_of(RSA_KEY, "other"), jwk_of(key, "k1"))
    verifier = keyed(publisher, clock)
    token = jwt.encode(claims(clock), key, algorithm=alg, headers={"kid": "k1"})
    with pytest.raises(KeysUnavailable):
        verifier.verify(token)
    assert (await verifier.authenticate(token)).user == "alice"
    assert verifier.verify(token).user == "alice"
    assert publisher.asked == 1


async def test_a_public_key_is_never_taken_for_a_secret():
    clock = Clock()
    verifier = keyed(Publisher(jwk_of(RSA_KEY, "k1")), clock)
    pem = RSA_KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    signing = unsigned({"alg": "HS256", "kid": "k1"}, claims(clock))
    signature = base64.urlsafe_b64encode(hmac.new(pem, signing.encode(), hashlib.sha256).digest()).rstrip(
        b"="
    )
    with pytest.raises(PermissionDenied) as denied:
        await verifier.authenticate(f"{signing}.{signature.decode()}")
    assert denied.value.reason == "bad_token"


async def test_symmetric_and_encryption_keys_of_a_set_are_left_out():
    clock = Clock()
    secret = base64.urlsafe_b64encode(SECRET.encode()).rstrip(b"=").decode()
    publisher = Publisher(
        {"kty": "oct", "k": secret, "kid": "sym", "alg": "HS256"},
        {**jwk_of(EC_KEY, "enc"), "use": "enc"},
        jwk_of(RSA_KEY, "k1"),
        {"kty": "RSA"},
        7,  # type: ignore[arg-type]
    )
    verifier = keyed(publisher, clock)
    for token in (
        jwt.encode(claims(clock), SECRET, algorithm="HS256", headers={"kid": "sym"}),
        jwt.encode(claims(clock), EC_KEY, algorithm="ES256", headers={"kid": "enc"}),
    ):
        with pytest.raises(PermissionDenied) as denied:
            await verifier.authenticate(token)
        assert denied.value.reason == "unknown_key"
        clock.at += 11


async def test_rotation_is_found_but_strange_key_ids_cause_no_storm():
    clock = Clock()
    publisher = Publisher(jwk_of(RSA_KEY, "k1"))
    verifier = keyed(publisher, clock)
    await verifier.authenticate(jwt.encode(claims(clock), RSA_KEY, algorithm="RS256", headers={"kid": "k1"}))
    publisher.keys = [jwk_of(EC_KEY, "k2")]
    rotated = jwt.encode(claims(clock), EC_KEY, algorithm="ES256", headers={"kid": "k2"})
    for _ in range(50):
        # Not refused for good: the key may have been published since the last look.
        with pytest.raises(KeysUnavailable):
            await verifier.authenticate(rotated)
    assert publisher.asked == 1
    clock.at += 11
    assert (await verifier.authenticate(rotated)).user == "alice"
    assert publisher.asked == 2


async def test_old_keys_serve_while_the_publisher_is_away_but_not_for_ever():
    clock = Clock()
    publisher = Publisher(jwk_of(RSA_KEY, "k1"))
    verifier = keyed(publisher, clock)
    token = jwt.encode(claims(clock), RSA_KEY, algorithm="RS256", headers={"kid": "k1"})
    await verifier.authenticate(token)
    publisher.is_away = True
    clock.at += 400
    assert verifier.is_stale
    assert (await verifier.authenticate(token)).user == "alice"
    clock.at += 3600
    with pytest.raises(KeysUnavailable):
        await verifier.authenticate(token)


@pytest.mark.parametrize(
    "overrides",
    [
        {"jwt_secret": None},
        {"jwt_jwks_url": "https://id.example", "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE},
        {"jwt_secret": None, "jwt_jwks_url": "https://id.example", "jwt_issuer": ISSUER},
    ],
)
def test_settings_that_would_let_in_too_many_or_nobody_are_refused(overrides):
    with pytest.raises(ConfigError):
        TokenVerifier(push_settings(**overrides))


def test_what_no_token_is_made_for():
    for user, more in (
        ("", {}),
        ("a\0", {}),
        ("x" * 129, {}),
        ("a", {"scopes": ["admin"]}),
        ("a", {"ttl_s": 0}),
    ):
        with pytest.raises(ConfigError):
            issue_token(push_settings(), user, **more)
    with pytest.raises(ConfigError) as missing:
        issue_token(push_settings(jwt_secret=None), "alice")
    assert "NOTIFYD_JWT_SECRET" in str(missing.value)
