"""Leaving a consumer group in a given time, whatever the group or the broker does meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from aiokafka.errors import KafkaError
from aiokafka.protocol.group import LeaveGroupRequest

from notifyd.log import get_logger

_log = get_logger()


async def stop_client(client: Any, *, limit_s: float) -> None:
    """Stop an `AIOKafkaConsumer` within about three times `limit_s`; its group knows at once.

    aiokafka's own `stop` waits for the answer to a JoinGroup, which comes when the slowest
    member has joined, and for a broker that hangs as long as a request may take.
    """
    stopping = asyncio.create_task(client.stop())
    if await _is_done(stopping, limit_s):
        return
    # A broker answers one request of a connection after the other: by another one, it hears us.
    coordinator = client._coordinator
    if coordinator.coordinator_id is not None and coordinator.member_id:
        leave = LeaveGroupRequest(coordinator.group_id, coordinator.member_id)
        with contextlib.suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(limit_s):
                await client._client.send(coordinator.coordinator_id, leave)
    if await _is_done(stopping, limit_s):
        return
    _log.warning("leave_cut", group=coordinator.group_id, detail="its session ends by timeout")
    await client._client.close()
    if not await _is_done(stopping, limit_s):
        stopping.cancel()


async def _is_done(task: asyncio.Task[None], limit_s: float) -> bool:
    done, _ = await asyncio.wait({task}, timeout=limit_s)
    if done and (error := task.exception()) is not None:
        _log.warning("leave_failed", error=repr(error))
    return bool(done)
