"""The faults that alerts are fired by, each made in real processes and mended again."""

from __future__ import annotations

import asyncio
import resource
import shutil
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import psycopg2

import notifyd
from notifyd.client import PushClient
from notifyd.dev.child import free_port
from notifyd.message.ids import new_id
from notifyd.producer import Notifier
from notifyd.push.auth import issue_token
from tests.fixtures.lossy.loss import is_hopeless
from tests.storm.alert_trial import Trial, beside, tell

#: Push connections that there is room for.
CONNECTIONS: Final = 10
_FIXTURES: Final = Path(__file__).resolve().parents[1] / "fixtures"
#: Users who missed so many messages each: more pushes than events are kept for while the broker is away.
_ABSENT: Final = 52
_MISSED: Final = 2_000


async def listen(trial: Trial, number: int) -> None:
    """Be connected as a user until cancelled."""
    user = f"user-{number}"
    token = issue_token(trial.cluster.settings, user, [], 3600)
    async with PushClient(trial.cluster.push_urls[0], token) as client:
        async for _ in client:
            pass


async def _calm(trial: Trial) -> None:
    await asyncio.sleep(20)
    # The windows of the budgets are not filled yet, but nothing else may be on.
    if trial.prometheus.now:
        trial.problems.append(f"these fire without a fault: {', '.join(sorted(trial.prometheus.now))}")
    tell(f"calm: {', '.join(sorted(trial.prometheus.now)) or 'nothing fires'}")


async def _stalls(trial: Trial) -> None:
    ws = trial.cluster.roles["ws-0"]
    async with trial.fault("ws stands still for 2.5 s", "NotifydEventLoopStalls"):
        ws.signal(signal.SIGSTOP)
        await asyncio.sleep(2.5)
        ws.signal(signal.SIGCONT)


async def _few_descriptors(trial: Trial) -> None:
    pid = trial.cluster.roles["deliver-0"].pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    async with trial.fault("deliver may open hardly more than it has", "NotifydDescriptorsShort"):
        count = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (count + 4, before[1]))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


async def _full(trial: Trial) -> None:
    devices = (listen(trial, number) for number in range(1, CONNECTIONS))
    what = f"all {CONNECTIONS} connections are taken"
    async with beside(*devices), trial.fault(what, "NotifydPushFull"):
        pass


async def _slow_reader(trial: Trial) -> None:
    token = issue_token(trial.cluster.settings, "slow", [], 3600)
    async with trial.session.ws_connect(trial.cluster.push_urls[0], protocols=["notifyd.v1"]) as socket:
        await socket.send_json({"op": "hello", "token": token})
        await socket.receive_json()
        transport = socket._response.connection.transport
        async with trial.fault("a client stops reading, and much is for it", "NotifydReadersSlow"):
            transport.pause_reading()
            async with Notifier(trial.cluster.settings, sender="shop") as notifier:
                for _ in range(60):
                    await notifier.send(to=["slow"], title="Hi", body="x" * 200_000)
        transport.abort()


async def _refusals(trial: Trial) -> None:
    wanted = ("NotifydSenderPaused(webhook)", "NotifydDeadLetters(http_400)")
    async with trial.fault("a receiver refuses 200 webhooks of a sender", *wanted):
        await trial.send("crm", trial.receiver.script("/refused", 400), 200)


async def _host_down(trial: Trial) -> None:
    wanted = ("NotifydDestinationsDown(webhook)", "NotifydUndeliveredForLong")
    # Another name than the one that receives: a host counts by its name.
    async with trial.fault("nobody listens at a host for long", *wanted, limit_s=200):
        await trial.send("billing", f"http://localhost:{free_port()}/", 30)


async def _database_away(trial: Trial) -> None:
    pid = trial.cluster.postgres.pid
    assert pid is not None
    wanted = ("NotifydDatabaseUnreachable", "NotifydLagging(persist)", "NotifydSweepLeaderless",
              "NotifydNotReady(persist)")  # fmt: skip
    async with trial.fault("the database is gone", *wanted):
        await trial.cluster.in_thread(trial.cluster.postgres.stop)
    budgets = ("NotifydBudgetBurnsFast(ingest_to_stored)", "NotifydBudgetBurnsSlowly(ingest_to_stored)")
    async with trial.fault("what was late because of it is stored", *budgets):
        await trial.cluster.in_thread(trial.cluster.postgres.start)
    await trial.all_ready()


async def _locked(trial: Trial) -> None:
    url = trial.cluster.settings.database_url
    assert url is not None
    with psycopg2.connect(url.get_secret_value()) as connection, connection.cursor() as cursor:
        async with trial.fault("somebody locks a table again and again", "NotifydPoolExhausted"):
            for _ in range(10):
                # For less than a statement waits for a lock: so they are slow, and do not fail.
                await asyncio.to_thread(cursor.execute, "LOCK TABLE message IN ACCESS EXCLUSIVE MODE")
                await asyncio.sleep(6)
                connection.rollback()
    await trial.all_ready()


async def _no_persist(trial: Trial) -> None:
    await trial.quiet("NotifydSweepBlind", "NotifydRoleMissing")
    persist = trial.cluster.roles["persist-0"]
    async with trial.fault("persist is killed", "NotifydRoleMissing(persist)", "NotifydSweepBlind"):
        persist.kill()
    persist.start()
    await trial.all_ready()


async def _broker_hangs(trial: Trial) -> None:
    wanted = ("NotifydCannotProduce", "NotifydApiFails", "NotifydCommitsFail")
    async with beside(trial.post()), trial.fault("the broker hangs", *wanted):
        trial.cluster.kafka.pause()
    trial.cluster.kafka.resume()
    await trial.all_ready()


async def _coming_back(trial: Trial) -> None:
    users = [f"absent-{number}" for number in range(_ABSENT)]
    cursor = await _catch_up(trial, users[0], None)
    async with Notifier(trial.cluster.settings, sender="shop") as notifier:
        await notifier.send_many({"to": users, "title": "Hi"} for _ in range(_MISSED))
    await _catch_up(trial, users[0], cursor)
    what = f"{_ABSENT - 1} clients catch up with {_MISSED} messages each while the broker hangs"
    async with trial.fault(what, "NotifydEventsDropped(buffer_full)"):
        trial.cluster.kafka.pause()
        for user in users[1:]:
            await _catch_up(trial, user, cursor)
    trial.cluster.kafka.resume()
    await trial.all_ready()


async def _catch_up(trial: Trial, user: str, cursor: str | None) -> str:
    """Connect, be sent all that came since, and leave without a word; return the place that was reached."""
    hello = {"op": "hello", "token": issue_token(trial.cluster.settings, user, [], 3600), "cursor": cursor}
    url = trial.cluster.push_urls[0]
    async with asyncio.timeout(30), trial.session.ws_connect(url, protocols=["notifyd.v1"]) as socket:
        await socket.send_json({name: value for name, value in hello.items() if value is not None})
        while True:
            found = await socket.receive_json()
            for frame in found if isinstance(found, list) else [found]:
                if frame["op"] == "welcome" and frame["missing"] is None:
                    return str(frame["cursor"])


async def _flapping(trial: Trial) -> None:
    cluster = trial.cluster
    process = cluster.add_role("deliver", "deliver-1")
    # As Kubernetes would have it: what restarts is scraped too, and counts as a member while it is there.
    trial.prometheus.aim(cluster.admin_ports)

    async def flap() -> None:
        while True:
            process.start()
            await asyncio.to_thread(process.wait_ready)
            await asyncio.to_thread(process.sigterm)

    flaps = asyncio.create_task(flap())
    try:
        what = "a member of a group comes and goes all the time"
        async with trial.fault(what, "NotifydRebalancesOften(deliver)", limit_s=150):
            pass
    finally:
        flaps.cancel()
        await asyncio.gather(flaps, return_exceptions=True)
        await asyncio.to_thread(process.close)
        del cluster.roles["deliver-1"], cluster.admin_ports["deliver-1"]
        trial.prometheus.aim(cluster.admin_ports)
    await trial.all_ready()


async def _half_deployed(trial: Trial) -> None:
    folder = trial.cluster.directory / "next"
    package = Path(notifyd.__file__).parent
    shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    version = folder / package.name / "version.py"
    version.write_text(version.read_text().replace(f'"{notifyd.__version__}"', '"99.0.0"'))
    what = "one process runs another version, and the deploy does not go on"
    async with (
        trial.otherwise(["api-0"], {"PYTHONPATH": str(folder)}),
        trial.fault(what, "NotifydVersionsMixed", limit_s=330),
    ):
        pass


async def _bad_channel(trial: Trial) -> None:
    env = {"PYTHONPATH": str(_FIXTURES / "raising")}
    async with trial.otherwise(["deliver-0"], env):
        what = "a channel of another package raises"
        async with (
            trial.fault(what, "NotifydHandlerFails(deliver)"),
            Notifier(trial.cluster.settings) as notifier,
        ):
            await notifier.send(to=["bob"], title="Hi", channels=["raising"])


async def _lost_outcomes(trial: Trial) -> None:
    quick = {"NOTIFYD_SWEEP_CHECK_AFTER_S": "3", "PYTHONPATH": str(_FIXTURES / "lossy")}
    message_id = next(one for one in iter(new_id, None) if is_hopeless(one))
    async with trial.otherwise(["deliver-0", "persist-0", "sweep-0"], quick):
        what = "every outcome of a message is lost"
        async with (
            trial.fault(what, "NotifydGivenUp(no_outcome)"),
            Notifier(trial.cluster.settings) as notifier,
        ):
            await notifier.send(id=message_id, to=["bob"], title="Hi", channels=["stub"])


#: In the order in which they are made.
FAULTS: Final[dict[str, Callable[[Trial], Awaitable[None]]]] = {
    "calm": _calm,
    "stalls": _stalls,
    "descriptors": _few_descriptors,
    "full": _full,
    "slow": _slow_reader,
    "refusals": _refusals,
    "host": _host_down,
    "database": _database_away,
    "locked": _locked,
    "persist": _no_persist,
    "broker": _broker_hangs,
    "deploy": _half_deployed,
    "channel": _bad_channel,
    "outcomes": _lost_outcomes,
    "flapping": _flapping,
    "absent": _coming_back,
}
