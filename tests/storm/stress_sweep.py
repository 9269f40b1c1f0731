"""How much one process of role `sweep` works off a second, of each kind of verdict; a part of `make stress`.

It takes no messages, so there is no rate to send at: deliveries past their deadline are put there first, and
then one process begins, without the limit that a deployment has for resends. `persist` runs beside it, for
nothing is judged before all events are stored.
"""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg2

from notifyd.producer import Confirmation, Notifier
from tests.fixtures.processes import NotifydProcess
from tests.storm.cluster import Cluster
from tests.storm.load import LoadMeter, cpu_s_of
from tests.storm.stress_report import Swept

#: Messages of each kind, as many as one look at metrics is much shorter than what they take.
_MESSAGES: Final = 10_000
_CHUNK: Final = 500
_LIMIT_S: Final = 300.0
_LOOK_S: Final = 0.1
#: Deliveries are due so soon after they are stored.
_DUE_S: Final = 2.0
_UNLIMITED: Final = {"NOTIFYD_SWEEP_RESENDS_PER_S": "1000000", "NOTIFYD_SWEEP_CHECK_AFTER_S": f"{_DUE_S:g}"}


@dataclass(frozen=True, slots=True)
class _Kind:
    """Messages of which each has one delivery of this verdict, and `others` of another one before it."""

    verdict: str
    message: dict[str, Any]
    others: int = 0


#: Nobody delivers here: what is to be delivered is put off, and who has no ws process is told so.
_KINDS: Final = (
    _Kind("later", {"channels": ["stub"]}),
    _Kind("stored", {"channels": ["ws"]}),
    _Kind("resent", {"channels": ["ws"], "fallback": {"after": "2s", "channels": ["stub"]}}, others=1),
)


async def measure_sweep(directory: Path) -> list[Swept]:
    """Measure each kind, on a broker and a database that hold nothing yet."""
    found = []
    for kind in _KINDS:
        async with Cluster(directory / kind.verdict, {"persist": 1}, _UNLIMITED) as cluster:
            found.append(await _measure(cluster, kind))
    return found


async def _measure(cluster: Cluster, kind: _Kind) -> Swept:
    cluster.roles["persist-0"].start()
    async with Notifier(cluster.settings, sender="stress") as notifier:
        for _ in range(_MESSAGES // _CHUNK):
            sent = await notifier.send_many(
                [{"to": ["user-0"], "title": "Hi", **kind.message} for _ in range(_CHUNK)]
            )
            if not all(isinstance(one, Confirmation) for one in sent):
                raise RuntimeError("the broker did not take all of it")
    due = f"SELECT count(*) = {_MESSAGES * (1 + kind.others)} AND max(next_check_at) < now() FROM delivery"
    await _until(lambda: _ask(cluster, due), "all deliveries to be due")
    sweep = cluster.add_role("sweep", "sweep-0").start()
    await _until(lambda: _count(sweep, kind) > 0, "the first verdict")
    load = LoadMeter(time.monotonic)
    metering = asyncio.create_task(load.run())
    before, first, began = cpu_s_of(sweep.pid), _count(sweep, kind), time.monotonic()
    most = 0.0
    while (count := _count(sweep, kind)) < _MESSAGES:
        if time.monotonic() - began > _LIMIT_S:
            raise TimeoutError(f"{count:.0f} of {_MESSAGES} {kind.verdict} after {_LIMIT_S:g} s")
        most = max(most, sweep.metric("process_resident_memory_bytes"))
        await asyncio.sleep(_LOOK_S)
    took_s, cpu_s = time.monotonic() - began, cpu_s_of(sweep.pid) - before
    metering.cancel()
    await asyncio.gather(metering, return_exceptions=True)
    done = (_MESSAGES - first) * (1 + kind.others)
    await asyncio.to_thread(sweep.sigterm, timeout_s=60.0)
    return Swept(
        verdict=kind.verdict,
        per_s=done / took_s,
        cpu=round(cpu_s / took_s, 2),
        memory_mib=round(most / 2**20),
        machine=load.over(0.0, math.inf),
    )


def _count(sweep: NotifydProcess, kind: _Kind) -> float:
    return sweep.metric("notifyd_sweep_verdicts_total", verdict=kind.verdict)


def _ask(cluster: Cluster, sql: str) -> bool:
    url = cluster.settings.database_url
    assert url is not None
    with closing(psycopg2.connect(url.get_secret_value())) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        [(answer,)] = cursor.fetchall()
    return bool(answer)


async def _until(look: Any, what: str) -> None:
    deadline = time.monotonic() + _LIMIT_S
    while not await asyncio.to_thread(look):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {_LIMIT_S:g} s in vain for {what}")
        await asyncio.sleep(_LOOK_S)
