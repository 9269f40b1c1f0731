"""Encrypted at rest, with real processes: the whole way, and a rotation while messages come."""

from __future__ import annotations

import json

from tests.fixtures.service import Service, frames_of
from tests.fixtures.waiting import wait_until


def _new_key(service: Service, key_id: str) -> str:
    made = service.run("keys", "new", "--id", key_id)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def _send(service: Service, title: str) -> str:
    sent = service.run("send", "--to", "alice", "--title", title, "--json")
    assert sent.returncode == 0, sent.stderr
    message_id: str = json.loads(sent.stdout)["id"]
    return message_id


def _keys_in_use(service: Service, keys: str) -> dict[str | None, int]:
    done = service.run("keys", "ls", "--json", NOTIFYD_CONTENT_KEYS=keys)
    return {
        one["key"]: one["messages"] for one in map(json.loads, done.stdout.splitlines()) if one["messages"]
    }


def test_messages_come_and_stay_readable_while_keys_are_rotated_and_persist_is_killed(
    service: Service,
) -> None:
    old, new = _new_key(service, "old"), _new_key(service, "new")
    persist, ws = service.roles("persist", "ws", NOTIFYD_CONTENT_KEYS=old)
    phone = service.listen("alice", ws)
    ids = [_send(service, f"for your eyes {number}") for number in range(3)]
    for message_id in ids:
        service.wait_for_state(message_id, "done", NOTIFYD_CONTENT_KEYS=old)
    assert len(frames_of(phone, "msg")) == 3
    assert service.rows("SELECT count(*) FROM message WHERE position('eyes'::bytea IN raw) > 0") == [(0,)]
    assert _keys_in_use(service, old) == {"old": 3}

    # A setting that cannot be read keeps `persist` from starting; what came meanwhile waits in Kafka.
    persist.kill()
    persist.env["NOTIFYD_CONTENT_KEYS"] = "new"
    persist.start()
    wait_until(lambda: persist.returncode == 2, what="persist to refuse the setting")
    assert "NOTIFYD_CONTENT_KEYS" in persist.log
    ids.append(_send(service, "for your eyes 3"))
    both = f"{new},{old}"
    persist.env["NOTIFYD_CONTENT_KEYS"] = both
    persist.start().wait_ready()
    service.wait_for_state(ids[-1], "done", NOTIFYD_CONTENT_KEYS=both)
    assert _keys_in_use(service, both) == {"old": 3, "new": 1}

    rotated = service.run("keys", "rotate", "--json", NOTIFYD_CONTENT_KEYS=both)
    assert (rotated.returncode, json.loads(rotated.stdout)["encrypted"]) == (0, 3)
    assert _keys_in_use(service, new) == {"new": 4}
    for number, message_id in enumerate(ids):
        trace = service.trace(message_id, NOTIFYD_CONTENT_KEYS=new)
        assert trace is not None
        assert trace["envelope"]["content"]["title"] == f"for your eyes {number}"
    assert not service.dead_letters()
