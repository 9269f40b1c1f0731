"""Whether anybody is at the other end of a socket, as the kernel knows it: no ping, no wait."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Final

#: So long after something was sent, a network that works has acknowledged it.
SILENT_AFTER_S: Final = 3.0

#: Of `struct tcp_info` (linux/tcp.h) two fields: segments sent and not acknowledged, and the
#: milliseconds since an acknowledgement came. They have kept their places since Linux 2.4.
_UNACKED_AT: Final = 24
_LAST_ACK_AT: Final = 56
_INFO_BYTES: Final = 60
_TCP_INFO: Final[int | None] = getattr(socket, "TCP_INFO", None)


def is_answering(transport: asyncio.Transport | None) -> bool:
    """Tell a peer whose network acknowledges what it is sent from one that has been silent for 3 s since.

    True where there is nothing to tell by: nothing was sent, no TCP, or another system than Linux.
    """
    raw = transport.get_extra_info("socket") if transport is not None else None
    if raw is None or _TCP_INFO is None:
        return True
    try:
        info = raw.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _INFO_BYTES)
    except OSError:
        return True
    if len(info) < _INFO_BYTES:
        return True
    (unacked,) = struct.unpack_from("=I", info, _UNACKED_AT)
    (last_ack_ms,) = struct.unpack_from("=I", info, _LAST_ACK_AT)
    return not unacked or last_ack_ms < SILENT_AFTER_S * 1000
