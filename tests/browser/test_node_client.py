"""The JavaScript client in Node, against a real `ws` process that is killed under it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from notifyd.push.auth import issue_token
from tests.browser.conftest import Site
from tests.browser.test_js_client import SERVED
from tests.fixtures.waiting import wait_until


class Listener:
    """`listen.mjs` as a process; what it printed are its `entries`."""

    def __init__(self, node: str, folder: Path, site: Site, user: str, transport: str) -> None:
        self._output = folder / "listen.out"
        flags = ["--experimental-websocket"] if transport == "websocket" else []
        script = Path(__file__).with_name("listen.mjs")
        token = issue_token(site.service.settings, user, ttl_s=600.0)
        url = f"{site.url}/v1/push"
        command = [node, *flags, "--no-warnings", str(script), str(SERVED), url, token, transport]
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    @property
    def entries(self) -> list[dict[str, Any]]:
        text = self._output.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    @property
    def titles(self) -> list[str]:
        return [entry["title"] for entry in self.entries if "title" in entry]

    def wait_open(self) -> None:
        wait_until(lambda: {"state": "open"} in self.entries, what=f"Node to be welcomed: {self.entries}")

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@pytest.mark.parametrize("transport", ["websocket", "sse"])
def test_a_program_in_node_gets_every_message_once_over_kills(
    node: str, site: Site, user: str, tmp_path: Path, transport: str
) -> None:
    listener = Listener(node, tmp_path, site, user, transport)
    try:
        listener.wait_open()
        titles = [f"before {n}" for n in range(50)]
        ids = site.send(user, *titles)
        wait_until(lambda: len(listener.titles) >= 50, what="the first messages")
        for round_ in range(2):
            site.process.kill()
            more = [f"{round_} away {n}" for n in range(50)]
            ids += site.send(user, *more)
            titles += more
            site.process.start().wait_ready()
            count = len(titles)
            wait_until(lambda count=count: len(listener.titles) >= count, what="what came meanwhile")  # type: ignore[misc]
        assert sorted(listener.titles) == sorted(titles)
        assert {"gap": True} not in listener.entries
        site.service.roles("persist")
        for message_id in (ids[0], ids[-1]):
            trace = site.service.wait_for_state(message_id, "done")
            assert trace["deliveries"][0]["state"] == "acked"
    finally:
        listener.end()
    assert listener.process.returncode == 0
    assert listener.entries[-2:] == [{"unconfirmed": 0}, {"state": "closed"}]
