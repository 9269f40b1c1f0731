"""Who a client is: tokens verified against a shared secret or against published keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import jwt
import msgspec

from notifyd.errors import ConfigError, PermanentError, TransientError
from notifyd.log import get_logger
from notifyd.settings import Settings

SCOPES: Final = ("notify:send", "notify:ops")

#: One kind of key serves one family of algorithms, so that a public key can never be taken
#: for an HMAC secret (RFC 8725, 3.1): the token's own `alg` chooses nothing.
SECRET_ALGORITHMS: Final = ("HS256",)
KEY_ALGORITHMS: Final = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip

MAX_TOKEN_CHARS: Final = 8192
_MAX_JWKS_BYTES: Final = 256 * 1024
#: How far the clocks of issuer and pod may differ for `nbf` and `iat`; `exp` gets no grace.
_LEEWAY_S: Final = 10
#: Published keys are asked for again after this long ...
_FRESH_S: Final = 300.0
#: ... never more often than this, whatever key ids tokens name (they are the attacker's choice) ...
_COOLDOWN_S: Final = 10.0
#: ... and are trusted for this long while the publisher cannot be reached.
_STALE_S: Final = 3600.0
_FETCH_TIMEOUT_S: Final = 3.0

_log = get_logger(component="auth")


class PermissionDenied(PermanentError):
    """A token is missing, wrong, expired or lacks a scope. Its text never repeats the token."""

    reason = "unauthorised"


class KeysUnavailable(TransientError):
    """The published keys are not here yet, or do not hold the one that a token names."""

    reason = "keys_unavailable"


@dataclass(frozen=True, slots=True)
class Identity:
    """A verified client. Times are seconds since 1970; `issued_at_s` is 0 where the token does not say."""

    user: str
    scopes: frozenset[str]
    expires_at_s: float
    issued_at_s: float = 0.0

    def require(self, scope: str) -> None:
        """Raise `PermissionDenied` (reason `missing_scope`) unless the token carries `scope`."""
        if scope not in self.scopes:
            raise PermissionDenied(f"the token lacks the scope {scope}", reason="missing_scope")


class TokenVerifier:
    """Verifies tokens with the one kind of key that the settings name.

    `verify` never waits. `authenticate` is the same for callers that can: it fetches the
    published keys when they are old or do not hold the key that the token names.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        fetch: Callable[[str], Awaitable[bytes]] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        secret, url = settings.jwt_secret, settings.jwt_jwks_url
        if (secret is None) == (url is None):
            raise ConfigError(
                "set one of NOTIFYD_JWT_SECRET and NOTIFYD_JWT_JWKS_URL"
                + ("" if secret is None else ", not both"),
                reason="no_token_keys" if secret is None else "two_token_keys",
                remedy="the secret is for development; production publishes its keys",
            )
        if url is not None and not (settings.jwt_issuer and settings.jwt_audience):
            raise ConfigError(
                "NOTIFYD_JWT_JWKS_URL needs NOTIFYD_JWT_ISSUER and NOTIFYD_JWT_AUDIENCE",
                reason="bad_setting",
                remedy="without them a token made for another service would open this one",
            )
        self._secret = secret.get_secret_value() if secret is not None else None
        self._url = url
        self._issuer = settings.jwt_issuer
        self._audience = settings.jwt_audience
        self._max_user_chars = settings.message_max_user_id_chars
        self._fetch = fetch or fetch_keys
        self._now = now
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._fetches = 0
        self._refreshing: asyncio.Task[None] | None = None

    def verify(self, token: str) -> Identity:
        """Return who the token speaks for.

        Raises `PermissionDenied`, or `KeysUnavailable` where fetching the published keys may help.
        """
        if not token or len(token) > MAX_TOKEN_CHARS:
            raise PermissionDenied("the token is missing or too long", reason="bad_token")
        try:
            claims = self._decode(token)
        except jwt.ExpiredSignatureError:
            raise PermissionDenied("the token has expired", reason="token_expired") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            # The library's texts name claims and algorithms, never the token.
            raise PermissionDenied(f"the token is not valid: {error}"[:200], reason="bad_token") from None
        return self._identity(claims)

    @property
    def is_stale(self) -> bool:
        """Whether the published keys are to be fetched again: then use `authenticate`."""
        return self._url is not None and self._now() - self._fetched_at > _FRESH_S

    async def authenticate(self, token: str) -> Identity:
        """Verify like `verify`, after fetching the published keys where that is due."""
        fetches = self._fetches
        if self.is_stale:
            await self._refresh()
        try:
            return self.verify(token)
        except KeysUnavailable:
            await self._refresh()
        try:
            return self.verify(token)
        except KeysUnavailable as error:
            # Its key may have been published since we last looked: only newer keys can say no for good.
            if self._fetches == fetches:
                raise
            raise PermissionDenied(error.message, reason="unknown_key") from None

    async def stop(self) -> None:
        """End a fetch that is under way."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)

    def _decode(self, token: str) -> Mapping[str, Any]:
        key: Any
        if self._secret is not None:
            key, algorithms = self._secret, list(SECRET_ALGORITHMS)
        else:
            header = jwt.get_unverified_header(token)
            key = self._key(header.get("kid"))
            # A key of the set serves its own algorithm only.
            algorithms = [key.algorithm_name] if key.algorithm_name in KEY_ALGORITHMS else []
        return jwt.decode(
            token,
            key,
            algorithms=algorithms,
            issuer=self._issuer,
            audience=self._audience,
            leeway=_LEEWAY_S,
            options={"require": ["exp", "sub", *self._required()]},
        )

    def _required(self) -> list[str]:
        return (["iss"] if self._issuer else []) + (["aud"] if self._audience else [])

    def _key(self, kid: Any) -> jwt.PyJWK:
        if self._now() - self._fetched_at <= _STALE_S:
            key = self._keys.get(kid if isinstance(kid, str) else None)
            if key is None and kid is None and len(self._keys) == 1:
                key = next(iter(self._keys.values()))
            if key is not None:
                return key
        raise KeysUnavailable("no published key fits the token")

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        user, scope, exp = claims["sub"], claims.get("scope", ""), float(claims["exp"])
        if not isinstance(user, str) or not 0 < len(user) <= self._max_user_chars or "\0" in user:
            raise PermissionDenied("the token's `sub` is no user id", reason="bad_token")
        if not isinstance(scope, str):
            raise PermissionDenied("the token's `scope` is no string", reason="bad_token")
        if exp <= self._now():
            raise PermissionDenied("the token has expired", reason="token_expired")
        # A time that is not told is one before any end of sessions.
        issued_at_s = float(claims.get("iat", 0.0))
        return Identity(user, frozenset(scope.split()) & frozenset(SCOPES), exp, issued_at_s)

    async def _refresh(self) -> None:
        """Fetch the keys, one fetch at a time for all who wait; failures leave the old ones."""
        if self._refreshing is None:
            if self._now() - self._tried_at < _COOLDOWN_S:
                return
            self._tried_at = self._now()
            self._refreshing = asyncio.create_task(self._fetch_keys(), name="fetch token keys")
        # One waiter that goes away must not end the fetch of the others.
        await asyncio.shield(self._refreshing)

    async def _fetch_keys(self) -> None:
        try:
            assert self._url is not None
            async with asyncio.timeout(_FETCH_TIMEOUT_S):
                keys = parse_keys(await self._fetch(self._url))
        except (OSError, TimeoutError, aiohttp.ClientError, ValueError) as error:
            _log.warning("token_keys_unavailable", url=self._url, error=str(error) or type(error).__name__)
        else:
            self._keys = keys
            self._fetched_at = self._now()
            self._fetches += 1
        finally:
            self._refreshing = None


def parse_keys(document: bytes) -> dict[str | None, jwt.PyJWK]:
    """Read the signing keys of a JWKS (RFC 7517) by key id; raises `ValueError` when there is none.

    Keys of kinds we do not take, symmetric ones above all, are left out.
    """
    parsed = msgspec.json.decode(document)
    entries = parsed.get("keys") if isinstance(parsed, dict) else None
    keys: dict[str | None, jwt.PyJWK] = {}
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or entry.get("kty") == "oct":
            continue
        try:
            key = jwt.PyJWK(entry)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue
        if key.algorithm_name in KEY_ALGORITHMS:
            keys[key.key_id if isinstance(key.key_id, str) else None] = key
    if not keys:
        raise ValueError("the document holds no signing key")
    return keys


async def fetch_keys(url: str) -> bytes:
    """Fetch a JWKS document, bounded in size, without following redirects."""
    async with aiohttp.ClientSession() as session, session.get(url, allow_redirects=False) as response:
        if response.status != 200:
            raise ValueError(f"HTTP {response.status}")
        body = bytearray()
        async for chunk in response.content.iter_chunked(65536):
            body += chunk
            if len(body) > _MAX_JWKS_BYTES:
                raise ValueError(f"more than {_MAX_JWKS_BYTES} bytes")
        return bytes(body)


def issue_token(
    settings: Settings,
    user: str,
    scopes: Sequence[str] = (),
    ttl_s: float = 3600.0,
    *,
    now: Callable[[], float] = time.time,
) -> str:
    """Make a token for development with `jwt_secret`, valid for `ttl_s` seconds."""
    if settings.jwt_secret is None:
        raise ConfigError(
            "NOTIFYD_JWT_SECRET is not set, so no token can be made",
            reason="no_token_keys",
            remedy="`export NOTIFYD_JWT_SECRET=$(openssl rand -hex 32)`, the same for every process",
        )
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown:
        raise ConfigError(
            f"unknown scope {', '.join(unknown)}",
            reason="unknown_scope",
            remedy=f"one of {', '.join(SCOPES)}",
        )
    if not 0 < len(user) <= settings.message_max_user_id_chars or "\0" in user:
        raise ConfigError(
            f"a user id has 1 to {settings.message_max_user_id_chars} characters and no NUL",
            reason="bad_user_id",
        )
    if not ttl_s > 0:
        raise ConfigError("a token must be valid for more than 0 seconds", reason="bad_ttl")
    at_s = now()
    claims: dict[str, Any] = {"sub": user, "iat": int(at_s), "exp": int(at_s + max(1.0, ttl_s))}
    if scopes:
        claims["scope"] = " ".join(scopes)
    if settings.jwt_issuer:
        claims["iss"] = settings.jwt_issuer
    if settings.jwt_audience:
        claims["aud"] = settings.jwt_audience
    return jwt.encode(claims, settings.jwt_secret.get_secret_value(), algorithm="HS256")
