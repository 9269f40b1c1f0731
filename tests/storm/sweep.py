"""`deliver` away for minutes while messages come: no storm of resends, and each outcome made good.

    python -m tests.storm.sweep                          # ten thousand messages, five minutes away
    python -m tests.storm.sweep --messages 2000 --away 60

Broker, database and roles are its own, with the default settings: a delivery is looked after once
nobody spoke of it for a minute. One outcome in a hundred is thrown away, so that there is something to
resend, and `deliver` is killed rather than ended. Exit code 0 where nothing healthy was resent, no more
a second than NOTIFYD_SWEEP_RESENDS_PER_S allows, and every delivery came to its end.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from notifyd.dev.kafka import LocalKafka
from notifyd.message.ids import time_of
from tests.fixtures.kafka import settings_for
from tests.fixtures.load import Load
from tests.fixtures.lossy.loss import is_hopeless, is_lost
from tests.fixtures.postgres import new_server
from tests.fixtures.processes import ProcessStarter
from tests.fixtures.service import Service, with_database
from tests.fixtures.waiting import wait_until

_LOSSY: Final = str(Path(__file__).resolve().parents[1] / "fixtures" / "lossy")
#: Before `deliver` goes and after it is back, messages come for so long.
_EDGE_S: Final = 30.0
#: The longest way to an end: a deadline of a minute for each of four runs, and the looks between.
_END_S: Final = 600.0
_MORE: Final = 1.2


@dataclass(frozen=True, slots=True)
class Report:
    """What was seen. `resends` are those of each second in which there was one."""

    messages: int
    lost: int
    hopeless: int
    away_s: float
    waited: int
    caught_up_s: float
    states: dict[str, int]
    resends: dict[int, int]
    healthy_resent: int
    over_cap: int
    per_s: float

    @property
    def is_good(self) -> bool:
        """Whether all was as it must be."""
        states = {"sent": self.messages - self.hopeless, "dead": self.hopeless}
        # A run is named some milliseconds after its turn was taken.
        is_slow = max(self.resends.values(), default=0) <= self.per_s * _MORE
        is_ended = self.states == {state: count for state, count in states.items() if count}
        return is_ended and is_slow and not self.healthy_resent and not self.over_cap

    def __str__(self) -> str:
        most = max(self.resends.values(), default=0)
        return "\n".join(
            [
                f"{self.messages} messages; deliver was away for {self.away_s:.0f} s,"
                f" and {self.waited} deliveries waited for it at its end",
                f"caught up {self.caught_up_s:.1f} s after it was back; states {self.states}",
                f"outcomes thrown away: {self.lost} first ones, and all of {self.hopeless} messages",
                f"resends: {sum(self.resends.values())}, at most {most} in a second (allowed {self.per_s:g});"
                f" of healthy deliveries {self.healthy_resent}; above the cap {self.over_cap}",
                "good" if self.is_good else "NOT GOOD",
            ]
        )


def raise_storm(service: Service, messages: int, away_s: float) -> Report:
    """Send all the while, kill `deliver`, start it again after `away_s`, and wait for every end."""
    sweepers = [service.role("sweep", pod=f"sweep-{number}") for number in range(2)]
    deliver = service.role("deliver", PYTHONPATH=_LOSSY)
    for role in [*sweepers, deliver, *service.roles("persist")]:
        role.wait_ready()
    per_s = messages / (away_s + 2 * _EDGE_S)
    with Load(service.settings, count=messages, per_s=per_s, channels=["stub"]) as load:
        time.sleep(_EDGE_S)
        deliver.kill()
        print(f"deliver is away for {away_s:.0f} s, {per_s:.0f} messages/s come ...", flush=True)
        time.sleep(away_s)
        [(waited,)] = service.rows("SELECT count(*) FROM delivery WHERE state = 'pending'")
        deliver.start()
        back = time.monotonic()
        waiting = (
            "SELECT count(*) FROM delivery"
            " WHERE run = '' AND state = 'pending' AND message_id = ANY(%s::uuid[])"
        )
        first = [one for one in list(load.confirmed) if not is_lost(one, "")]
        wait_until(
            lambda: service.rows(waiting, first) == [(0,)], timeout_s=_END_S, every_s=0.2, what="catching up"
        )
        caught_up_s = time.monotonic() - back
        ids = load.wait(timeout_s=_END_S)
    open_ = "SELECT count(*) FROM delivery WHERE NOT is_final"
    total = "SELECT count(*) FROM delivery"
    wait_until(
        lambda: (service.rows(total), service.rows(open_)) == ([(len(ids),)], [(0,)]),
        timeout_s=_END_S,
        every_s=1,
        what="every end",
    )
    resent = service.rows("SELECT message_id::text, resends FROM delivery WHERE resends > 0 OR run <> ''")
    runs = service.rows("SELECT run FROM message_event WHERE reason = 'resent'")
    return Report(
        messages=len(ids),
        lost=sum(is_lost(one, "") for one in ids),
        hopeless=sum(is_hopeless(one) for one in ids),
        away_s=away_s,
        waited=waited,
        caught_up_s=caught_up_s,
        states=dict(service.rows("SELECT state, count(*) FROM delivery GROUP BY 1")),
        resends=dict(Counter(time_of(run) // 1000 for (run,) in runs)),
        healthy_resent=sum(not is_lost(message_id, "") for message_id, _ in resent),
        over_cap=sum(resends > service.settings.sweep_max_resends for _, resends in resent),
        per_s=service.settings.sweep_resends_per_s,
    )


def main() -> int:
    """Run it and print what was seen."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--away", type=float, default=300.0, help="seconds without deliver")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="notifyd-sweep-") as folder, new_server(fsync="off") as server:
        kafka = LocalKafka(Path(folder) / "kafka")
        starter = ProcessStarter(Path(folder))
        try:
            settings = settings_for(kafka.start(), is_embedded=False, topic_prefix="storm.")
            service = Service(starter, with_database(settings, server.url), Path(folder)).set_up()
            report = raise_storm(service, given.messages, given.away)
        finally:
            starter.close()
            kafka.stop()
    print(report)
    return 0 if report.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
