"""A database that was restored from a backup has all that Kafka still has, and counts it once."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from notifyd.dev import postgres_binaries
from tests.fixtures.manifests import K8S
from tests.fixtures.postgres import run_sql
from tests.fixtures.service import Service
from tests.fixtures.store import envelope
from tests.fixtures.waiting import wait_until

_PAGE = K8S.parent / "docs/how-to/back-up.md"


def _tool(name: str, *arguments: str) -> None:
    found = [folder / name for folder in postgres_binaries.installed() if (folder / name).exists()]
    done = subprocess.run([found[0], *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _send(service: Service, count: int) -> None:
    envelopes = b"\n".join(envelope() for _ in range(count))
    done = service.run("send", "-", stdin=envelopes)
    assert done.returncode == 0, done.stderr


def _stored(service: Service) -> int:
    return int(service.rows("SELECT count(*) FROM inbox")[0][0])


def test_what_came_after_the_backup_is_stored_again(service: Service, tmp_path: Path) -> None:
    url = service.env["NOTIFYD_DATABASE_URL"]
    (persist,) = service.roles("persist")
    _send(service, 20)
    wait_until(lambda: _stored(service) == 20, what="the first messages")
    _tool("pg_dump", "--format=custom", f"--file={tmp_path}/dump", url)
    _send(service, 30)
    wait_until(lambda: _stored(service) == 50, what="the others")
    # Its group has committed what the restored database has never seen.
    assert persist.sigterm() == 0
    server, name = url.rsplit("/", 1)
    run_sql(url, f"CREATE DATABASE {name}_restored")
    _tool("pg_restore", "--exit-on-error", f"--dbname={url}_restored", f"{tmp_path}/dump")
    (swap,) = re.findall(r"```sql\n(.*?)```", _PAGE.read_text(), re.DOTALL)
    run_sql(f"{server}/postgres", *re.sub(r"\bnotifyd", name, swap).strip().splitlines())
    run_sql(f"{server}/postgres", f"DROP DATABASE {name}_before")
    assert _stored(service) == 20
    service.role("persist", pod="persist-1").wait_ready()
    wait_until(lambda: _stored(service) == 50, what="what only Kafka had")
    verified = service.run("inbox", "verify")
    assert verified.returncode == 0, verified.stdout
