"""Sessions as clients have them, and what is done to their bytes. All of it follows from a seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random

from tests.fixtures.sockets import BINARY, CLOSE, PING, PONG, TEXT, masked, request

#: Bytes that mean something: first bytes of frames, lengths and their limits.
_TELLING = bytes((0x00, 0x01, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8A, 0xC1, 0xFD, 0xFE, 0xFF, 0x7D, 0x7E, 0x7F))
_IDS = ("x", "019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11", "é€😀")
_OPCODES = (0x00, 0x01, 0x02, 0x08, 0x09, 0x0A, TEXT, BINARY, CLOSE, PING, PONG, 0x83, 0x8B, 0xC1)


def make_session(rng: Random, token: str) -> tuple[bytes, list[bytes]]:
    """Build a handshake and the frames of a session that breaks no rule."""
    hello = {"op": "hello", "token": token}
    if rng.random() < 0.3:
        hello["cursor"] = rng.choice(("", "nonsense", "AAAA", "x" * 500))
    frames = [_frame(rng, json.dumps(hello).encode())]
    for _ in range(rng.randrange(8)):
        ids = [
            rng.choice(("x", "019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11", "é€😀"))
            for _ in range(rng.randint(1, 5))
        ]
        mark = {"op": rng.choice(("ack", "seen", "read", "dance")), "ids": ids}
        kind = rng.random()
        if kind < 0.2:
            frames.append(_frame(rng, rng.randbytes(rng.randrange(126)), PING))
        elif kind < 0.3:
            frames.append(_frame(rng, rng.randbytes(rng.randrange(126)), PONG))
        elif kind < 0.4:
            frames.append(
                _frame(rng, json.dumps({"op": "later", "pad": "x" * rng.randrange(16_000)}).encode())
            )
        elif kind < 0.7:
            text = json.dumps([mark] * rng.randint(1, 3), ensure_ascii=False).encode()
            cuts = sorted(rng.randrange(len(text)) for _ in range(rng.randint(1, 4)))
            parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
            for index, part in enumerate(parts):
                first = (0 if index else 0x01) | (0x80 if index == len(parts) - 1 else 0)
                frames.append(_frame(rng, part, first))
        else:
            frames.append(_frame(rng, json.dumps(mark).encode()))
    if rng.random() < 0.5:
        frames.append(_frame(rng, rng.choice((b"", b"\x03\xe8", b"\x0f\xa0bye")), CLOSE))
    return request(), frames


def mutate(rng: Random, frames: Sequence[bytes]) -> bytes:
    """Return the frames as one stream with one to four things done to it."""
    mutated = list(frames)
    for _ in range(rng.randint(1, 4)):
        index = rng.randrange(len(mutated))
        mutated[index] = rng.choice(_ONE)(rng, mutated[index])
        if rng.random() < 0.2:
            rng.shuffle(mutated)
        if rng.random() < 0.1:
            mutated.append(rng.choice(mutated) * rng.randint(1, 300))
    return b"".join(mutated)[:400_000]


def chunk(rng: Random, data: bytes) -> list[bytes]:
    """Cut a stream as networks may: whole, in pieces, or byte by byte at first."""
    kind = rng.random()
    if kind < 0.4 or len(data) < 2:
        return [data]
    if kind < 0.5:
        head = min(len(data), 60)
        return [data[n : n + 1] for n in range(head)] + [data[head:]]
    cuts = sorted(rng.randrange(len(data)) for _ in range(rng.randint(1, 12)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def _frame(rng: Random, payload: bytes, first: int = TEXT) -> bytes:
    return masked(payload, first, mask=rng.randbytes(4))


def _flip_bits(rng: Random, data: bytes) -> bytes:
    flipped = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        # Mostly in the head of the frame, where it matters.
        at = rng.randrange(min(len(data), 14) if rng.random() < 0.7 else len(data))
        flipped[at] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def _truncate(rng: Random, data: bytes) -> bytes:
    return data[: rng.randrange(1, len(data) + 1)]


def _splice(rng: Random, data: bytes) -> bytes:
    at, start = rng.randrange(len(data)), rng.randrange(len(data))
    return data[:at] + data[start : start + rng.randint(1, 200)] + data[at:]


def _drop(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randint(1, 8) :] or data


def _lie_about_length(rng: Random, data: bytes) -> bytes:
    size = rng.choice((0, 1, 125, 126, 127, 16_384, 16_385, 65_535, 65_536, 1 << 31, 1 << 63, (1 << 64) - 1))
    form = rng.choice((0, 2, 8))
    if form == 0:
        head = bytes((data[0], rng.choice((0x80, 0x00)) | min(size, 127)))
    else:
        width = {2: 126, 8: 127}[form]
        head = bytes((data[0], 0x80 | width)) + (size % (1 << 8 * form)).to_bytes(form, "big")
    return head + data[2:]


def _swap_opcode(rng: Random, data: bytes) -> bytes:
    return bytes((rng.choice(_OPCODES),)) + data[1:]


def _insert_noise(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    noise = bytes(rng.choice(_TELLING) for _ in range(rng.randint(1, 20)))
    return data[:at] + (noise if rng.random() < 0.5 else rng.randbytes(rng.randint(1, 2_000))) + data[at:]


def _unmask(rng: Random, data: bytes) -> bytes:
    return data[:1] + bytes((data[1] & 0x7F,)) + data[2:] if len(data) > 1 else data


_ONE: tuple[Callable[[Random, bytes], bytes], ...] = (
    _flip_bits,
    _truncate,
    _splice,
    _drop,
    _lie_about_length,
    _swap_opcode,
    _insert_noise,
    _unmask,
)
