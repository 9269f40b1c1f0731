"""Published keys at the door: the socket waits for the fetch, the loop does not."""

from __future__ import annotations

import asyncio
import json
import time

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from notifyd.push.auth import TokenVerifier
from tests.fixtures.push import closed_with, next_frame, push_settings, running_push_server
from tests.fixtures.waiting import eventually

KEY = ec.generate_private_key(ec.SECP256R1())
JWKS = json.dumps(
    {"keys": [{**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key())), "kid": "k1", "use": "sig"}]}
).encode()


def token_of(user: str) -> str:
    claims = {"sub": user, "exp": time.time() + 60, "iss": "https://id.example", "aud": "notifyd"}
    return jwt.encode(claims, KEY, algorithm="ES256", headers={"kid": "k1"})


class Publisher:
    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.asked = 0
        self.answer: bytes | Exception = JWKS

    async def fetch(self, url: str) -> bytes:
        self.asked += 1
        await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def verifier(self) -> TokenVerifier:
        settings = push_settings(
            jwt_secret=None,
            jwt_jwks_url="https://id.example/jwks",
            jwt_issuer="https://id.example",
            jwt_audience="notifyd",
        )
        return TokenVerifier(settings, fetch=self.fetch)


async def test_what_follows_the_hello_waits_for_the_keys_and_one_fetch_serves_all():
    publisher = Publisher()
    async with running_push_server(publisher.verifier(), ws_hello_timeout_s=0.1) as server:
        clients = [await server.connect() for _ in range(3)]
        for ws in clients:
            await ws.send_json({"op": "hello", "token": token_of("alice")})
            await ws.send_json({"op": "ack", "ids": ["x"]})
        await eventually(lambda: publisher.asked == 1)
        assert server.hub.connections == 0
        # One that says nothing is closed for it, one whose token is being checked is not.
        assert (await closed_with(await server.connect()))[0] == 4408
        publisher.gate.set()
        for ws in clients:
            frames = []
            while len(frames) < 2:
                got = json.loads((await ws.receive(timeout=5)).data)
                frames.extend(got if isinstance(got, list) else [got])
            assert [frame["op"] for frame in frames] == ["welcome", "ok"]
            await ws.send_json({"op": "ack", "ids": ["y"]})
            assert (await next_frame(ws))["refused"] == ["y"]
        assert publisher.asked == 1


async def test_keys_that_cannot_be_had_are_no_fault_of_the_client():
    publisher = Publisher()
    publisher.answer = OSError("no route")
    publisher.gate.set()
    async with running_push_server(publisher.verifier()) as server:
        ws = await server.connect()
        await ws.send_json({"op": "hello", "token": token_of("alice")})
        code, frames = await closed_with(ws)
        assert (code, frames[0]["code"]) == (1013, "try_later")


async def test_a_flood_before_the_welcome_is_refused():
    publisher = Publisher()
    async with running_push_server(publisher.verifier()) as server:
        ws = await server.connect()
        await ws.send_json({"op": "hello", "token": token_of("alice")})
        await ws.send_json([{"op": "ack", "ids": ["x"]}] * 17)
        assert (await closed_with(ws))[0] == 4400
        publisher.gate.set()


async def test_a_client_that_leaves_while_its_token_is_checked_is_forgotten():
    publisher = Publisher()
    async with running_push_server(publisher.verifier()) as server:
        ws = await server.connect()
        await ws.send_json({"op": "hello", "token": token_of("alice")})
        await eventually(lambda: publisher.asked == 1)
        await ws.close()
        await eventually(lambda: server.hub.sockets == 0)
        publisher.gate.set()
        other = await server.connect()
        await other.send_json({"op": "hello", "token": token_of("bob")})
        assert (await next_frame(other))["op"] == "welcome"
        assert server.hub.connections == 1
