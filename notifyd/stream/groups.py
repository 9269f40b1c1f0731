"""The consumer groups of processes that read in a group of their own (`ws`): made, found again, deleted.

Such a group holds nothing, for its process commits nothing: to delete an empty one costs nobody
anything, not even a process that comes back to it. Kafka tells no age of a group, so the name carries
it: its id is of version 7, which begins with the time.

aiokafka's admin has no call to delete groups, so its request is sent as it is: `find_coordinator`,
`_send_request_to_node` and `DeleteGroupsRequest` are held by a test.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import aiokafka.errors as kafka
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import DeleteGroupsRequest

from notifyd.log import get_logger
from notifyd.message.ids import is_time_ordered, is_uuid, new_id, time_of
from notifyd.settings import Settings
from notifyd.stream.clients import kafka_options
from notifyd.stream.topics import admin_client

#: The end of a name as it was before names carried their time.
_UNDATED: Final = re.compile(r"[0-9a-f]{12}", re.ASCII)
#: Groups that are asked about or deleted together.
_BATCH: Final = 100

_log = get_logger()


@dataclass(frozen=True, slots=True)
class OwnGroup:
    """A group of one process: whether anybody is in it, and when its process began (ms since 1970)."""

    name: str
    is_empty: bool
    began_ms: int | None


def new_group(base: str) -> str:
    """Name the group of a process that begins now, for a role whose groups all start with `base`."""
    return f"{base}-{new_id()}"


def is_own(name: str, base: str) -> bool:
    """Whether this is a name that `new_group` gives, or gave."""
    end = name.removeprefix(f"{base}-")
    return end != name and bool(is_uuid(end) or _UNDATED.fullmatch(end))


def began_ms(name: str) -> int | None:
    """Read when the process of a group began; None for a name that does not tell."""
    end = name[-36:]
    return time_of(end) if is_uuid(end) and is_time_ordered(end.lower()) else None


def orphans_of(groups: Iterable[OwnGroup], *, now_ms: int, older_than_s: float) -> list[OwnGroup]:
    """Choose those that nobody is in and whose process began longer ago than that, or did not tell."""
    limit_ms = now_ms - older_than_s * 1000
    return [one for one in groups if one.is_empty and (one.began_ms is None or one.began_ms <= limit_ms)]


async def find_groups(settings: Settings, base: str) -> list[OwnGroup]:
    """List the groups that start with `base`, oldest first; raises as `admin_client`."""
    async with admin_client(settings) as admin:
        listed = await admin.list_consumer_groups()
        names = sorted({name for name, _ in listed if is_own(name, base)})
        found = []
        for batch in _batches(names):
            # One a request: aiokafka reads version 3 of the answer as version 2, which goes well for one.
            for [answer] in await asyncio.gather(*(admin.describe_consumer_groups([n]) for n in batch)):
                found += [
                    OwnGroup(one["group"], one["state"] == "Empty", began_ms(one["group"]))
                    for one in answer.to_object()["groups"]
                    # One that has gone meanwhile is dead.
                    if not one["error_code"] and one["state"] != "Dead"
                ]
    return sorted(found, key=lambda one: (one.began_ms or 0, one.name))


async def clear_groups(settings: Settings, names: Sequence[str]) -> list[str]:
    """Delete groups that nobody is in; return those that went. Raises as `admin_client`.

    The broker itself keeps one that somebody has joined meanwhile.
    """
    if not names:
        return []
    async with admin_client(settings) as admin:
        by_node: dict[int, list[str]] = defaultdict(list)
        for name in names:
            by_node[await admin.find_coordinator(name)].append(name)
        gone = []
        for node, here in by_node.items():
            for batch in _batches(here):
                gone += [name for name, code in await _delete(admin, node, batch) if not code]
    return sorted(gone)


async def clear_orphans(settings: Settings, base: str, *, older_than_s: float) -> list[str]:
    """Delete those that start with `base`, nobody is in, and whose process began before; return them."""
    found = await find_groups(settings, base)
    orphans = orphans_of(found, now_ms=int(time.time() * 1000), older_than_s=older_than_s)
    return await clear_groups(settings, [one.name for one in orphans])


async def delete_group(settings: Settings, group: str, *, limit_s: float) -> bool:
    """Delete a group that nobody is a member of, within `limit_s`; false where it stays.

    One that stays does no harm: it is empty, and `clear_groups` finds it.
    """
    admin = AIOKafkaAdminClient(**kafka_options(settings))
    try:
        async with asyncio.timeout(limit_s):
            await admin.start()
            [(_, code)] = await _delete(admin, await admin.find_coordinator(group), [group])
        error: Exception | None = kafka.for_code(code)() if code else None
    except (kafka.KafkaError, TimeoutError, OSError) as found:
        error = found
    finally:
        await admin.close()
    if error is not None:
        _log.info("group_stays", group=group, error=repr(error))
    return error is None


async def _delete(admin: AIOKafkaAdminClient, node: int, groups: Sequence[str]) -> list[tuple[str, int]]:
    answer = await admin._send_request_to_node(node, DeleteGroupsRequest(list(groups)))
    return [(name, code) for name, code in answer.results]


def _batches(names: Sequence[str]) -> Iterable[list[str]]:
    return (list(names[at : at + _BATCH]) for at in range(0, len(names), _BATCH))
