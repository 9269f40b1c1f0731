"""Lost outcomes over two sweepers, one of which is killed; and a `deliver` that was away: no storm.

`SWEEP_DELIVERIES` makes it larger.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fixtures.load import Load
from tests.fixtures.lossy.loss import is_hopeless, is_lost
from tests.fixtures.processes import NotifydProcess
from tests.fixtures.service import Service
from tests.fixtures.waiting import wait_until

DELIVERIES = int(os.environ.get("SWEEP_DELIVERIES", "3000"))
LOSSY = str(Path(__file__).resolve().parents[1] / "fixtures" / "lossy")
#: Resends of a delivery, of all settings the default.
CAP = 3

pytestmark = pytest.mark.timeout(600)


def _leader(sweepers: list[NotifydProcess]) -> NotifydProcess:
    def leading() -> list[NotifydProcess]:
        return [one for one in sweepers if one.is_running and one.metric("notifyd_sweep_leader") == 1]

    wait_until(lambda: len(leading()) == 1, what="one sweeper to lead")
    return leading()[0]


def _states(service: Service) -> dict[str, int]:
    return dict(service.rows("SELECT state, count(*) FROM delivery GROUP BY 1"))


def test_each_lost_outcome_is_made_good_though_the_leader_is_killed(service: Service) -> None:
    quick = {
        "NOTIFYD_SWEEP_CHECK_AFTER_S": "3",
        "NOTIFYD_SWEEP_EVERY_S": "0.2",
        "NOTIFYD_SWEEP_RESENDS_PER_S": "20",
    }
    service.roles("persist", **quick)
    service.roles("deliver", PYTHONPATH=LOSSY)
    sweepers = [service.role("sweep", pod=f"sweep-{number}", **quick).wait_ready() for number in range(2)]
    first = _leader(sweepers)
    with Load(service.settings, count=DELIVERIES, per_s=500, channels=["stub"]) as load:
        resent = "SELECT count(*) FROM delivery WHERE resends > 0 OR resend_run IS NOT NULL"
        wait_until(lambda: service.rows(resent) != [(0,)], what="the first resend", timeout_s=120)
        first.kill()
        assert _leader(sweepers) is not first
        ids = load.wait(timeout_s=300)
    lost = {one for one in ids if is_lost(one, "")}
    dead = {one for one in ids if is_hopeless(one)}
    assert lost, "nothing was thrown away"
    wanted = {"sent": len(ids) - len(dead), "dead": len(dead)}
    wait_until(
        lambda: _states(service) == {state: count for state, count in wanted.items() if count},
        what=f"{wanted}",
        timeout_s=240,
        every_s=0.5,
    )
    # What was healthy was left alone, and of the rest each lost run, and nothing else, made another one.
    # One whose outcome came before the new leader had counted it keeps the note of its run.
    rows = service.rows(
        "SELECT message_id::text, resends + (resend_run IS NOT NULL)::int, run"
        "  FROM delivery WHERE resends > 0 OR resend_run IS NOT NULL OR run <> ''"
    )
    assert {message_id for message_id, _, _ in rows} == lost
    told = service.rows("SELECT message_id::text, run FROM message_event WHERE reason = 'resent'")
    assert len(told) == len(set(told))
    for message_id, resends, last in rows:
        assert 1 <= resends <= CAP
        # A kill between the broker's word and ours is made up for under the same run: it counts once. The
        # event of it may be missing, the outcome's is not.
        before = {run for one, run in told if one == message_id} - {last}
        assert len(before) < resends
        assert all(is_lost(message_id, run) for run in before)
        assert (resends == CAP) if message_id in dead else not is_lost(message_id, last)
    reasons = service.rows("SELECT DISTINCT reason FROM delivery WHERE state = 'dead'")
    assert reasons == ([("no_outcome",)] if dead else [])


def test_a_deliver_that_was_away_causes_no_resends(service: Service) -> None:
    quick = {"NOTIFYD_SWEEP_CHECK_AFTER_S": "1", "NOTIFYD_SWEEP_EVERY_S": "0.2"}
    service.roles("persist", **quick)
    [sweep] = service.roles("sweep", **quick)
    with Load(service.settings, count=DELIVERIES, per_s=1000, channels=["stub"]) as load:
        ids = load.wait(timeout_s=300)
    # Each was looked at past its deadline, and put off.
    late = "SELECT count(*) FROM delivery WHERE next_check_at > at + interval '5 s'"
    wait_until(lambda: service.rows(late) == [(len(ids),)], what="the sweep to look at all", timeout_s=120)
    assert sweep.metric("notifyd_sweep_verdicts_total", verdict="later", reason="messages") >= len(ids)
    service.roles("deliver")
    wait_until(
        lambda: _states(service) == {"sent": len(ids)}, what="every outcome", timeout_s=180, every_s=0.5
    )
    assert service.rows("SELECT count(*) FROM delivery WHERE resends > 0 OR run <> ''") == [(0,)]
    assert sweep.metric("notifyd_sweep_verdicts_total", verdict="resent", reason="") == 0
