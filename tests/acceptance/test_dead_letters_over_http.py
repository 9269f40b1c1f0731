"""A replay asked for by HTTP, whose process is killed, or told to stop, in the middle of it."""

from __future__ import annotations

import http.client
import json
import signal
import urllib.error
import urllib.request
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.fixtures.processes import NotifydProcess
from tests.fixtures.service import Service
from tests.fixtures.waiting import wait_until
from tests.integration.test_dlq_work import bury, resent

COUNT = 1500


def replay(service: Service, api: NotifydProcess, token: str, **order: Any) -> dict[str, Any]:
    """Ask for a replay; return the answer."""
    request = urllib.request.Request(
        f"{api.http_url}/v1/dlq/replay",
        data=json.dumps({"filter": {"sender": "orders"}, "limit": 10_000, **order}).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.loads(answer.read())
        return found


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "stop"])
def test_who_asks_again_has_each_done_and_few_twice(service: Service, ending: signal.Signals) -> None:
    ids = bury(service, COUNT)
    token = service.run("token", "olga", "--scope", "notify:ops").stdout.strip()
    [first] = service.roles("api")
    with ThreadPoolExecutor() as pool:
        asked: Future[dict[str, Any]] = pool.submit(replay, service, first, token, rate=300)
        wait_until(
            lambda: service.rows("SELECT count(*) FROM dlq_audit")[0][0] >= 400,
            timeout_s=60,
            what="some to be replayed",
            every_s=0.05,
        )
        first.signal(ending)
        after: dict[str, str] = {}
        if ending is signal.SIGKILL:
            with pytest.raises((urllib.error.URLError, http.client.HTTPException, ConnectionError)):
                asked.result(timeout=60)
        else:
            # It says how far it came, at once rather than when all is done.
            told = asked.result(timeout=60)
            assert 400 <= told["done"] < COUNT
            assert service.rows("SELECT count(*) FROM dlq_audit") == [(told["done"],)]
            after = {"after": told["next"]}
            assert first.wait() == 0
    second = service.role("api", pod="api-1").wait_ready()
    told = replay(service, second, token, rate=5000, **after)
    assert told["next"] is None
    assert service.rows("SELECT count(DISTINCT message_id) FROM dlq_audit WHERE actor = 'olga'") == [(COUNT,)]
    counts = resent(service)
    assert set(counts) == set(ids)
    assert sum(counts.values()) - COUNT <= (200 if ending is signal.SIGKILL else 0)
