"""Keys that change while clients are connected, published by a real HTTP server that may be away."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from notifyd.push.auth import TokenVerifier
from tests.fixtures.push import (
    PushServer,
    closed_with,
    make_message,
    next_frame,
    push_settings,
    running_push_server,
)

ISSUER, AUDIENCE = "https://id.example", "notifyd"
#: Two of each kind: the one before and the one after the rotation.
KEYS: dict[str, tuple[Any, Any]] = {
    "RS256": tuple(rsa.generate_private_key(65537, 2048) for _ in range(2)),
    "ES256": tuple(ec.generate_private_key(ec.SECP256R1()) for _ in range(2)),
    "EdDSA": tuple(ed25519.Ed25519PrivateKey.generate() for _ in range(2)),
}
_JWK = {
    "RS256": jwt.algorithms.RSAAlgorithm.to_jwk,
    "ES256": jwt.algorithms.ECAlgorithm.to_jwk,
    "EdDSA": jwt.algorithms.OKPAlgorithm.to_jwk,
}


class Clock:
    """The time of the verifier, which a test moves; tokens and connections keep the real one."""

    ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


class Publisher:
    """Serves a key set over HTTP on one port, and may go away and come back."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.asked = 0
        self.port = 0
        self._runner: web.AppRunner | None = None

    def serve(self, alg: str, *which: int) -> None:
        """Publish the keys with these numbers, no other."""
        self.keys = [
            {**json.loads(_JWK[alg](KEYS[alg][n].public_key())), "kid": f"k{n}", "use": "sig", "alg": alg}
            for n in which
        ]

    async def start(self) -> None:
        async def answer(_: web.Request) -> web.Response:
            self.asked += 1
            return web.json_response({"keys": self.keys})

        app = web.Application()
        app.router.add_get("/jwks", answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = site.port

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None


def token(alg: str, number: int, user: str = "alice", kid: str | None = None) -> str:
    claims = {"sub": user, "exp": time.time() + 86_400, "iss": ISSUER, "aud": AUDIENCE}
    return jwt.encode(claims, KEYS[alg][number], algorithm=alg, headers={"kid": kid or f"k{number}"})


@asynccontextmanager
async def world(alg: str) -> AsyncIterator[tuple[PushServer, Publisher, Clock]]:
    """A push server whose tokens are verified by the keys of a publisher, which serves the first one."""
    publisher, clock = Publisher(), Clock()
    publisher.serve(alg, 0)
    await publisher.start()
    settings = push_settings(
        jwt_secret=None,
        jwt_jwks_url=f"http://127.0.0.1:{publisher.port}/jwks",
        jwt_issuer=ISSUER,
        jwt_audience=AUDIENCE,
    )
    try:
        async with running_push_server(TokenVerifier(settings, now=clock)) as server:
            yield server, publisher, clock
    finally:
        await publisher.stop()


async def say_hello(server: PushServer, with_token: str) -> Any:
    ws = await server.connect()
    await ws.send_json({"op": "hello", "token": with_token})
    return ws


async def is_welcome(server: PushServer, with_token: str) -> Any:
    ws = await say_hello(server, with_token)
    assert (await next_frame(ws))["op"] == "welcome"
    return ws


@pytest.mark.parametrize("alg", KEYS)
async def test_a_key_is_replaced_while_clients_are_connected(alg):
    async with world(alg) as (server, publisher, clock):
        early = await is_welcome(server, token(alg, 0))
        publisher.serve(alg, 0, 1)
        clock.ahead_s += 11
        late = await is_welcome(server, token(alg, 1, "bob"))
        assert publisher.asked == 2
        # The old key is withdrawn: who is in stays in, who comes with it is not let in any more.
        publisher.serve(alg, 1)
        clock.ahead_s += 301
        assert (await closed_with(await say_hello(server, token(alg, 0))))[0] == 4401
        assert publisher.asked == 3
        for user, ws in (("alice", early), ("bob", late)):
            server.publish(make_message(user, title="still here"))
            assert (await next_frame(ws))["message"]["content"]["title"] == "still here"
            await ws.close()


@pytest.mark.parametrize("alg", KEYS)
async def test_the_publisher_is_away_and_comes_back_with_another_key(alg):
    async with world(alg) as (server, publisher, clock):
        early = await is_welcome(server, token(alg, 0))
        await publisher.stop()
        clock.ahead_s += 400
        # Keys that are known are good for a while; whether another is good, nobody can say.
        await (await is_welcome(server, token(alg, 0, "bob"))).close()
        assert (await closed_with(await say_hello(server, token(alg, 1))))[0] == 1013
        server.publish(make_message("alice", title="meanwhile"))
        assert (await next_frame(early))["message"]["content"]["title"] == "meanwhile"
        publisher.serve(alg, 1)
        await publisher.start()
        clock.ahead_s += 11
        await (await is_welcome(server, token(alg, 1, "carol"))).close()
        assert (await closed_with(await say_hello(server, token(alg, 0))))[0] in (1013, 4401)
        await early.close()


async def test_a_flood_of_unknown_keys_asks_the_publisher_once_and_keeps_nobody_out():
    alg = "ES256"
    async with world(alg) as (server, publisher, clock):
        await (await is_welcome(server, token(alg, 0))).close()
        publisher.serve(alg, 0, 1)

        async def knock(number: int) -> int:
            ws = await say_hello(server, token(alg, 1, "mallory", kid=f"made-up-{number}"))
            return (await closed_with(ws))[0]

        codes = await asyncio.gather(*(knock(n) for n in range(50)))
        # Nobody has looked since they came, so none of them is refused for good.
        assert set(codes) == {1013}
        assert publisher.asked == 1
        # One with the new key came in the same moment: it may try again, and is let in then.
        assert (await closed_with(await say_hello(server, token(alg, 1, "bob"))))[0] == 1013
        clock.ahead_s += 11
        codes = await asyncio.gather(*(knock(n) for n in range(50)))
        # Whoever the fetch was for is refused for good; whoever comes within the pause behind it is not.
        assert 4401 in codes
        assert set(codes) <= {4401, 1013}
        assert publisher.asked == 2
        await (await is_welcome(server, token(alg, 1, "bob"))).close()
        assert publisher.asked == 2
