"""`notifyd forget` as it is run: it asks, counts, removes, and leaves a tombstone for the contacts."""

from __future__ import annotations

import json
from typing import Any

from notifyd.cli.output import run_async
from notifyd.stream.reading import read_topic
from notifyd.stream.topics import Topics
from tests.fixtures.service import Service


def _contacts(service: Service) -> list[tuple[bytes | None, bytes | None]]:
    async def read() -> list[tuple[bytes | None, bytes | None]]:
        topic = Topics.of(service.settings).contacts
        return [(record.key, record.value) async for record in read_topic(service.settings, topic)]

    return run_async(read())


def test_it_asks_first_and_forgets_rows_and_contacts_then(service: Service) -> None:
    service.roles("persist")
    sent = service.run("send", "--to", "alice", "--channel", "stub", "--title", "for your eyes", "--json")
    service.wait_for_state(json.loads(sent.stdout)["id"], "pending")

    def forget(*arguments: str, stdin: str = "") -> tuple[int, dict[str, Any]]:
        done = service.run("forget", "alice", "--json", *arguments, stdin=stdin)
        return done.returncode, json.loads(done.stdout) if done.stdout else {}

    code, told = forget("--dry-run")
    assert (code, told["dry_run"], told["before"]) == (0, True, [])
    assert (told["counts"]["inbox"], told["counts"]["deliveries"]) == (1, 1)
    assert forget(stdin="n\n") == (1, {})
    assert service.rows("SELECT count(*) FROM inbox") == [(1,)]
    assert _contacts(service) == []

    code, told = forget("--yes", "--actor", "ticket 7")
    assert (code, told["counts"]["inbox"], told["counts"]["contents"]) == (0, 1, 1)
    assert service.rows("SELECT user_id FROM inbox UNION SELECT user_id FROM user_state") == []
    assert sorted(_contacts(service)) == [(b"alice", None), (b"alice\0gone", None)]
    code, told = forget("--dry-run")
    assert not any(told["counts"].values())
    assert [(one["actor"], one["counts"]["inbox"]) for one in told["before"]] == [("ticket 7", 1)]
    shown = service.run("forget", "alice", "--dry-run")
    assert "forgotten before" in shown.stdout
    assert service.run("forget", "", "--yes").returncode == 2


def test_what_is_not_stored_yet_is_waited_for_or_told(service: Service) -> None:
    send = ("send", "--to", "alice", "--to", "bob", "--channel", "stub", "--title", "for both", "--json")
    sent = json.loads(service.run(*send).stdout)["id"]
    done = service.run("forget", "alice", "--yes", "--json", "--wait", "0")
    assert (done.returncode, json.loads(done.stdout)["behind"]) == (1, 1)
    assert "not stored yet" in done.stderr
    service.roles("persist")
    done = service.run("forget", "alice", "--yes", "--json")
    told = json.loads(done.stdout)
    # It is stored now, and under way to bob.
    assert (done.returncode, told["behind"], told["counts"]["inbox"], told["counts"]["later"]) == (1, 0, 1, 1)
    assert service.rows("SELECT user_id FROM inbox WHERE message_id = %s", sent) == [("bob",)]
