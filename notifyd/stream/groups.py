"""Deleting the consumer group of a process that reads in a group of its own, when it leaves.

aiokafka's admin has no call for it, so its request is sent as it is: `find_coordinator`,
`_send_request_to_node` and `DeleteGroupsRequest` are held by a test.
"""

from __future__ import annotations

import asyncio

import aiokafka.errors as kafka
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import DeleteGroupsRequest

from notifyd.log import get_logger
from notifyd.settings import Settings
from notifyd.stream.clients import kafka_options

_log = get_logger()


async def delete_group(settings: Settings, group: str, *, limit_s: float) -> bool:
    """Delete a group that nobody is a member of, within `limit_s`; false where it stays.

    One that stays does no harm: it is empty, and the broker lets go of it in time.
    """
    admin = AIOKafkaAdminClient(**kafka_options(settings))
    try:
        async with asyncio.timeout(limit_s):
            await admin.start()
            node = await admin.find_coordinator(group)
            answer = await admin._send_request_to_node(node, DeleteGroupsRequest([group]))
        [(_, code)] = answer.results
        error: Exception | None = kafka.for_code(code)() if code else None
    except (kafka.KafkaError, TimeoutError, OSError) as found:
        error = found
    finally:
        await admin.close()
    if error is not None:
        _log.info("group_stays", group=group, error=repr(error))
    return error is None
