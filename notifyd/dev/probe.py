"""The smallest question that a Kafka broker answers, without a client library."""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from notifyd.dev.child import tail_of
from notifyd.errors import TransientError

_API_VERSIONS = 18
_CLIENT_ID = b"notifyd-dev"


def answers(host: str, port: int, *, timeout_s: float = 1.0) -> bool:
    """Tell whether a broker answers an ApiVersions request (version 0) on this address."""
    body = struct.pack(">hhih", _API_VERSIONS, 0, 1, len(_CLIENT_ID)) + _CLIENT_ID
    try:
        with socket.create_connection((host, port), timeout_s) as link:
            link.settimeout(timeout_s)
            link.sendall(struct.pack(">i", len(body)) + body)
            head = link.recv(10)
    except OSError:
        return False
    # size, the correlation id that we sent, error code
    return len(head) == 10 and struct.unpack(">iih", head)[1:] == (1, 0)


def wait_for_answer(
    process: subprocess.Popen[bytes],
    host: str,
    port: int,
    *,
    what: str,
    log_file: Path,
    timeout_s: float,
    is_ready: Callable[[str, int], bool] = answers,
) -> None:
    """Return when the broker answers.

    Raises `TransientError` with the end of its log when it ended or took too long.
    """
    deadline = time.monotonic() + timeout_s
    while not is_ready(host, port):
        code = process.poll()
        if code is not None or time.monotonic() > deadline:
            how = f"ended with code {code}" if code is not None else f"gave no answer for {timeout_s:g} s"
            raise TransientError(
                f"{what} on {host}:{port} {how}; the end of its log:\n{tail_of(log_file)}",
                reason="broker_unavailable",
                remedy=f"see {log_file}",
            )
        time.sleep(0.05)
