"""Taking the place of an earlier process of the same name in a consumer group.

A process that was killed cannot leave its group. Until its session ends the group waits for it,
at every rebalance anew, and reads nothing meanwhile; kills that follow each other keep it from
reading at all. A process that comes back under the name of the killed one knows better, and
says so to the group. aiokafka's admin has no call for it: `find_coordinator`,
`_send_request_to_node`, `DescribeGroupsRequest` and `LeaveGroupRequest` are held by a test.
"""

from __future__ import annotations

import asyncio
from typing import Final

import aiokafka.errors as kafka
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import DescribeGroupsRequest
from aiokafka.protocol.group import LeaveGroupRequest

from notifyd.log import get_logger
from notifyd.settings import Settings
from notifyd.stream.clients import kafka_options

_log = get_logger()

#: Without it the group waits for the session's end, as it would have; no reason to come late for.
_LIMIT_S: Final = 3.0


async def take_place(settings: Settings, group: str, client_id: str) -> int:
    """Have members of `group` with this client id leave it; return how many there were.

    To be called before joining. Never raises what Kafka does: then all is as without it.
    """
    admin = AIOKafkaAdminClient(**kafka_options(settings))
    left = 0
    try:
        async with asyncio.timeout(_LIMIT_S):
            await admin.start()
            node = await admin.find_coordinator(group)
            told = await admin._send_request_to_node(node, DescribeGroupsRequest([group]))
            for row in told.groups:
                code, members = row[0], row[5]
                if code:
                    raise kafka.for_code(code)
                for member_id, other_client_id, *_ in members:
                    if other_client_id == client_id:
                        await admin._send_request_to_node(node, LeaveGroupRequest(group, member_id))
                        left += 1
    except Exception as error:  # an old broker's answer, too, may not keep a role from starting
        _log.info("predecessor_not_looked_for", group=group, error=repr(error))
    finally:
        await admin.close()
    if left:
        _log.info("predecessor_replaced", group=group, members=left)
    return left
